"""What was promised while something is broken, and how it is told from what happened."""

import grpc

from benchmarks.soak import figures
from benchmarks.soak.books import files_of
from benchmarks.soak.fault import Observed, Promise
from benchmarks.soak.figures import Figure
from benchmarks.soak.ledger import REWARDS, ROUTES
from benchmarks.soak.stage import wait_until

#: Reward waits a second for its commit, then syncs the spool; the rest is for a machine that is busy.
_REWARD_S = 1.2
#: Two workers that each try Postgres by probes, three refreshing tasks, a sticky connection and an announcer; a keeper.
_ATTEMPTS_PER_S = 60.0


def no_failures(*methods: str) -> Promise:
    """No call of these methods fails from the fault to the end, the client's retries included."""

    def promise(o: Observed) -> Figure:
        failed = o.ledger.failures(methods, since=o.injected_at)
        note = ", ".join(sorted({f"{call.method} {call.failure}" for call in failed}))
        return figures.none_of(f"{o.fault}: {' and '.join(methods)} calls that failed", len(failed), "calls", note)

    return promise


def rewards_in_time(o: Observed) -> Figure:
    """A reward is answered within a second, or little more, whatever Postgres does."""
    worst = max((call.took_s for call in o.during(REWARDS)), default=0.0)
    return figures.at_most(f"{o.fault}: slowest Reward", worst, "s", _REWARD_S)


def stale_at_most(margin_s: float) -> Promise:
    """Decisions say for how long their policy is stale, which may be a little longer than the fault lasts."""

    def promise(o: Observed) -> Figure:
        stale = max((call.stale_s for call in o.during(ROUTES)), default=0.0)
        limit = o.healing_at - o.injected_at + margin_s
        return Figure(f"{o.fault}: longest stale_for", stale, "s", f"> 0, ≤ {limit:.1f}", 0 < stale <= limit)

    return promise


#: It counts from the last contact, which a poll makes every second.
staleness_is_told = stale_at_most(1.5)


def recovers_within(seconds: float) -> Promise:
    """All is as before within some seconds of the mending, or of the fault where nobody mends it."""
    return lambda o: figures.at_most(f"{o.fault}: recovery", o.recovered_s, "s", seconds)


def refusals_say_when(o: Observed) -> Figure:
    """Who is refused is told that it is for want of room, and when to come back."""
    failed = o.ledger.failures(ROUTES, since=o.injected_at)
    other = [call for call in failed if call.failure != "RESOURCE_EXHAUSTED" or not call.retry_after_s]
    note = ", ".join(sorted({f"{call.method} {call.failure}" for call in other}))
    return figures.none_of(f"{o.fault}: refusals without RESOURCE_EXHAUSTED and RetryInfo", len(other), "calls", note)


def no_storm(o: Observed) -> Figure:
    rate = o.stage.kept["attempts_per_s"]
    assert isinstance(rate, float), "counted while Postgres was away"
    return figures.at_most(f"{o.fault}: attempts to connect", rate, "1/s", _ATTEMPTS_PER_S)


def definitions_change_again(o: Observed) -> Figure:
    """Whoever manages experiments can do so again, through every worker."""
    failed = 0
    for _ in range(6):
        try:
            o.stage.experiments(f"after {o.fault}")
        except grpc.RpcError:
            failed += 1
    if failed:
        # Later faults are to have their own say.
        o.stage.cut_connections()
    return figures.none_of(f"{o.fault}: changes of definitions that fail afterwards", failed, "calls")


def damage_is_kept(o: Observed) -> Figure:
    torn = o.stage.kept["torn"]
    assert isinstance(torn, int), "counted when it was done"
    wait_until(lambda: len(files_of(o.stage.service.spool, ".damaged")) >= torn, "torn records are set aside")
    kept = len(files_of(o.stage.service.spool, ".damaged"))
    return Figure(f"{o.fault}: torn records set aside", kept, "files", f"= {torn}", kept == torn)
