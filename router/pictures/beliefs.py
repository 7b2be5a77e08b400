"""What is believed of each arm: densities with intervals, and the sentence that says who leads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import xlog1py, xlogy

from bandit.posterior import credible_interval, probability_best
from router.pictures.style import INK, OTHERS, canvas, colours_of, darker, short
from router.pictures.values import Belief, NothingToDrawError

#: An arm leads from this probability on: that at which a bandit stops.
LEADS = 0.95
_MOST_ROWS = 20
_HEIGHT = 0.78
_POINTS = 300


def posteriors(arms: Sequence[Belief], *, experiment: str = "", level: float = 0.95) -> Figure:
    """Draw the density of each arm's mean reward, its credible interval, its mean, and the mean that was observed.

    A row each, the most probably best arm on top; retired arms in grey below. Each density has a scale of its own.
    At most 20 rows. Raises NothingToDrawError without arms.
    """
    order = ranked(arms)
    rows = order[:_MOST_ROWS]
    beyond = f"; {len(order) - len(rows)} more arms are not shown" if len(order) > len(rows) else ""
    detail = f"density, mean and {level:.0%} credible interval of the mean reward; | mean of the outcomes in the log{beyond}"
    figure, axes = canvas(leader(arms), of(experiment) + detail, left=0.19, right=0.76)
    colours = colours_of([arm.arm_id for arm in arms], [arm.arm_id for arm in order])
    chances = chances_of(arms)
    for row, arm in enumerate(reversed(rows)):
        _row(axes, row, arm, colours[arm.arm_id] if arm.active else OTHERS, level, chances[arm.arm_id])
    axes.set_yticks(range(len(rows)), [short(arm.arm_id) for arm in reversed(rows)], fontsize=12)
    axes.set_ylim(-0.5, len(rows))
    low, high = axes.get_xlim()
    axes.set_xlim(max(0.0, low), min(1.0, high))
    axes.set_xlabel("mean reward", fontsize=11, color=INK)
    axes.grid(visible=False, axis="y")
    return figure


def ranked(arms: Sequence[Belief]) -> list[Belief]:
    """Return arms with the most probably best one first, and retired ones last. Raises NothingToDrawError without arms."""
    if not arms:
        raise NothingToDrawError("there is no arm: there is nothing to draw")
    chances = chances_of(arms)
    return sorted(arms, key=lambda arm: (not arm.active, -chances[arm.arm_id], -arm.alpha / (arm.alpha + arm.beta)))


def chances_of(arms: Sequence[Belief]) -> dict[str, float]:
    """Return P(best) by arm id: what is given, computed where it is not; 0 for retired arms."""
    active = [arm for arm in arms if arm.active]
    given = [arm.probability_best for arm in active]
    known = [value for value in given if value is not None]
    if len(known) < len(active):
        known = [float(p) for p in probability_best([arm.alpha for arm in active], [arm.beta for arm in active])]
    return {arm.arm_id: 0.0 for arm in arms} | {arm.arm_id: p for arm, p in zip(active, known, strict=True)}


def leader(arms: Sequence[Belief]) -> str:
    """Return who leads, as a sentence."""
    active = [arm for arm in ranked(arms) if arm.active]
    if not active:
        return "Every arm is retired"
    first = active[0].arm_id
    if len(active) == 1:
        return f"{first} is the only arm"
    chance = chances_of(arms)[first]
    if chance >= LEADS:
        return f"{first} leads: it is the best arm with probability {said(chance)}"
    return f"Undecided: {first} is the best arm with probability {said(chance)}"


def said(chance: float) -> str:
    """Return a probability as people read it: never 1 where it is less."""
    return "over 0.99" if 0.995 <= chance < 1.0 else f"{chance:.2f}"


def of(experiment: str) -> str:
    """Return how a line about an experiment begins."""
    return f"{experiment}: " if experiment else ""


def _row(axes: Axes, row: int, arm: Belief, colour: str, level: float, chance: float) -> None:
    (low,), (high,) = credible_interval([arm.alpha], [arm.beta], level)
    (first,), (last,) = credible_interval([arm.alpha], [arm.beta], 0.999)
    mean = arm.alpha / (arm.alpha + arm.beta)
    x = np.linspace(first, last, _POINTS)
    inner = np.clip(x, 1e-12, 1.0 - 1e-12)
    density = xlogy(arm.alpha - 1.0, inner) + xlog1py(arm.beta - 1.0, -inner)
    # Relative to the highest within the interval: a density may have no bound at 0 and 1.
    within = density[(x >= low) & (x <= high)].max(initial=-np.inf)
    height = np.minimum(np.exp(density - within), 1.0) if np.isfinite(within) else np.zeros_like(x)
    axes.fill_between(x, row, row + _HEIGHT * height, color=colour, alpha=0.35, linewidth=0)
    axes.plot([low, high], [row, row], color=colour, linewidth=3.4, solid_capstyle="round", gid="interval")
    axes.plot([mean], [row], "o", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=1.2, gid="mean")
    if arm.observed_mean is not None:
        axes.plot([arm.observed_mean] * 2, [row - 0.22, row + 0.22], color=INK, linewidth=1.8, gid="observed")
    standing = f"P(best) {said(chance)}" if arm.active else "retired"
    axes.annotate(
        f"{arm.n:,} outcomes, {standing}",
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        fontsize=11,
        color=darker(colour),
        va="bottom",
        annotation_clip=False,
    )
