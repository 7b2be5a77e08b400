"""The report of a judge run: read, and shown on a terminal, as JSON or as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import grpc

if TYPE_CHECKING:
    from rich.console import Console

    from router.v1 import judge_pb2 as pb

F = TypeVar("F", bound=Callable[..., Any])
#: Drawing a large sample, and counting many verdicts, take a while.
LONG_S: Final = 120.0
FILE: Final = click.Path(path_type=Path, dir_okay=False)
#: Cells of a line where no terminal says how many it has.
_FILE_WIDTH: Final = 120


def html_option(command: F) -> F:
    """Add --html."""
    return click.option("--html", type=FILE, metavar="FILE", help="Write the report as a page, too.")(command)


def read_report(channel: grpc.Channel, run_id: str) -> pb.GetJudgeReportResponse:
    """Return what the verdicts of a run say so far."""
    from router.v1 import judge_pb2 as pb
    from router.v1 import judge_pb2_grpc

    request = pb.GetJudgeReportRequest(run_id=run_id)
    found: pb.GetJudgeReportResponse = judge_pb2_grpc.JudgeServiceStub(channel).GetJudgeReport(request, timeout=LONG_S)
    return found


def show(message: pb.GetJudgeReportResponse, html: Path | None, as_json: bool) -> None:
    """Show a report, and write it as a page where a file is given."""
    from router.llm.judge.report import report_of
    from router.llm.reports import render_html, render_json, render_terminal, write_file

    found = report_of(message)
    if html is not None:
        write_file(html, render_html(found))
    if as_json:
        click.echo(render_json(found), nl=False)
        return
    render_terminal(found, console())
    if html is not None:
        click.echo(f"\n{html} written")


def console() -> Console:
    """Return a console on standard output."""
    from rich.console import Console

    found = Console()
    if not found.is_terminal:
        found.width = _FILE_WIDTH
    return found
