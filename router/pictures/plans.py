"""What the strategies of a plan cost: days until the answer, and successes lost until then."""

from __future__ import annotations

from matplotlib.figure import Figure

from bandit.planning import Plan, Strategy
from router.pictures.style import INK, OTHERS, PALETTE, canvas, darker

#: From this ratio of the largest figure to the smallest on, an axis is logarithmic but for 0.
_WIDE = 100.0


def strategies(plan: Plan) -> Figure:
    """Draw each possible strategy of a plan by its days and its expected regret; what is recommended has a ring."""
    s = plan.situation
    asked = f"to find a difference of {s.effect:.3g} from {s.baseline:.3g} between {s.arms} arms"
    detail = f"{asked}, {s.traffic_per_day:,.0f} decisions a day; ring: recommended"
    figure, axes = canvas(plan.advice, detail, right=0.94)
    points = [(one.strategy, one.forecast) for one in plan.strategies if one.forecast is not None]
    chosen = (plan.recommended, plan.then)
    for strategy, forecast in points:
        colour = PALETTE[list(Strategy).index(strategy)]
        x, y = forecast.days, forecast.expected_regret
        if strategy in chosen:
            axes.plot([x], [y], "o", markersize=22, markerfacecolor="none", markeredgecolor=INK, clip_on=False, gid="ring")
        axes.plot([x], [y], "o", markersize=11, color=colour, clip_on=False, gid=strategy.value)
        axes.annotate(
            strategy.value,
            (x, y),
            xytext=(14, 8),
            textcoords="offset points",
            fontsize=13,
            fontweight="bold" if strategy in chosen else "normal",
            color=darker(colour),
        )
    axes.axvline(s.horizon_days, color=OTHERS, linewidth=1.2, linestyle=":", zorder=1, gid="horizon")
    days = [forecast.days for _, forecast in points]
    lost = [forecast.expected_regret for _, forecast in points]
    for values, scale, limits in ((days, axes.set_xscale, axes.set_xlim), (lost, axes.set_yscale, axes.set_ylim)):
        some = [value for value in values if value > 0.0]
        if some and max(some) > _WIDE * min(some):
            scale("symlog", linthresh=min(some))
        limits(0.0, 1.15 * max([*some, 1e-9]))
    axes.set_xlabel("days until the answer", fontsize=11, color=INK)
    axes.set_ylabel("successes lost until the answer", fontsize=11, color=INK)
    return figure
