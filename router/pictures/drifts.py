"""Whether arms changed: the mean of each hour, and the means before and after a change that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from matplotlib.figure import Figure

from bandit.discount import BUCKET_US, Bucket, by_hour
from bandit.drift import Drift
from bandit.reward import MICROS
from router.pictures.beliefs import of
from router.pictures.style import INK, PALETTE, canvas, colours_of, day_of, name_ends, time_axis
from router.pictures.values import NothingToDrawError

#: Points are as large as their outcomes are many, between these areas.
_SMALLEST, _LARGEST = 12.0, 90.0


@dataclass(frozen=True, slots=True)
class Watched:
    """An arm's evidence by hour, and what `bandit.drift.drift` says of it."""

    arm_id: str
    buckets: tuple[Bucket, ...]
    found: Drift


def drift(arms: Sequence[Watched], *, experiment: str = "") -> Figure:
    """Draw the mean reward of each hour, and for arms with an alarm the means before and from the change on.

    The area of a point goes with its outcomes. Raises NothingToDrawError without an outcome.
    """
    hours = {one.arm_id: [(at, e) for at, e in by_hour(one.buckets) if e.success_micros + e.failure_micros] for one in arms}
    if not any(hours.values()):
        raise NothingToDrawError("no arm has an outcome: there is nothing to draw")
    detail = f"{of(experiment)}mean reward of each hour, larger with more outcomes; lines: before and since a change"
    figure, axes = canvas(_finding(arms), detail)
    colours = colours_of([one.arm_id for one in arms], [])
    most = max((e.success_micros + e.failure_micros) / MICROS for own in hours.values() for _, e in own)
    ends = []
    for place, one in enumerate(arms):
        own, colour = hours[one.arm_id], colours[one.arm_id]
        if not own:
            continue
        n = [(e.success_micros + e.failure_micros) / MICROS for _, e in own]
        means = [e.success_micros / MICROS / count for (_, e), count in zip(own, n, strict=True)]
        x = [_number(at + BUCKET_US // 2) for at, _ in own]
        sizes = [_SMALLEST + (_LARGEST - _SMALLEST) * count / most for count in n]
        axes.scatter(x, means, s=sizes, color=colour, alpha=0.6, linewidths=0, gid=one.arm_id)
        level = sum(e.success_micros for _, e in own) / MICROS / sum(n)
        if one.found.alarm and one.found.since_us is not None and one.found.before is not None:
            since, after = _number(one.found.since_us), one.found.after or 0.0
            axes.plot([_number(own[0][0]), since], [one.found.before] * 2, color=colour, linewidth=2.8, gid="before")
            axes.plot([since, _number(own[-1][0] + BUCKET_US)], [after] * 2, color=colour, linewidth=2.8, gid="after")
            level = after
        if place < len(PALETTE):
            ends.append((level, one.arm_id, colour))
    axes.set_ylim(-0.01, 1.01)
    name_ends(axes, ends, 0.05)
    axes.set_ylabel("mean reward", fontsize=11, color=INK)
    time_axis(axes)
    return figure


def _finding(arms: Sequence[Watched]) -> str:
    alarms = [one for one in arms if one.found.alarm and one.found.since_us is not None]
    if not alarms:
        return "No arm has changed, as far as the outcomes tell"
    one = max(alarms, key=lambda one: one.found.log_e)
    before, after = one.found.before or 0.0, one.found.after or 0.0
    since = datetime.fromtimestamp((one.found.since_us or 0) / 1e6, UTC)
    others = f"; {len(alarms) - 1} more changed" if len(alarms) > 1 else ""
    how = "fell" if after < before else "rose"
    return f"{one.arm_id} {how} from {before:.2f} to {after:.2f} at {since:%Y-%m-%d %H:%M}{others}"


def _number(at_us: int) -> float:
    return day_of(datetime.fromtimestamp(at_us / 1e6, UTC))
