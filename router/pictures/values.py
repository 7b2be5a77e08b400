"""What pictures are drawn from: small values, made from the router's replies, from rows of its tables, or by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from router.v1 import types_pb2


class NothingToDrawError(ValueError):
    """There is no data for a picture; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Beta(alpha, beta) over the mean reward of an arm, and what follows from it."""

    arm_id: str
    alpha: float
    beta: float
    #: Outcomes counted.
    n: int = 0
    #: Probability that it is the best active arm; None: it is computed where a picture needs it.
    probability_best: float | None = None
    #: Its propensity, after floor and caps; None if it is not known.
    allocation: float | None = None
    #: Whether it is offered traffic.
    active: bool = True
    #: Mean of the outcomes in the log; None without any, or if it is not known.
    observed_mean: float | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise ValueError(f"{name} of arm {self.arm_id!r} is {value}: it must be greater than 0, and finite")
        for name in ("probability_best", "allocation", "observed_mean"):
            value = getattr(self, name)
            if value is not None and not -1e-9 <= value <= 1.0 + 1e-9:
                raise ValueError(f"{name} of arm {self.arm_id!r} is {value}: it must be from 0 to 1")
        if not self.n >= 0:
            raise ValueError(f"n of arm {self.arm_id!r} is {self.n}: it must be at least 0")


@dataclass(frozen=True, slots=True)
class Moment:
    """The beliefs about all arms at one time."""

    #: With its time zone.
    at: datetime
    arms: tuple[Belief, ...]

    def __post_init__(self) -> None:
        check_zone("at", self.at)


@dataclass(frozen=True, slots=True)
class Covered:
    """How many of an arm's decisions in a period have feedback."""

    arm_id: str
    #: When the period begins and ends, with time zones.
    start: datetime
    end: datetime
    decisions: int
    covered: int

    def __post_init__(self) -> None:
        check_zone("start", self.start)
        check_zone("end", self.end)
        if not self.start < self.end:
            raise ValueError(f"start of arm {self.arm_id!r} is {self.start}: it must be before its end, {self.end}")
        if not 0 <= self.covered <= self.decisions:
            raise ValueError(
                f"covered of arm {self.arm_id!r} is {self.covered}: it must be from 0 to its decisions, {self.decisions}"
            )


class _Arm(Protocol):
    """An arm of GetPosterior and ListSnapshots."""

    arm_id: str
    version: int
    alpha: float
    beta: float
    n: int
    probability_best: float
    allocation: float
    state: Any


def beliefs_of(arms: Iterable[_Arm], observed: Mapping[tuple[str, int], float] | None = None) -> tuple[Belief, ...]:
    """Return what GetPosterior or a snapshot says of arms; `observed` has mean rewards by arm id and version."""
    return tuple(
        Belief(
            name_of(arm.arm_id, arm.version),
            arm.alpha,
            arm.beta,
            arm.n,
            arm.probability_best,
            arm.allocation,
            arm.state != types_pb2.ARM_STATE_RETIRED,
            (observed or {}).get((arm.arm_id, arm.version)),
        )
        for arm in arms
    )


def history_of(snapshots: Iterable[Any]) -> tuple[Moment, ...]:
    """Return the history that the snapshots of ListSnapshots tell."""
    return tuple(Moment(one.snapshot_time.ToDatetime(UTC), beliefs_of(one.arms)) for one in snapshots)


def history_of_rows(rows: Iterable[Mapping[str, Any]], segment: str = "") -> tuple[Moment, ...]:
    """Return the history in rows of the view `posterior_history`, or of `router.analysis.snapshots(…).to_pylist()`.

    It is that of a segment, or of all traffic.
    """
    found: dict[datetime, list[Belief]] = {}
    for row in rows:
        if row.get("segment", "") != segment:
            continue
        belief = Belief(
            name_of(row["arm_id"], row["arm_version"]),
            row["alpha"],
            row["beta"],
            row["n"],
            row["probability_best"],
            row["allocation"],
            row["active"],
        )
        found.setdefault(row["taken_at"], []).append(belief)
    return tuple(Moment(at, tuple(found[at])) for at in sorted(found))


def coverage_of(metrics: Iterable[Any]) -> tuple[Covered, ...]:
    """Return the coverage that the entries of GetMetrics tell; units that are held out are an arm of their own."""
    return tuple(
        Covered(
            name_of(entry.arm_id, entry.version) + (" (held out)" if entry.holdout else ""),
            entry.start_time.ToDatetime(UTC),
            entry.end_time.ToDatetime(UTC),
            entry.interactions,
            entry.coverage.count,
        )
        for entry in metrics
    )


def name_of(arm_id: str, version: int) -> str:
    """Return the name of an arm: versions after the first are said."""
    return arm_id if version <= 1 else f"{arm_id} v{version}"


def check_zone(name: str, time: datetime) -> None:
    """Raise ValueError for a time that does not say its time zone."""
    if not isinstance(time, datetime) or time.utcoffset() is None:
        raise ValueError(f"{name} is {time!r}: it must be a datetime with a time zone")


def in_order(history: Sequence[Moment]) -> tuple[Moment, ...]:
    """Return a history by time; NothingToDrawError for one without a moment, or without an arm."""
    found = tuple(sorted(history, key=lambda moment: moment.at))
    if not any(moment.arms for moment in found):
        raise NothingToDrawError("the history has no snapshot: there is nothing to draw")
    return found
