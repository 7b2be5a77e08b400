"""The demo as a picture: what the router believes, where the traffic went, and what that earned.

Drawn with matplotlib's object interface on Agg, which needs no display and may run in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import betaln

from router.demo.data import Array
from router.demo.report import Result

# A colour-blind safe order: the arms that matter most get the colours that are easiest to tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#B8A500", "#8A8A8A")
_INK, _FAINT = "#22303C", "#8795A1"
_POINTS = 400
#: A band of traffic this wide has its arm's name in it.
_NAMED = 0.07
#: The length of a name, as a share of the axis.
_NAME_LENGTH = 0.56


def draw(result: Result, path: Path) -> None:
    """Write the picture as a PNG, making its directory if need be."""
    order = sorted(range(len(result.standings)), key=lambda arm: -result.standings[arm].mean)
    colours = {arm: _COLOURS[place % len(_COLOURS)] for place, arm in enumerate(order)}
    figure = Figure(figsize=(13.5, 9.2), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    upper = figure.add_gridspec(1, 2, left=0.185, right=0.975, top=0.86, bottom=0.475, wspace=0.15)
    lower = figure.add_gridspec(1, 1, left=0.05, right=0.79, top=0.355, bottom=0.065)
    _title(figure, result)
    _posteriors(figure.add_subplot(upper[0, 0]), result, order, colours)
    _traffic(figure.add_subplot(upper[0, 1]), result, order, colours)
    _rewards(figure.add_subplot(lower[0, 0]), result)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _title(figure: Figure, result: Result) -> None:
    models, n = len(result.standings), len(result.answers)
    headline = f"{n:,} real prompts, {models} real models: average reward {result.average_reward:.3f}"
    figure.text(0.025, 0.955, headline, fontsize=18, fontweight="bold", color=_INK, va="center")
    users = len({answer.unit_id for answer in result.answers})
    whose = f" to {users:,} users" if users > 1 else ""
    detail = (
        f"Thompson Sampling, {result.assignment.replace('_', ' ')}{whose}; {sum(result.statuses.values()):,} feedback"
        " messages, late, out of order and repeated"
    )
    figure.text(0.025, 0.921, detail, fontsize=11.5, color=_FAINT, va="center")


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=_INK, pad=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9.5, length=0)


def _posteriors(axes: Axes, result: Result, order: Sequence[int], colours: Mapping[int, str]) -> None:
    """A row for each arm: the posterior's density, its interval and mean, and the mean over all prompts."""
    _plain(axes, "What the router believes about each model")
    means = result.baselines.means
    low = min(min(result.standings[arm].lower for arm in order), min(means))
    high = max(max(result.standings[arm].upper for arm in order), max(means))
    margin = 0.06 * (high - low)
    x = np.linspace(max(0.0, low - margin), min(1.0, high + margin), _POINTS)
    for row, arm in enumerate(reversed(order)):
        standing, colour = result.standings[arm], colours[arm]
        density = _density(x, standing.mean, standing.n)
        axes.fill_between(x, row, row + 0.78 * density / density.max(), color=colour, alpha=0.35, linewidth=0)
        axes.plot([standing.lower, standing.upper], [row, row], color=colour, linewidth=3.2, solid_capstyle="round")
        axes.plot(standing.mean, row, "o", color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=1.2)
        axes.plot([means[arm]] * 2, [row - 0.2, row + 0.2], color=_INK, linewidth=1.6)
    axes.set_yticks(range(len(order)), [_name(result, arm) for arm in reversed(order)])
    axes.set_ylim(-0.5, len(order) - 0.05)
    axes.set_xlim(x[0], x[-1])
    axes.grid(axis="x", color="#E4E8EC", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("reward: density, 95 % interval, mean; | true mean over all prompts", fontsize=9.5, color=_INK)


def _name(result: Result, arm: int) -> str:
    standing = result.standings[arm]
    return f"{standing.arm_id}\n{standing.n:,} outcomes, P(best) {standing.probability_best:.2f}"


def _density(x: Array, mean: float, n: int) -> Array:
    """Return the density of the Beta posterior with this mean, of n outcomes and the uniform prior."""
    alpha, beta = mean * (n + 2.0), (1.0 - mean) * (n + 2.0)
    inner = np.clip(x, 1e-9, 1.0 - 1e-9)
    logarithm = (alpha - 1.0) * np.log(inner) + (beta - 1.0) * np.log1p(-inner) - betaln(alpha, beta)
    return np.asarray(np.exp(logarithm))


def _traffic(axes: Axes, result: Result, order: Sequence[int], colours: Mapping[int, str]) -> None:
    """The share of each arm among the decisions around each moment, the best believed at the bottom."""
    _plain(axes, "Where the traffic went")
    n = len(result.answers)
    chosen = np.array([answer.arm for answer in result.answers])
    width = max(n // 30, min(n, 20))
    # Averaged twice, so that single decisions entering and leaving do not show as teeth.
    shares = np.stack([_moving(_moving(chosen == arm, width), width) for arm in order])
    x = np.arange(1, n + 1)
    axes.stackplot(x, shares, colors=[colours[arm] for arm in order], edgecolor="white", linewidth=0.5)
    axes.set_xlim(1, max(n, 2))
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(_thousands())
    axes.set_xlabel(f"decisions; shares among about {width:,} around each", fontsize=9.5, color=_INK)
    bottom = np.cumsum(shares, axis=0) - shares
    for place, arm in enumerate(order):
        # Where the band is widest for the length of a name, if it is wide enough there; the others go by their colour.
        length = max(int(_NAME_LENGTH * n), 1)
        room = sliding_window_view(shares[place], length).min(axis=1)
        at = int(room.argmax()) + length // 2
        if room.max() > _NAMED:
            name = result.standings[arm].arm_id
            middle = float(bottom[place][at] + shares[place][at] / 2)
            axes.text(x[at], middle, name, ha="center", va="center", fontsize=10, color="white", fontweight="bold")


def _rewards(axes: Axes, result: Result) -> None:
    """The average so far, and lately, beside what choices without learning earn."""
    _plain(axes, "What it earned")
    n, rewards, baselines = len(result.rewards), result.rewards, result.baselines
    x = np.arange(1, n + 1)
    average = np.cumsum(rewards) / x
    width = max(n // 12, 1)
    first = min(20, n - 1)
    axes.plot(
        x[first:],
        _moving(rewards, width)[first:],
        color="#9CC5E3",
        linewidth=1.6,
        label=f"average of about {width:,} decisions around",
    )
    axes.plot(x[first:], average[first:], color="#0072B2", linewidth=2.6, label="average so far")
    bottom = min(baselines.uniform, float(average[first:].min()))
    span = baselines.oracle - bottom
    axes.set_xlim(1, max(n, 2))
    axes.set_ylim(bottom - 0.16 * span, baselines.oracle + 0.08 * span)
    lines = [
        (baselines.oracle, "best model of each prompt", "#7A8791"),
        (baselines.best_fixed, "best fixed model", "#009E73"),
        (float(average[-1]), "the router", "#0072B2"),
        (baselines.uniform, "uniform choice", "#D55E00"),
    ]
    heights = _apart([value for value, _, _ in lines], 0.085 * span)
    for (value, name, colour), height in zip(lines, heights, strict=True):
        ours = name == "the router"
        if not ours:
            axes.axhline(value, color=colour, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
        axes.annotate(
            f"{value:.3f}  {name}",
            (n, height),
            xytext=(8, 0),
            textcoords="offset points",
            fontsize=12 if ours else 10.5,
            fontweight="bold" if ours else "normal",
            color=colour,
            va="center",
            annotation_clip=False,
        )
    axes.xaxis.set_major_formatter(_thousands())
    axes.set_xlabel("decisions", fontsize=9.5, color=_INK)
    axes.legend(loc="lower right", frameon=False, fontsize=9.5, ncols=2, labelcolor=_INK)


def _apart(values: Sequence[float], least: float) -> list[float]:
    """Return heights for labels of these values: the same order, moved as little as keeps them `least` apart."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    heights = list(values)
    for _ in range(len(values) ** 2):
        for low, high in pairwise(order):
            missing = least - (heights[high] - heights[low])
            if missing > 0.0:
                heights[low] -= missing / 2
                heights[high] += missing / 2
    return heights


def _moving(values: Array | np.ndarray, width: int) -> Array:
    """Return the mean of about `width` values around each, of fewer at the ends."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    low, high = np.maximum(at - width // 2, 0), np.minimum(at + (width + 1) // 2, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _thousands() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}")
