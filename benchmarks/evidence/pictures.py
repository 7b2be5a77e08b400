"""The pictures of the evidence: one for each section that has something to see."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from benchmarks.evidence.findings import Section
from benchmarks.evidence.intervals import AIPW, ANYTIME, LEVEL

_OURS, _THEIRS, _INK, _FAINT, _THIRD = "#0072B2", "#D55E00", "#22303C", "#8795A1", "#009E73"
_COLOURS = (_OURS, _THEIRS, _THIRD, "#CC79A7", "#E69F00")


def draw(sections: Mapping[str, Section], directory: Path) -> dict[str, str]:
    """Draw what there is into `directory`; return the picture of each section, relative to its parent."""
    drawn = {}
    for name, section in sections.items():
        picture = directory / f"{name}.png"
        picture.unlink(missing_ok=True)
        if name in _DRAWERS and section.curves:
            canvas = Canvas(figsize=(10, 5), dpi=120, facecolor="white", layout="constrained")
            FigureCanvasAgg(canvas)
            _DRAWERS[name](canvas, section.curves)
            canvas.savefig(picture)
            drawn[name] = f"{directory.name}/{picture.name}"
    return drawn


def _delay(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "Delay of feedback, in steps", "Regret of a million steps", "Chapelle & Li, table 1")
    runs = np.array(curves["ours"])
    error = 3 * runs.std(axis=1, ddof=1) / np.sqrt(runs.shape[1])
    axes.errorbar(
        curves["lags"], runs.mean(axis=1), error, color=_OURS, marker="o", capsize=4, label="ours, ± 3 standard errors"
    )
    axes.plot(curves["lags"], curves["published"], color=_THEIRS, marker="s", linestyle="--", label="published")
    axes.plot(curves["lags"], curves["independent"], color=_THIRD, marker="^", linestyle=":", label="another program")
    axes.set(xscale="log", yscale="log")
    axes.legend(frameon=False)


def _lai_robbins(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    for place, (name, of) in enumerate(curves.items()):
        axes = _axes(canvas.add_subplot(2, 2, place + 1), "Step", "Regret", name)
        steps, regret = np.array(of["steps"]), np.array(of["regret"])
        error = 3 * np.array(of["stderr"])
        axes.plot(steps, regret, color=_OURS, label="ours, ± 3 standard errors")
        axes.fill_between(steps, regret - error, regret + error, color=_OURS, alpha=0.2, linewidth=0)
        # The bound says nothing of the offset: the line is put through the last point.
        line = regret[-1] + of["least_slope"] * np.log(steps / steps[-1])
        axes.plot(steps, line, color=_THEIRS, linestyle="--", label="least slope")
        axes.set(xscale="log", ylim=(0, 1.1 * regret.max()))
        axes.legend(frameon=False, fontsize=8)


def _stopping(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "Days until the rule stops", "Runs", "4 % against 5 %, 100 visits a day")
    axes.hist(curves["days"], bins=40, color=_OURS, alpha=0.7)
    axes.axvline(curves["fixed_days"], color=_THEIRS, linestyle="--", label="test of fixed size")
    axes.axvline(float(np.mean(curves["days"])), color=_INK, label="mean")
    axes.legend(frameon=False)


def _top_two(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "Samples", "Runs that are sure", "Five arms until P(best) is .95")
    for colour, (name, lengths) in zip(_COLOURS, curves.items(), strict=False):
        axes.plot(lengths, np.arange(1, len(lengths) + 1) / len(lengths), color=colour, label=name)
    axes.set(xscale="log", ylim=(0, 1))
    axes.legend(frameon=False)


def _drift(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "Hour", "Traffic on the arm that jumps", "From .4 to .9 and back")
    for colour, (name, share) in zip(_COLOURS, curves["share_of_the_jumping_arm"].items(), strict=False):
        axes.plot(share, color=colour, label=name)
    axes.axvspan(*curves["best_in_hours"], color=_FAINT, alpha=0.2, label="is the best arm")
    axes.set(ylim=(0, 1))
    axes.legend(frameon=False)


def _coverage(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "Logs in which the 95 % interval holds", "", "Coverage under adaptive allocation")
    names = list(next(iter(curves.values())))
    for offset, (colour, (scene, of)) in enumerate(zip(_COLOURS, curves.items(), strict=False)):
        for place, name in enumerate(names):
            shares = of[name]["coverage"]
            height = np.full(len(shares), place + 0.2 * (offset - 1))
            axes.scatter(shares, height, color=colour, s=16, label=scene if place == 0 else None)
    axes.axvline(LEVEL, color=_INK, linewidth=1)
    kinds = {name: ", all times" if name in ANYTIME else ", AIPW" if name in AIPW else "" for name in names}
    axes.set_yticks(range(len(names)), [name + kinds[name] for name in names], fontsize=9)
    axes.legend(frameon=False, loc="lower left")


def _offpolicy(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "True mean of the arm", "Error of the estimate", "Nine arms from adaptive logs")
    for place, (colour, (name, of)) in enumerate(zip(_COLOURS, curves.items(), strict=False)):
        truth = np.array(of["truth"])
        error = np.array(of["mean"]) - truth
        moved = truth + 0.0015 * (place - 2)
        axes.errorbar(moved, error, of["deviation"], color=colour, fmt="o", markersize=4, capsize=2, label=name)
    axes.axhline(0.0, color=_INK, linewidth=1)
    axes.legend(frameon=False, ncols=5, title="mean, and deviation of one log")


def _outcomes(canvas: Canvas, curves: Mapping[str, Any]) -> None:
    axes = _axes(canvas.add_subplot(), "", "Regret of one pass", "5,608 prompts, nine LLMs, feedback 64 prompts later")
    regret = curves["regret"]
    axes.boxplot(list(regret.values()), medianprops={"color": _OURS})
    labels = [f"ours, {name}" if name.startswith("floor") else name for name in regret]
    axes.set_xticks(range(1, len(labels) + 1), labels)
    axes.set_ylim(bottom=0)


def _axes(axes: Axes, x: str, y: str, title: str) -> Axes:
    axes.set_xlabel(x, color=_FAINT)
    axes.set_ylabel(y, color=_FAINT)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(color=_FAINT, alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


_DRAWERS: dict[str, Callable[[Canvas, Mapping[str, Any]], None]] = {
    "delay": _delay,
    "lai-robbins": _lai_robbins,
    "stopping": _stopping,
    "top-two": _top_two,
    "drift": _drift,
    "coverage": _coverage,
    "offpolicy": _offpolicy,
    "outcomes": _outcomes,
}
