"""Reward against cost: which arms are worth what they cost, and where the present allocation stands among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike
from scipy.special import ndtri

from bandit.cost import pareto_front
from bandit.posterior import credible_interval
from router.pictures.beliefs import of
from router.pictures.style import FAINT, INK, canvas, colours_of, darker, short, text
from router.pictures.values import NothingToDrawError

if TYPE_CHECKING:
    from router.storage.costs import ArmCost

#: Costs that differ by more than this factor are drawn on a logarithmic axis.
_WIDE = 20.0
_Z = float(ndtri(0.975))


@dataclass(frozen=True, slots=True)
class Worth:
    """What an arm earns and costs, with 95 % intervals."""

    arm_id: str
    #: Mean reward.
    reward: float
    reward_lower: float
    reward_upper: float
    #: Mean cost of a decision in US dollars.
    cost_usd: float
    #: None where it is not known.
    cost_lower: float | None
    cost_upper: float | None
    #: What the definition says that it costs; None if it does not, or if cost_usd is that.
    declared_usd: float | None = None
    #: Its propensity; None if that is not known.
    allocation: float | None = None

    def __post_init__(self) -> None:
        for name, ends in _ENDS.items():
            mean, lower, upper = (getattr(self, of) for of in (name, *ends))
            if (lower is None) is not (upper is None):
                raise ValueError(f"{name} of arm {self.arm_id!r} has one end of its interval: give both, or neither")
            if lower is None:
                lower = upper = mean
            if not (0.0 <= lower <= mean <= upper < math.inf):
                raise ValueError(
                    f"{name} of arm {self.arm_id!r} is {mean} in [{lower}, {upper}]: it must be in its interval, which must"
                    " be finite and at least 0"
                )
        if self.declared_usd is not None and not 0.0 <= self.declared_usd < math.inf:
            raise ValueError(f"declared_usd of arm {self.arm_id!r} is {self.declared_usd}: it must be finite and at least 0")
        if self.allocation is not None and not 0.0 <= self.allocation <= 1.0 + 1e-9:
            raise ValueError(f"allocation of arm {self.arm_id!r} is {self.allocation}: it must be from 0 to 1")

    @classmethod
    def of_outcomes(cls, arm_id: str, rewards: ArrayLike, costs_usd: ArrayLike) -> Self:
        """Return the means of outcomes with intervals by the normal law, for arms that were tried on the same requests."""
        means: list[float] = []
        for values in (rewards, costs_usd):
            found = np.asarray(values, dtype=np.float64)
            if found.ndim != 1 or found.size < 2:
                raise ValueError(f"outcomes of arm {arm_id!r}: there must be a row of at least two: one has no interval")
            means += interval(float(found.mean()), float(found.std(ddof=1)), found.size)
        return cls(arm_id, *means)


_ENDS = {"reward": ("reward_lower", "reward_upper"), "cost_usd": ("cost_lower", "cost_upper")}


def interval(mean: float, deviation: float, n: int) -> tuple[float, float, float]:
    """Return a mean and its 95 % interval by the normal law, cut at 0."""
    reach = _Z * deviation / math.sqrt(n)
    return mean, max(0.0, mean - reach), mean + reach


def worth_of(arm: ArmCost) -> Worth:
    """Return what an arm is believed to earn, and costs: as its calls say, or else as was declared.

    Raises ValueError where neither does.
    """
    (low,), (high,) = credible_interval([arm.alpha], [arm.beta])
    earned = arm.alpha / (arm.alpha + arm.beta), float(low), float(high)
    if arm.calls:
        mean, deviation = arm.mean_usd, arm.deviation_usd
        lower, upper = (None, None) if deviation is None else interval(mean, deviation, arm.calls)[1:]
        return Worth(arm.arm_id, *earned, mean, lower, upper, arm.declared_usd, arm.allocation)
    if arm.declared_usd is None:
        raise ValueError(f"nothing says what arm {arm.arm_id!r} costs")
    return Worth(arm.arm_id, *earned, *(arm.declared_usd,) * 3, None, arm.allocation)


def pareto(arms: Sequence[Worth], *, experiment: str = "", ceiling_usd: float | None = None) -> Figure:
    """Draw each arm's reward against its cost with their intervals, and the front: the arms that no other beats.

    Filled markers are on the front, hollow ones are not; a cost whose interval is not known is drawn without; a dotted line
    leads to the cost that was declared. Where every arm has an allocation, a cross has what it earns and costs;
    `ceiling_usd` is a dashed line. Raises NothingToDrawError without arms.
    """
    if not arms:
        raise NothingToDrawError("there is no arm with a cost: there is nothing to draw")
    front = pareto_front([arm.reward for arm in arms], [arm.cost_usd for arm in arms])
    detail = "mean reward against mean cost of a decision, with 95 % intervals; filled: on the front"
    figure, axes = canvas(_finding(arms, front), of(experiment) + detail, right=0.93)
    colours = colours_of([arm.arm_id for arm in arms], [arms[i].arm_id for i in front])
    _scale(axes, arms, ceiling_usd)
    _steps(axes, [arms[i] for i in front])
    for i, arm in enumerate(arms):
        _arm(axes, arm, colours[arm.arm_id], on_front=i in front)
    if ceiling_usd is not None:
        axes.axvline(ceiling_usd, color=FAINT, linestyle="--", linewidth=1.4, gid="ceiling")
        axes.annotate(
            text(f"ceiling ${ceiling_usd:.4g}"),
            (ceiling_usd, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(5, -12),
            textcoords="offset points",
            fontsize=11,
            color=FAINT,
        )
    shares = [arm.allocation for arm in arms if arm.allocation is not None]
    if len(shares) == len(arms):
        cost, reward = (
            float(np.dot(shares, values)) for values in ([arm.cost_usd for arm in arms], [arm.reward for arm in arms])
        )
        axes.plot([cost], [reward], "x", color=INK, markersize=11, markeredgewidth=2.4, gid="allocation", zorder=5)
        axes.margins(x=0.12, y=0.12)
        _label(axes, cost, reward, "the present allocation", INK, below=True)
    axes.margins(x=0.12, y=0.12)
    for arm in arms:
        share = "" if arm.allocation is None else f", share {arm.allocation:.1%}"
        _label(axes, arm.cost_usd, arm.reward, f"{short(arm.arm_id)}{share}", darker(colours[arm.arm_id]))
    axes.set_xlabel(text("mean cost of a decision ($)"), fontsize=11, color=INK)
    axes.set_ylabel("mean reward", fontsize=11, color=INK)
    return figure


def _scale(axes: Axes, arms: Sequence[Worth], ceiling_usd: float | None) -> None:
    costs = [arm.cost_usd for arm in arms] + [arm.declared_usd for arm in arms if arm.declared_usd is not None]
    costs += [] if ceiling_usd is None else [ceiling_usd]
    if min(costs) > 0.0 and max(costs) > _WIDE * min(costs) and all(arm.cost_lower != 0.0 for arm in arms):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(f"${value:g}")))


def _steps(axes: Axes, front: Sequence[Worth]) -> None:
    """Draw the most that can be earned at each cost."""
    x = [arm.cost_usd for arm in front]
    axes.step(x, [arm.reward for arm in front], where="post", color=FAINT, linewidth=1.2, alpha=0.7, gid="front", zorder=1)


def _arm(axes: Axes, arm: Worth, colour: str, *, on_front: bool) -> None:
    x, y = arm.cost_usd, arm.reward
    axes.plot([x, x], [arm.reward_lower, arm.reward_upper], color=colour, linewidth=2.2, gid="reward interval")
    if arm.cost_lower is not None and arm.cost_upper is not None:
        axes.plot([arm.cost_lower, arm.cost_upper], [y, y], color=colour, linewidth=2.2, gid="cost interval")
    if arm.declared_usd is not None:
        axes.plot([x, arm.declared_usd], [y, y], ":|", color=colour, linewidth=1.6, markersize=12, gid="declared")
    face = colour if on_front else "white"
    axes.plot([x], [y], "o", color=colour, markerfacecolor=face, markersize=10, markeredgewidth=1.8, gid="arm", zorder=4)


def _label(axes: Axes, x: float, y: float, words: str, colour: str, *, below: bool = False) -> None:
    """Write words beside a point, on the side where there is room."""
    place = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[0]
    right = place > 0.6
    axes.annotate(
        words,
        (x, y),
        xytext=(-9 if right else 9, -9 if below else 9),
        textcoords="offset points",
        fontsize=11.5,
        fontweight="bold",
        color=colour,
        ha="right" if right else "left",
        va="top" if below else "bottom",
        gid="name",
    )


def _finding(arms: Sequence[Worth], front: Sequence[int]) -> str:
    cheapest, best = arms[front[0]], arms[front[-1]]
    if len(arms) == 1:
        return f"{best.arm_id} is the only arm: it earns {best.reward:.3f} at ${best.cost_usd:.3g}"
    if len(front) == 1:
        return f"{best.arm_id} earns most and costs least"
    beaten = len(arms) - len(front)
    more = f"{best.arm_id}: {best.reward - cheapest.reward:.2f} more reward"
    times = f"at {best.cost_usd / cheapest.cost_usd:,.3g} times the cost" if cheapest.cost_usd else f"than {cheapest.arm_id}"
    return f"{more} {times}" + (f"; {beaten} of {len(arms)} arms {'is' if beaten == 1 else 'are'} beaten" if beaten else "")
