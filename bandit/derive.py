"""Derived signals: what the decisions of one session say about one another, without anybody sending feedback.

Model
    The decisions of a session are put in the order in which they were made. Neighbours of one turn, or of one request id,
    make a run: a session is a sequence of runs. Decisions without a turn are a run each.

    immediate_retry    a later decision of the same turn, of another request, follows within `retry_within_us`: the
                       earlier one failed, at the time of the later one
    rephrased_query    a decision of the next run has a prompt at least `rephrased_similarity` like the one before, within
                       `rephrased_within_us` of the last decision of the run: that one failed, at the time of the later one
    session_abandoned  after the decision, and before the next one, neither a decision nor an event came for
                       `abandon_after_us`: it failed, at the end of that time. Never where it has an outcome already

    Each is about one decision, by the rule that was in force when that one was made, and at most one of a kind. Times follow
    from the decisions and events alone, so whoever looks later, or again, finds the same.

Assumes
    Turn and session ids are the caller's: two that are equal mean the same turn, the same session. A request id that comes
    again is one call repeated, no retry by the user.

Shapes
    _us   integer microseconds since the epoch, or of a length of time
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bandit.reward import Signal


@dataclass(frozen=True, slots=True)
class DeriveRule:
    """Which signals are derived. None is never."""

    retry_within_us: int | None
    abandon_after_us: int | None
    rephrased_similarity: float | None
    rephrased_within_us: int
    #: Nothing counts later than this after the decision.
    window_us: int

    def __post_init__(self) -> None:
        for name in ("retry_within_us", "abandon_after_us", "rephrased_within_us", "window_us"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}: it must be positive")
        if self.rephrased_similarity is not None and not 0.0 < self.rephrased_similarity <= 1.0:
            raise ValueError(f"rephrased_similarity is {self.rephrased_similarity}: it must be above 0 and at most 1")

    @property
    def reach_us(self) -> int:
        """How far apart a decision and what follows from it may be."""
        rephrased = self.rephrased_within_us if self.rephrased_similarity is not None else 0
        return max(self.retry_within_us or 0, self.abandon_after_us or 0, rephrased)


@dataclass(frozen=True, slots=True)
class SessionDecision:
    """A decision of a session, and what is known of it."""

    decision_key: bytes
    decided_at_us: int
    #: Empty where the caller gave none.
    turn_id: str
    request_id: str
    #: How much the prompt is like that of the turn before, if the caller said so.
    prompt_similarity: float | None
    #: The rule in force when it was made; None where nothing is derived.
    rule: DeriveRule | None
    #: Whether it has an outcome that somebody sent.
    answered: bool = False
    #: When the events that were sent for it happened.
    heard_at_us: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Derived:
    """A signal that nobody sent."""

    decision_key: bytes
    decided_at_us: int
    signal: Signal
    occurred_at_us: int


@dataclass(frozen=True, slots=True)
class Derivation:
    """What follows by some time."""

    signals: tuple[Derived, ...]
    #: When the session will have been abandoned if nothing more happens; None if there is nothing to wait for.
    look_again_at_us: int | None


def derive_session(decisions: Sequence[SessionDecision], now_us: int) -> Derivation:
    """Return what follows by `now_us` from the decisions of one session, given in any order.

    What came later than `now_us` is not looked at. To judge a decision, those within `DeriveRule.reach_us` on both sides of
    it must be given.
    """
    made = sorted((d for d in decisions if d.decided_at_us <= now_us), key=lambda d: (d.decided_at_us, d.decision_key))
    found = [*_retries(made), *_rephrased(made)]
    gone, look_again_at_us = _abandoned(made, now_us)
    return Derivation((*found, *gone), look_again_at_us)


def _signal(decision: SessionDecision, rule: DeriveRule, signal: Signal, occurred_at_us: int) -> Iterator[Derived]:
    """The signal, unless it comes too late to count."""
    if occurred_at_us - decision.decided_at_us <= rule.window_us:
        yield Derived(decision.decision_key, decision.decided_at_us, signal, occurred_at_us)


def _retries(made: Sequence[SessionDecision]) -> Iterator[Derived]:
    """From the last to the first: by turn, the next decision, and the next one of another request than that."""
    following: dict[str, tuple[SessionDecision, SessionDecision | None]] = {}
    for decision in reversed(made):
        if not decision.turn_id:
            continue
        following_one = following.get(decision.turn_id)
        retry = None
        if following_one is not None:
            first, other = following_one
            retry = other if _same_request(decision, first) else first
        rule = decision.rule
        if rule is not None and retry is not None and _follows(decision, retry, rule.retry_within_us):
            yield from _signal(decision, rule, Signal.IMMEDIATE_RETRY, retry.decided_at_us)
        following[decision.turn_id] = (decision, retry)


def _rephrased(made: Sequence[SessionDecision]) -> Iterator[Derived]:
    for run, next_run in pairwise(_runs(made)):
        last = run[-1]
        rule = last.rule
        if rule is None or rule.rephrased_similarity is None:
            continue
        for decision in next_run:
            alike = decision.prompt_similarity
            if not _follows(last, decision, rule.rephrased_within_us):
                break
            if alike is not None and alike >= rule.rephrased_similarity:
                yield from _signal(last, rule, Signal.REPHRASED_QUERY, decision.decided_at_us)
                break


def _abandoned(made: Sequence[SessionDecision], now_us: int) -> tuple[list[Derived], int | None]:
    heard = sorted(at_us for decision in made for at_us in decision.heard_at_us if at_us <= now_us)
    found: list[Derived] = []
    look_again_at_us = None
    for position, decision in enumerate(made):
        rule = decision.rule
        if rule is None or rule.abandon_after_us is None or decision.answered:
            continue
        after = rule.abandon_after_us
        is_last = position + 1 == len(made)
        end_us = now_us if is_last else made[position + 1].decided_at_us
        between = heard[bisect_right(heard, decision.decided_at_us) : bisect_left(heard, end_us)]
        quiet_from_us = _first_gap((decision.decided_at_us, *between, end_us), after)
        if quiet_from_us is not None:
            found += _signal(decision, rule, Signal.SESSION_ABANDONED, quiet_from_us + after)
        elif is_last:
            look_again_at_us = max(decision.decided_at_us, heard[-1] if heard else 0) + after
    return found, look_again_at_us


def _first_gap(times_us: Iterable[int], length_us: int) -> int | None:
    """Return the beginning of the first gap of at least this length between neighbours of ascending times."""
    return next((before for before, after in pairwise(times_us) if after - before >= length_us), None)


def _runs(made: Sequence[SessionDecision]) -> list[list[SessionDecision]]:
    runs: list[list[SessionDecision]] = []
    for decision in made:
        if runs and (_same_turn(runs[-1][-1], decision) or _same_request(runs[-1][-1], decision)):
            runs[-1].append(decision)
        else:
            runs.append([decision])
    return runs


def _follows(decision: SessionDecision, later: SessionDecision, within_us: int | None) -> bool:
    return within_us is not None and later.decided_at_us - decision.decided_at_us <= within_us


def _same_turn(one: SessionDecision, other: SessionDecision) -> bool:
    return bool(one.turn_id) and one.turn_id == other.turn_id


def _same_request(one: SessionDecision, other: SessionDecision) -> bool:
    return bool(one.request_id) and one.request_id == other.request_id
