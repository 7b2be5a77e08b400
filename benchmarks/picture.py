"""The picture: how much of its target each figure reached."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from benchmarks.report import Report, number

_REACHED, _MISSED, _INK, _FAINT = "#0072B2", "#D55E00", "#22303C", "#8795A1"
#: What lies beyond is drawn at the edge.
_LEAST, _MOST = 0.02, 50.0


def draw(report: Report, path: Path) -> None:
    """Write the picture as a PNG."""
    figures = list(reversed(report.figures))
    canvas = Canvas(figsize=(13.5, 1.6 + 0.29 * len(figures)), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    scores = [min(max(figure.score, _LEAST), _MOST) for figure in figures]
    colours = [_REACHED if figure.passed else _MISSED for figure in figures]
    axes.hlines(range(len(figures)), 1.0, scores, colors=colours, linewidth=5, alpha=0.35)
    axes.scatter(scores, range(len(figures)), color=colours, s=46, zorder=3)
    for place, figure in enumerate(figures):
        value = f"{number(figure.value)} {figure.unit}"
        beside = "" if figure.baseline is None else f" beside {number(figure.baseline)}"
        axes.text(_MOST * 1.25, place, f"{value}{beside}   ({figure.target})", va="center", fontsize=8.5, color=_INK)
    axes.axvline(1.0, color=_INK, linewidth=1)
    axes.set(xscale="log", xlim=(_LEAST, _MOST * 1.1), ylim=(-0.7, len(figures) - 0.3))
    axes.set_yticks(range(len(figures)), [figure.name for figure in figures], fontsize=9, color=_INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} ×"))
    axes.set_xlabel("of the target; right of the line is better", color=_FAINT)
    axes.set_title(
        f"{report.headline}\n{report.machine['cores']} cores, {report.machine['cpu']}, commit {report.versions['commit']}",
        loc="left",
        fontsize=11,
        color=_INK,
    )
    axes.grid(axis="x", color=_FAINT, alpha=0.25)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False, colors=_INK)
    canvas.savefig(path, bbox_inches="tight")
