"""What was believed and done over time: shares of traffic, P(best), and the regret that the outcomes so far add up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from bandit.posterior import expected_loss
from router.pictures.beliefs import LEADS, chances_of, leader, of, ranked
from router.pictures.style import FAINT, INK, OTHERS, PALETTE, canvas, colours_of, day_of, name_ends, time_axis
from router.pictures.values import Belief, Moment, in_order

Array = NDArray[np.float64]
_Values = Callable[[Sequence[Belief]], Mapping[str, float]]
#: A single moment is drawn as if it had lasted so long.
_ALONE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Regret:
    """Successes lost on the outcomes since the first moment, as the posterior of the last moment expects them."""

    #: (T,): the moments.
    times: tuple[datetime, ...]
    #: (T,): lost by the arms that were chosen.
    lost: Array
    #: (T,): what equal shares would have lost on as many outcomes.
    equal: Array


def shares(history: Sequence[Moment], *, experiment: str = "") -> Figure:
    """Draw the share of the traffic that each arm was given, stacked; a snapshot holds until the next one.

    It is the propensity in the snapshots, after floor and caps: not a count of decisions. From the ninth arm on, arms are
    one grey band. Raises NothingToDrawError without a moment, ValueError where an active arm has no allocation.
    """
    moments = in_order(history)
    names = _names(moments)
    table = _table(moments, names, _allocation)
    last = table[:, -1]
    first = names[int(last.argmax())]
    finding = f"{first} is given {last.max():.0%} of the traffic"
    if len(moments) > 1:
        finding += f", {table[names.index(first), 0]:.0%} at first"
    figure, axes = canvas(finding, f"{of(experiment)}propensity of each arm after floor and caps, from snapshots")
    own = _colours(moments, names)
    bands, labels, colours = table, list(names), [own[name] for name in names]
    if len(names) > len(PALETTE):
        bands = np.vstack([table[: len(PALETTE)], table[len(PALETTE) :].sum(axis=0)])
        labels = [*names[: len(PALETTE)], f"{len(names) - len(PALETTE)} other arms"]
        colours = [*PALETTE, OTHERS]
    x, held = _held(moments, bands)
    axes.stackplot(x, held, colors=colours, step="post", edgecolor="white", linewidth=0.5)
    axes.set_ylim(0.0, 1.0)
    middle = np.cumsum(bands[:, -1]) - bands[:, -1] / 2
    ends = [(float(middle[i]), labels[i], colours[i]) for i in range(len(labels)) if bands[i, -1] > 0.0]
    name_ends(axes, ends, 0.05)
    _finish(axes, x, "share of the traffic")
    return figure


def best(history: Sequence[Moment], *, experiment: str = "") -> Figure:
    """Draw the probability of each arm to be the best one; a snapshot holds until the next one.

    Arms from the ninth on are grey. Raises NothingToDrawError without a moment.
    """
    moments = in_order(history)
    names = _names(moments)
    table = _table(moments, names, chances_of)
    detail = f"{of(experiment)}probability that an arm is the best active one, from snapshots; dotted: {LEADS:g}"
    figure, axes = canvas(leader(moments[-1].arms), detail)
    colours = _colours(moments, names)
    x, held = _held(moments, table)
    axes.axhline(LEADS, color=FAINT, linewidth=1.2, linestyle=":", zorder=1)
    for name, values in reversed(list(zip(names, held, strict=True))):
        axes.step(x, values, where="post", color=colours[name], linewidth=2.2, gid=name)
    axes.set_ylim(-0.01, 1.01)
    name_ends(axes, [(float(table[i, -1]), name, colours[name]) for i, name in enumerate(names[: len(PALETTE)])], 0.05)
    _finish(axes, x, "P(best)")
    return figure


def regret(history: Sequence[Moment], *, experiment: str = "") -> Figure:
    """Draw the successes lost since the first moment, beside what equal shares would have lost: see `estimated_regret`.

    Raises NothingToDrawError without a moment.
    """
    found = estimated_regret(history)
    lost, equal = float(found.lost[-1]), float(found.equal[-1])
    finding = f"About {lost:,.0f} successes lost, {equal:,.0f} with equal shares"
    detail = "estimate: outcomes since the first snapshot, each at its arm's expected loss under the last posterior"
    figure, axes = canvas(finding, of(experiment) + detail)
    moments = in_order(history)
    x, held = _held(moments, np.stack([found.lost, found.equal]))
    axes.step(x, held[1], where="post", color=PALETTE[1], linewidth=2.2, linestyle=(0, (4, 2)), gid="equal")
    axes.step(x, held[0], where="post", color=PALETTE[0], linewidth=2.8, gid="lost")
    top = max(float(held.max()), 1e-9)
    axes.set_ylim(min(0.0, float(held.min())), 1.08 * top)
    name_ends(axes, [(lost, "this experiment", PALETTE[0]), (equal, "equal shares", PALETTE[1])], 0.05 * top)
    _finish(axes, x, "successes lost", percent=False)
    return figure


def estimated_regret(history: Sequence[Moment]) -> Regret:
    """Return the successes lost on the outcomes since the first moment, arrays of (T,).

    Each outcome of arm k counts E[max over j of theta_j - theta_k] under the last posterior of all arms that there were,
    independent Betas: its expected loss. So it is an estimate that later evidence moves, of outcomes and not of decisions;
    evidence that was imported after the first moment is counted as if it had been served. Where arms change it says what the
    outcomes of the past would lose now.
    Raises NothingToDrawError without a moment.
    """
    moments = in_order(history)
    names = _names(moments)
    latest: dict[str, Belief] = {arm.arm_id: arm for moment in moments for arm in moment.arms}
    loss = expected_loss([latest[name].alpha for name in names], [latest[name].beta for name in names])
    counted = np.zeros((len(names), len(moments)))
    for at, moment in enumerate(moments):
        # An arm that a moment does not name has what it had.
        counted[:, at] = counted[:, at - 1] if at else 0.0
        for arm in moment.arms:
            counted[names.index(arm.arm_id), at] = arm.n
    # Evidence that is dropped with its day, or by a window, does not give back what was lost.
    since = np.maximum(np.diff(counted, axis=1, prepend=counted[:, :1]), 0.0).cumsum(axis=1)
    return Regret(tuple(moment.at for moment in moments), loss @ since, since.sum(axis=0) * float(loss.mean()))


def _names(moments: Sequence[Moment]) -> list[str]:
    """Return all arms: those of the last moment by their rank, then those that are gone."""
    last = next(moment for moment in reversed(moments) if moment.arms)
    names = [arm.arm_id for arm in ranked(last.arms)]
    return names + sorted({arm.arm_id for moment in moments for arm in moment.arms} - set(names))


def _colours(moments: Sequence[Moment], names: Sequence[str]) -> dict[str, str]:
    last = next(moment for moment in reversed(moments) if moment.arms)
    return colours_of([arm.arm_id for arm in last.arms], names)


def _table(moments: Sequence[Moment], names: Sequence[str], value: _Values) -> Array:
    """Return a value of each arm at each moment, (K, T); 0 where a moment does not have the arm."""
    columns = [value(moment.arms) for moment in moments]
    return np.array([[column.get(name, 0.0) for column in columns] for name in names])


def _allocation(arms: Sequence[Belief]) -> dict[str, float]:
    found = {}
    for arm in arms:
        if arm.active and arm.allocation is None:
            raise ValueError(f"allocation of arm {arm.arm_id!r} is None: shares of traffic need it")
        found[arm.arm_id] = arm.allocation or 0.0
    return found


def _held(moments: Sequence[Moment], table: Array) -> tuple[Array, Array]:
    """Return times as matplotlib has them, and a table (K, T) aligned with them."""
    times = [moment.at for moment in moments]
    if times[0] == times[-1]:
        return np.array([day_of(times[0]), day_of(times[0] + _ALONE)]), np.repeat(table[:, -1:], 2, axis=1)
    return np.array([day_of(time) for time in times]), table


def _finish(axes: Axes, x: Array, label: str, *, percent: bool = True) -> None:
    axes.set_xlim(x[0], x[-1])
    axes.set_ylabel(label, fontsize=11, color=INK)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    time_axis(axes)
