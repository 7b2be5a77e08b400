"""Feedback as no one producer sends it: every event many times at once, and an hour of events in any order."""

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg

from bandit.reward import (
    DEFAULT_SIGNAL_MICROS,
    MICROS,
    Candidate,
    Evidence,
    Rank,
    Signal,
    clamp_occurred_at,
    fold,
    to_micros,
)
from benchmarks.load import MeasurementError
from benchmarks.soak import figures
from benchmarks.soak.figures import Figure
from benchmarks.soak.load import connection
from benchmarks.soak.stage import Stage
from router.client import Decision, RewardEvent, RewardResult, RouterClient, RouteRequest, Status
from router.storage.replay import replay
from router.tokens import DecisionToken, TokenCodec, TokenKey

_ABSENT = bytes(8)
_HOUR_US = 3_600_000_000


def storm(stage: Stage, *, events: int, clients: int = 8, times: int = 5, seed: int = 1) -> list[Figure]:
    """Every client sends every event several times, one by one and in batches, all at once: each counts once."""
    experiment_id = stage.experiments("duplicate storm")[0]
    with connection(stage.service.target) as channel, RouterClient(channel=channel) as client:
        requests = [RouteRequest(experiment_id, unit_id=str(n)) for n in range(events)]
        decisions = [
            d
            for start in range(0, events, 500)
            for d in client.batch_route(requests[start : start + 500])
            if isinstance(d, Decision)
        ]
    told = [
        RewardEvent(d, event_id="once", signal="task_completed" if n % 3 else "thumbs_down") for n, d in enumerate(decisions)
    ]
    answers: list[list[Status]] = [[] for _ in range(clients)]

    def send(number: int) -> None:
        rng = random.Random(f"{seed} {number}")  # noqa: S311 - an order
        mine = told * times
        rng.shuffle(mine)
        with connection(stage.service.target) as channel, RouterClient(channel=channel) as client:
            while mine:
                size = 1 if rng.random() < 0.5 else rng.randint(2, 60)
                batch, mine = mine[:size], mine[size:]
                if size == 1:
                    event = batch[0]
                    answers[number].append(client.reward(event.decision, event_id="once", signal=event.signal).status)
                else:
                    answers[number] += _statuses(client.batch_reward(batch))

    began = time.monotonic()
    _all_at_once([partial(send, number) for number in range(clients)])
    seconds = time.monotonic() - began
    statuses = list(itertools.chain(*answers))
    with psycopg.connect(stage.service.url, autocommit=True) as database:
        incarnation = _incarnation(database, experiment_id)
        stored = _scalar(database, "SELECT count(*) FROM events WHERE incarnation = %s", incarnation)
        counted = _scalar(database, "SELECT coalesce(sum(n), 0)::int8 FROM evidence WHERE incarnation = %s", incarnation)
        report = replay(database, incarnation)
    name = "duplicate storm"
    return [
        Figure(f"{name}: events sent", len(statuses), "events", f"= {events * clients * times}",
               len(statuses) == events * clients * times, f"{len(statuses) / seconds:.0f}/s"),
        Figure(f"{name}: events stored", stored, "events", f"= {events}", stored == events),
        Figure(f"{name}: outcomes counted", counted, "outcomes", f"= {events}", counted == events),
        Figure(f"{name}: answered APPLIED", statuses.count(Status.APPLIED), "events", f"= {events}",
               statuses.count(Status.APPLIED) == events),
        figures.none_of(f"{name}: answered neither APPLIED nor DUPLICATE",
                        sum(s not in (Status.APPLIED, Status.DUPLICATE) for s in statuses), "events"),
        figures.none_of(f"{name}: rows of evidence off", len(report.disagreements), "rows"),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Happened:
    """An event, and when it happened in microseconds since the epoch."""

    token: DecisionToken
    decision_id: str
    event_id: str
    at_us: int
    signal: Signal | None
    reward: float | None

    @property
    def candidate(self) -> Candidate | None:
        """What it is for the fold; None where it maps to no reward."""
        if self.reward is not None:
            rank, micros = Rank.NUMERIC, to_micros(self.reward)
        else:
            assert self.signal is not None, "it is one or the other"
            mapped = DEFAULT_SIGNAL_MICROS[self.signal]
            if mapped is None:
                return None
            rank, micros = self.signal.rank, mapped
        # All of it is received after it happened.
        at_us = clamp_occurred_at(self.at_us, self.token.decided_at_us, self.at_us)
        return Candidate(rank, at_us, self.event_id, micros)

    def told(self) -> RewardEvent:
        """As a client sends it."""
        at = datetime.fromtimestamp(self.at_us // 1_000_000, UTC).replace(microsecond=self.at_us % 1_000_000)
        return RewardEvent(self.decision_id, event_id=self.event_id, signal=self.signal, reward=self.reward, occurred_at=at)


def out_of_order(stage: Stage, *, decisions: int, clients: int = 4, seed: int = 2) -> list[Figure]:
    """An hour of events, sent in any order and in batches of any size: evidence is the fold of them all."""
    experiment_id = stage.experiments("hour replayed")[0]
    rng = random.Random(seed)  # noqa: S311 - data
    with psycopg.connect(stage.service.url, autocommit=True) as database:
        incarnation = _incarnation(database, experiment_id)
        row = database.execute("SELECT key_id, secret FROM token_keys ORDER BY created_at DESC, key_id LIMIT 1").fetchone()
    assert row is not None, "the router made one at its start"
    codec = TokenCodec(TokenKey(row[0], bytes(row[1])), {})
    happened = _hour(codec, incarnation, decisions, rng)
    expected: defaultdict[tuple[int, int], Evidence] = defaultdict(Evidence)
    for _, of_decision in itertools.groupby(happened, key=lambda event: event.token.decision_key):
        events = list(of_decision)
        winner = fold(candidate for event in events if (candidate := event.candidate) is not None)
        if winner is not None:
            token = events[0].token
            expected[(token.arm, token.decided_at_us // _HOUR_US)] += Evidence.of(winner.reward_micros)
    rng.shuffle(happened)
    # Some are repeated, out of order as well.
    sent = happened + rng.sample(happened, len(happened) // 10)
    shares = [sent[number::clients] for number in range(clients)]

    def send(number: int) -> None:
        mine = shares[number]
        sizes = random.Random(f"{seed} {number}")  # noqa: S311 - sizes
        with connection(stage.service.target) as channel, RouterClient(channel=channel) as client:
            while mine:
                size = sizes.choice((1, 3, 30, 300, 1_000))
                batch, mine = mine[:size], mine[size:]
                _statuses(client.batch_reward(event.told() for event in batch))

    _all_at_once([partial(send, number) for number in range(clients)])
    with psycopg.connect(stage.service.url, autocommit=True) as database:
        rows = database.execute(
            "SELECT arm, (extract(epoch FROM bucket) / 3600)::int8, success_micros, failure_micros, n FROM evidence"
            " WHERE incarnation = %s AND n > 0",
            (incarnation,),
        ).fetchall()
        stored = _scalar(database, "SELECT count(*) FROM events WHERE incarnation = %s", incarnation)
        report = replay(database, incarnation)
    found = {(arm, hour): Evidence(success, failure, n) for arm, hour, success, failure, n in rows}
    off = sum(found.get(key) != expected.get(key) for key in found.keys() | expected.keys())
    name = "hour replayed"
    return [
        Figure(f"{name}: events stored", stored, "events", f"= {len(happened)}", stored == len(happened)),
        figures.none_of(f"{name}: rows of evidence that are not the fold", off, "rows", f"of {len(expected)}"),
        figures.none_of(f"{name}: rows of evidence that a replay does not bear out", len(report.disagreements), "rows"),
    ]


def _hour(codec: TokenCodec, incarnation: int, decisions: int, rng: random.Random) -> list[_Happened]:
    """Return up to four events of each of some decisions of the last hour, decision by decision."""
    now_us = time.time_ns() // 1000
    happened = []
    for _ in range(decisions):
        decided_at_us = now_us - rng.randrange(1, _HOUR_US)
        token = DecisionToken(
            incarnation=incarnation,
            decision_key=rng.randbytes(16),
            arm=rng.randrange(3),
            reward_rule_version=1,
            learned=True,
            policy_version=1,
            propensity=1 / 3,
            decided_at_us=decided_at_us,
            unit_hash=_ABSENT,
            session_hash=_ABSENT,
            turn_hash=_ABSENT,
            segment="",
        )
        decision_id = codec.mint(token)[0].decode()
        for n in range(rng.randint(1, 4)):
            numeric = rng.random() < 0.2
            happened.append(
                _Happened(
                    token,
                    decision_id,
                    # Not in the order of time: ties are broken by it.
                    f"{rng.randrange(100)}-{n}",
                    # Some before their decision, and several at the same moment.
                    max(
                        decided_at_us - 1_000_000, rng.randrange(decided_at_us - 60_000_000, now_us) // 1_000_000 * 1_000_000
                    ),
                    None if numeric else rng.choice(list(Signal)),
                    rng.randrange(MICROS + 1) / MICROS if numeric else None,
                )
            )
    return happened


def _statuses(results: Sequence[Any]) -> list[Status]:
    failed = [result for result in results if not isinstance(result, RewardResult)]
    if failed:
        raise MeasurementError(f"{len(failed)} of {len(results)} events were not taken: {failed[0]}")
    return [result.status for result in results]


def _all_at_once(work: Sequence[Callable[[], None]]) -> None:
    """Run each in a thread of its own; raises what the first of them raised."""
    raised: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def _incarnation(database: psycopg.Connection[Any], experiment_id: str) -> int:
    return _scalar(database, "SELECT incarnation FROM experiments WHERE experiment_id = %s", experiment_id)


def _scalar(database: psycopg.Connection[Any], statement: str, value: object) -> int:
    row = database.execute(statement, (value,)).fetchone()
    assert row is not None, "there is one row"
    return int(row[0])
