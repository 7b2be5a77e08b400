"""Reports: what people, programs and browsers get of the same findings."""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from router.llm.report import Interval, IntervalPlot, Report, Table
from router.llm.report_axis import axis_of, number
from router.llm.report_text import shortened, visible
from router.llm.reports import render_html, render_json, render_terminal, write_file

NAN = math.nan
ATTACK = "<script>alert('x')</script>\"'{{ 7 * 7 }}<img src=https://evil.example/x onerror=y>"
PLOT = IntervalPlot(
    "Mean score",
    [
        Interval("haiku", 0.5, 0.4, 0.6, 40),
        Interval("sonnet", 0.62, 0.5, 0.72, 1_040, "2 errors"),
        Interval("opus", None, NAN, NAN, 0),
    ],
    reference=0.5,
    axis="score",
)
REPORT = Report(
    "support-model",
    "sonnet is better than haiku by 0.12.",
    {"items": "40", "arms": "haiku, sonnet"},
    plots=[PLOT],
    tables=[Table("Worst items", ["item", "haiku", "answer"], [["q1", "1.000", "yes"], ["q2", "0.000", "no"]])],
    warnings=["few items"],
    data={"n": 40},
)


def terminal(report: Report, width: int, *, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    render_terminal(report, Console(file=out, width=width, color_system=None))
    return "\n".join(line.rstrip() for line in raw.getvalue().decode(encoding).splitlines())


class Page(HTMLParser):
    """What a browser makes of a page: every element is closed, text and attributes are kept."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for its_tag, its_name, value in self.attributes if (its_tag, its_name) == (tag, name)]


WIDE = """\
support-model
sonnet is better than haiku by 0.12.
warning: few items

items  40
arms   haiku, sonnet

Mean score
haiku   ├───────────●───────────┤                          0.500 [0.400, 0.600]  n = 40
sonnet              ├─────────────●───────────┤            0.620 [0.500, 0.720]  n = 1,040
                                                           2 errors
opus                ┊                                      no estimate  n = 0
        0.4                                           0.8  score
┊ 0.500

Worst items
item   haiku   answer
─────────────────────
q1     1.000   yes
q2     0.000   no"""
NARROW = """\
support-model
sonnet is better than haiku by 0.12.
warning: few items

items  40
arms   haiku, sonnet

Mean score
haiku   0.500 [0.400, 0.600]  n = 40
sonnet  0.620 [0.500, 0.720]  n = 1,040
        2 errors
opus    no estimate  n = 0
        score
┊ 0.500

Worst items
item   haiku   answer
─────────────────────
q1     1.000   yes
q2     0.000   no"""


@pytest.mark.parametrize(("width", "shown"), [(90, WIDE), (44, NARROW)], ids=["wide", "narrow"])
def test_a_terminal(width: int, shown: str) -> None:
    assert terminal(REPORT, width) == shown


@pytest.mark.parametrize("width", [12, 30, 60, 100, 200])
def test_no_terminal_is_too_narrow_and_no_line_too_long(width: int) -> None:
    shown = terminal(REPORT, width)
    assert max(map(len, shown.splitlines())) <= width
    folded = "".join(shown.split())
    for said in ("0.620", "noestimate", "fewitems"):
        assert said in folded
    assert "nan" not in shown.lower()


def test_bars_are_where_the_numbers_are() -> None:
    lines = terminal(REPORT, 100).splitlines()
    haiku, sonnet = (next(line for line in lines if line.startswith(f"{name}  ")) for name in ("haiku", "sonnet"))
    # The reference, haiku's estimate and sonnet's lower end are all .5.
    assert haiku.index("●") == sonnet.index("├")
    assert haiku.index("├") < haiku.index("●") < haiku.index("┤")
    assert abs((haiku.index("┤") - haiku.index("●")) - (haiku.index("●") - haiku.index("├"))) <= 1


def test_a_terminal_without_line_drawing_characters() -> None:
    shown = terminal(replace(REPORT, tables=()), 100, encoding="ascii")
    assert "o" in shown
    assert "|" in shown


def test_markup_and_escapes_of_models_do_nothing_on_a_terminal() -> None:
    shown = terminal(replace(REPORT, summary="[bold]x[/bold] \x1b[2J\x07\u202edone"), 100)
    assert "[bold]x[/bold]" in shown
    assert not set("\x1b\x07\u202e") & set(shown)


def test_the_picture_shows_the_numbers() -> None:
    page = Page(render_html(REPORT))
    assert page.tags.count("svg") == 1
    assert "0.500 [0.400, 0.600], n = 40" in page.text["text"]
    assert "0.620 [0.500, 0.720], n = 1,040, 2 errors" in page.text["text"]
    assert "no estimate, n = 0" in page.text["text"]
    # Two points for three rows; the reference and haiku's point are at the same place, sonnet's is to the right.
    points = [float(value.rstrip("%")) for value in page.values("circle", "cx")]
    assert len(points) == 2
    assert points[0] == pytest.approx(5 + 90 * 0.25, abs=0.01)  # a quarter of the way from .4 to .8
    assert points[0] < points[1] < 95.0
    alternative = page.values("svg", "aria-label")[0]
    assert "haiku: 0.500 [0.400, 0.600], n = 40" in alternative
    assert "reference line is at 0.500" in alternative


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    hostile = Report(
        ATTACK,
        ATTACK,
        {ATTACK: ATTACK},
        plots=[IntervalPlot(ATTACK, [Interval(ATTACK, 0.5, 0.1, 0.9, 3, ATTACK)], axis=ATTACK)],
        tables=[Table(ATTACK, [ATTACK], [[ATTACK]])],
        warnings=[ATTACK],
    )
    html = render_html(hostile)
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "embed", "base", "form", "use", "image"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "style", "srcset")]
    assert page.values("link", "href") == ["data:,"]
    assert not re.search(r"@import|url\(", "".join(page.text["style"]))
    assert "default-src 'none'" in " ".join(page.values("meta", "content"))
    assert page.text["h1"] == [ATTACK]
    assert "<script>" not in html
    # Without what models wrote there is no address at all.
    assert "//" not in render_html(REPORT)


def test_control_characters_do_not_reach_the_page() -> None:
    html = render_html(replace(REPORT, summary="a\x00b\x1bc\ud800d"))
    assert "a\ufffdb\ufffdc\ufffdd" in html
    html.encode("utf-8")


def test_the_same_report_is_the_same_page() -> None:
    assert render_html(REPORT) == render_html(REPORT)
    assert render_json(REPORT) == render_json(REPORT)


def test_json_has_every_number_and_no_other() -> None:
    found = json.loads(render_json(REPORT), parse_constant=lambda name: pytest.fail(name))
    assert found["schema_version"] == 1
    assert found["summary"] == REPORT.summary
    assert list(found["facts"]) == ["items", "arms"]
    assert found["plots"][0]["rows"][0] == {
        "label": "haiku",
        "estimate": 0.5,
        "lower": 0.4,
        "upper": 0.6,
        "n": 40,
        "note": "",
    }
    assert found["plots"][0]["rows"][2] == {
        "label": "opus",
        "estimate": None,
        "lower": None,
        "upper": None,
        "n": 0,
        "note": "",
    }
    assert found["tables"][0]["rows"][1] == ["q2", "0.000", "no"]


def test_json_of_odd_values() -> None:
    data = {"z": np.float64("nan"), "a": np.arange(2), "m": {"inf": math.inf, "n": np.int64(3)}, "t": (True, None)}
    text = render_json(replace(REPORT, data=data, summary="\ud800"))
    found = json.loads(text)
    assert found["data"] == {"a": [0, 1], "m": {"inf": None, "n": 3}, "t": [True, None], "z": None}
    assert list(found["data"]) == ["a", "m", "t", "z"]
    text.encode("utf-8")
    with pytest.raises(TypeError, match=r"data\.a\[1\] is object"):
        render_json(replace(REPORT, data={"a": [1, object()]}))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Interval("a", None, NAN, NAN, 0)],
        [Interval("a", 0.3, 0.3, 0.3, 1)],
        [Interval("a", 0.0, 0.0, 0.0, 1)],
        [Interval("a", 0.3, NAN, NAN, 1)],
        [Interval("a", 0.3, -math.inf, math.inf, 1)],
        [Interval("a", 1e-12, 0.0, 1e300, 1), Interval("b", -1e300, -1e300, 0.0, 1)],
        [Interval("a", NAN, 0.1, 0.2, 1)],
    ],
)
def test_plots_of_odd_numbers(rows: list[Interval]) -> None:
    report = replace(REPORT, plots=[IntervalPlot("odd", rows)])
    html, shown = render_html(report), terminal(report, 100)
    json.loads(render_json(report), parse_constant=lambda name: pytest.fail(name))
    Page(html)
    assert not re.search(r"\bnan\b|\binf\b", (html + shown).lower())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "0.500"),
        (-0.25, "-0.250"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (0.01234, "0.012"),
        (0.001234, "0.00123"),
        (-0.00001, "-1e-05"),
        (0.00996, "0.010"),
        (12345.6, "12,346"),
        (math.inf, "∞"),
        (None, "no estimate"),
        (NAN, "no estimate"),
    ],
)
def test_numbers_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_axes_hold_what_they_show() -> None:
    axis = axis_of(PLOT)
    assert axis.low <= 0.4
    assert axis.high >= 0.72
    assert axis.ticks == [0.4, 0.5, 0.6, 0.7, 0.8]
    assert axis_of(IntervalPlot("empty", [])).ticks == [0.0, 0.5, 1.0]


def test_text_is_made_visible_and_short() -> None:
    assert visible("ä\tb\nc\r\nd") == "ä\tb\nc\nd"
    assert visible("a\rb") == "a\ufffdb"
    assert shortened("a  b\nc", 10) == "a b c"
    assert shortened("abcdef", 4) == "abc…"


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    path.chmod(0o640)
    write_file(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    link = tmp_path / "link"
    link.symlink_to(path)
    write_file(link, "newer")
    assert link.is_symlink()
    assert path.read_text() == "newer"
    assert not stat.S_IMODE(path.stat().st_mode) & 0o111


@pytest.mark.parametrize("where", ["missing/report.html", "directory", "file/report.html"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written") as caught:
        write_file(tmp_path / where, "x")
    assert caught.value.filename == str(tmp_path / where)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
