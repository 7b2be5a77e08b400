"""How every picture looks: one size, one palette, dark text on white, a title that says the finding.

Drawn with matplotlib's object interface on Agg: no display, no global state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

#: Colours that the colour-blind tell apart, the easiest first; the first eight are those of Okabe and Ito (2008).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#B8A500")
INK, FAINT, GRID, OTHERS = "#22303C", "#5B6975", "#E4E8EC", "#A9B2BA"
FORMATS = ("png", "svg", "pdf")
#: Inches: a slide of 16 by 9.
_SIZE = (12.0, 6.75)
#: No date is written, and ids in SVG follow from this: equal data gives equal files.
_METADATA: Mapping[str, Mapping[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
_SALT = "bandit-router"
_LONGEST_NAME = 24


def canvas(finding: str, detail: str, *, right: float = 0.84, left: float = 0.075) -> tuple[Figure, Axes]:
    """Return a figure with its finding as the title, what is drawn below it, and its axes."""
    figure = Figure(figsize=_SIZE, dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(text(finding), x=0.03, y=0.955, ha="left", va="center", fontsize=18, fontweight="bold", color=INK)
    figure.text(0.03, 0.9, text(detail), ha="left", va="center", fontsize=11.5, color=FAINT)
    axes = figure.add_axes((left, 0.12, right - left, 0.715))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=11, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write a figure as the suffix of the file says. Raises ValueError for another one, OSError as opening a file does."""
    form = format_of(path)
    with matplotlib.rc_context({"svg.hashsalt": _SALT}):
        figure.savefig(path, format=form, metadata=dict(_METADATA[form]))


def format_of(path: Path) -> str:
    """Return the format that a file's suffix names. Raises ValueError for one that there is not."""
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise ValueError(f"{path}: the name must end with .png, .svg or .pdf")
    return form


def colours_of(defined: Sequence[str], ranked: Sequence[str]) -> dict[str, str]:
    """Return the colour of each name: in the order of the definition, so that an arm has one colour in all pictures.

    Where there are more names than colours the first of the ranking get them, and all others one grey.
    """
    order = list(dict.fromkeys([*defined, *ranked]))
    if len(order) > len(PALETTE):
        order = list(dict.fromkeys([*ranked, *defined]))
    return {name: PALETTE[i] if i < len(PALETTE) else OTHERS for i, name in enumerate(order)}


def text(value: str) -> str:
    """Return a text as it is to be read: a dollar begins no formula."""
    return value.replace("$", r"\$")


def short(name: str) -> str:
    """Return a name that fits beside a picture, as it is to be read."""
    return text(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…")


def day_of(time: datetime) -> float:
    """Return a time as axes have it: days since 1970."""
    return float(date2num(time))  # type: ignore[no-untyped-call]


def time_axis(axes: Axes) -> None:
    """Label the horizontal axis with times in UTC."""
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    axes.set_xlabel("time (UTC)", fontsize=11, color=INK)


def name_ends(axes: Axes, ends: Iterable[tuple[float, str, str]], least: float) -> None:
    """Write names right of the axes, each near its height: (height, name, colour), `least` apart."""
    found = list(ends)
    for (_, name, colour), height in zip(found, apart([end[0] for end in found], least), strict=True):
        axes.annotate(
            short(name),
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            fontsize=11.5,
            fontweight="bold",
            color=darker(colour),
            va="center",
            annotation_clip=False,
        )


def darker(colour: str) -> str:
    """Return a colour that is dark enough to be read as text on white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(0.72 * part):02x}" for part in parts)


def apart(values: Sequence[float], least: float) -> list[float]:
    """Return heights for these values: in the same order, `least` apart, and each near its own."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    # Those that touch are one block around the mean of where they want to be; blocks that touch are merged.
    blocks: list[tuple[float, list[int]]] = []
    for i in order:
        blocks.append((values[i], [i]))
        while len(blocks) > 1:
            (below, lower), (above, upper) = blocks[-2], blocks[-1]
            if above - below >= least * (len(lower) + len(upper)) / 2:
                break
            members = lower + upper
            blocks[-2:] = [((below * len(lower) + above * len(upper)) / len(members), members)]
    heights = list(values)
    for middle, members in blocks:
        for place, i in enumerate(members):
            heights[i] = middle + (place - (len(members) - 1) / 2) * least
    return heights
