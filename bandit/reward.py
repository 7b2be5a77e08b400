"""Reward: how the events of one decision become at most one outcome, and outcomes become evidence.

Model
    Each event that maps to a reward is a candidate. The outcome of a decision is the reward of its greatest candidate
    in the order (rank, occurred_at, event id). A maximum is commutative, associative and idempotent, so the outcome
    does not depend on the order, the batches or the repetitions in which events arrive. When the outcome changes, the
    evidence moves by the difference, so a correction is exact.

    Rewards are integer millionths: sums of integers do not depend on their order either.

Assumes
    An event id names one event of its decision.

Shapes
    micros   integer millionths of a reward, in [0, 1_000_000]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

MICROS = 1_000_000


class Rank(IntEnum):
    """What outranks what: a measurement over a rating, a rating over behaviour, behaviour over an inference.

    Silence is outranked by all of them.
    """

    NO_FEEDBACK = 0
    DERIVED = 1
    SIGNAL = 2
    THUMBS = 3
    NUMERIC = 4


class Signal(IntEnum):
    """The signals, numbered as in the proto."""

    REPHRASED_QUERY = 1
    IMMEDIATE_RETRY = 2
    SESSION_ABANDONED = 3
    FOLLOW_UP_QUESTION = 4
    TASK_COMPLETED = 5
    THUMBS_UP = 6
    THUMBS_DOWN = 7

    @property
    def rank(self) -> Rank:
        """The rank of this signal when a client sends it."""
        return Rank.THUMBS if self in (Signal.THUMBS_UP, Signal.THUMBS_DOWN) else Rank.SIGNAL


DEFAULT_SIGNAL_MICROS: Mapping[Signal, int | None] = {
    Signal.REPHRASED_QUERY: 0,
    Signal.IMMEDIATE_RETRY: 0,
    Signal.SESSION_ABANDONED: 0,
    Signal.FOLLOW_UP_QUESTION: None,
    Signal.TASK_COMPLETED: MICROS,
    Signal.THUMBS_UP: MICROS,
    Signal.THUMBS_DOWN: 0,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An event that maps to a reward."""

    rank: int
    #: When it happened, microseconds since the epoch, clamped to between decision and receipt.
    occurred_at_us: int
    event_id: str
    reward_micros: int

    @property
    def precedence(self) -> tuple[int, int, str]:
        """The order in which candidates outrank one another."""
        return (self.rank, self.occurred_at_us, self.event_id)


def fold(candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the candidate that decides the outcome, or None if there is none."""
    return max(candidates, key=lambda candidate: candidate.precedence, default=None)


def clamp_occurred_at(occurred_at_us: int | None, decided_at_us: int, received_at_us: int) -> int:
    """Place an event between its decision and its receipt; without a time of its own it happened at receipt."""
    if occurred_at_us is None:
        return max(decided_at_us, received_at_us)
    return max(decided_at_us, min(occurred_at_us, received_at_us))


def to_micros(reward: float) -> int:
    """Round a reward in [0, 1] to millionths; ValueError outside (NaN included)."""
    if not 0.0 <= reward <= 1.0:
        raise ValueError(f"reward {reward!r} must be in [0, 1]")
    return round(reward * MICROS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Additive sufficient statistics of one arm; never includes the prior."""

    success_micros: int = 0
    failure_micros: int = 0
    n: int = 0

    @classmethod
    def of(cls, reward_micros: int) -> Self:
        """The evidence of one outcome."""
        return cls(reward_micros, MICROS - reward_micros, 1)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.success_micros + other.success_micros, self.failure_micros + other.failure_micros, self.n + other.n
        )

    def __sub__(self, other: Self) -> Self:
        return type(self)(
            self.success_micros - other.success_micros, self.failure_micros - other.failure_micros, self.n - other.n
        )

    def posterior(self, prior_alpha: float, prior_beta: float) -> tuple[float, float]:
        """Return alpha and beta of the posterior: prior plus evidence."""
        return prior_alpha + self.success_micros / MICROS, prior_beta + self.failure_micros / MICROS
