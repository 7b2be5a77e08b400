"""`evaluate`: let the arms of an experiment answer a dataset, and compare them before they meet users."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from router.cli.options import json_option

if TYPE_CHECKING:
    from router.llm.evaluate.session import Options, Progress

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
#: Exit status after SIGINT and SIGTERM, as shells have it.
_INTERRUPTED, _TERMINATED = 130, 143
#: Cells of a line where no terminal says how many it has.
_FILE_WIDTH = 120


def _reading_options(command: F) -> F:
    """Add what says how answers are read, whenever they were made."""
    for option in (
        click.option("--html", type=_FILE, metavar="FILE", help="Write the report as a page with pictures, too."),
        click.option(
            "--effect",
            type=click.FloatRange(0, 1, min_open=True),
            default=0.05,
            show_default=True,
            help="The difference of mean scores for which to say how many items would show it.",
        ),
        click.option(
            "--errors-score",
            type=click.FloatRange(0, 1),
            help="Count a call that failed as this score, for example 0.  [default: leave it out]",
        ),
        click.option("--control", metavar="ARM", help="Compare with this arm.  [default: the control, or the first arm]"),
    ):
        command = option(command)
    return json_option(command)


@click.group()
def evaluate() -> None:
    """Compare arms on a dataset, before they meet users."""


@evaluate.command()
@click.option("-f", "--file", "file", type=_FILE, required=True, help="The experiment file.")
@click.option("--dataset", type=_FILE, required=True, help="JSON Lines of items: id, prompt, and what to check against.")
@click.option(
    "--check",
    "checks",
    multiple=True,
    help="exact_match, exact_match:strict, regex:PATTERN, json_schema:FILE, judge:PROVIDER:MODEL or"
    " python:MODULE:FUNCTION. Several are several scores.",
)
@click.option("--out", type=_FILE, required=True, help="The journal. A run goes on where it ends.")
@click.option("--arm", "arms", multiple=True, metavar="ARM", help="Evaluate only these arms.  [default: all]")
@click.option("--samples", type=click.IntRange(1, 1000), default=1, show_default=True, help="Answers for each item and arm.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True, help="Calls at a time.")
@click.option("--attempts", type=click.IntRange(1, 20), default=5, show_default=True, help="How often a call is tried.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True, help="Seconds for a call."
)
@click.option(
    "--provider", "providers", multiple=True, metavar="ARM=NAME", help="anthropic or openai, if not as the family says."
)
@click.option(
    "--base-url",
    "base_urls",
    multiple=True,
    metavar="[NAME=]URL",
    help="Where a provider is: a gateway, or a server of yours.",
)
@click.option("--prices", type=_FILE, help="YAML: MODEL: {input_usd: 1.0, output_usd: 5.0}, dollars for a million tokens.")
@click.option("--max-cost-usd", type=click.FloatRange(0, min_open=True), help="Stop before more is spent; needs --prices.")
@click.option("--rubric", type=_FILE, help="What judges grade by, as a text file.")
@click.option("--judge-family", help="The family of the judges' models.  [default: their provider]")
@click.option("--allow-same-family", is_flag=True, help="Let a judge grade arms of its own family.")
@click.option("--retry-errors", is_flag=True, help="Ask again where the journal holds an error.")
@_reading_options
def run(
    file: Path,
    dataset: Path,
    checks: tuple[str, ...],
    out: Path,
    arms: tuple[str, ...],
    samples: int,
    concurrency: int,
    attempts: int,
    timeout: float,
    providers: tuple[str, ...],
    base_urls: tuple[str, ...],
    prices: Path | None,
    max_cost_usd: float | None,
    rubric: Path | None,
    judge_family: str | None,
    allow_same_family: bool,
    retry_errors: bool,
    control: str | None,
    errors_score: float | None,
    effect: float,
    html: Path | None,
    as_json: bool,
) -> None:
    """Ask every arm of the experiment for every item, score the answers, and report.

    Answers are in the journal as they come. After an interruption the same command goes on and asks for nothing twice.
    Exits with status 1 if the cost cap ended the run.
    """
    from router.config import load_experiment_file
    from router.llm.evaluate.prices import load_prices
    from router.llm.evaluate.session import Options

    with _explained():
        experiment = load_experiment_file(file).experiment
        options = Options(
            dataset=dataset,
            out=out,
            checks=list(dict.fromkeys(checks)),
            only=arms,
            providers=dict(_pair(text, "--provider", "ARM=NAME") for text in providers),
            base_urls=dict(_address(text) for text in base_urls),
            samples=samples,
            concurrency=concurrency,
            attempts=attempts,
            timeout_s=timeout,
            max_cost_usd=max_cost_usd,
            prices=load_prices(prices) if prices is not None else {},
            judge_family=judge_family,
            allow_same_family=allow_same_family,
            retry_errors=retry_errors,
            **({} if rubric is None else {"rubric": rubric.read_text(encoding="utf-8").strip()}),
        )
        finished = _evaluate(experiment, options)
        _report(out, control, errors_score, effect, html, as_json)
    if not finished:
        click.echo("error: the cost cap ended the run: to go on, run it again with a larger --max-cost-usd", err=True)
        raise SystemExit(1)


@evaluate.command()
@click.argument("journal", type=_FILE)
@_reading_options
def report(
    journal: Path, control: str | None, errors_score: float | None, effect: float, html: Path | None, as_json: bool
) -> None:
    """Report what a journal holds, also while it is being written."""
    with _explained():
        _report(journal, control, errors_score, effect, html, as_json)


def _evaluate(experiment: Any, options: Options) -> bool:
    """Run to the end, the cost cap or a signal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from router.llm.evaluate.session import evaluate as perform

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    terminated = False

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("asking", total=None)
        last: list[Progress] = []

        def show(progress: Any) -> None:
            last[:] = [progress]
            errors = f", {progress.errors:,} errors" if progress.errors else ""
            spent = f", ${progress.charged_usd:,.4f}" if options.prices else ""
            bar.update(task, description=f"asking{errors}{spent}", completed=progress.done, total=progress.planned)

        async def terminable() -> bool:
            nonlocal terminated
            own = asyncio.current_task()

            def terminate() -> None:
                nonlocal terminated
                terminated = True
                if own is not None:
                    own.cancel()

            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
            return await perform(experiment, options, show)

        try:
            return asyncio.run(terminable())
        except (KeyboardInterrupt, asyncio.CancelledError):
            bar.stop()
            done = f"{last[0].done:,} of {last[0].planned:,} answers are" if last else "nothing is"  # type: ignore[attr-defined]
            click.echo(f"interrupted: {done} in {options.out}; the same command goes on from there", err=True)
            raise SystemExit(_TERMINATED if terminated else _INTERRUPTED) from None


def _report(
    journal: Path, control: str | None, errors_score: float | None, effect: float, html: Path | None, as_json: bool
) -> None:
    from rich.console import Console

    from router.llm.evaluate.findings import read_record
    from router.llm.evaluate.summary import Reading, summarise
    from router.llm.reports import render_html, render_json, render_terminal, write_file

    found = summarise(read_record(journal), Reading(control, errors_score, effect))
    if html is not None:
        write_file(html, render_html(found))
    if as_json:
        click.echo(render_json(found), nl=False)
        return
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    render_terminal(found, console)
    if html is not None:
        click.echo(f"\n{html} written")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    from router.cli.main import fail
    from router.llm.evaluate.errors import EvaluationError

    try:
        yield
    except EvaluationError as error:
        fail(str(error))


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.UsageError(f"{option} {text!r}: write {form}")
    return name, value


def _address(text: str) -> tuple[str, str]:
    """Return a provider, empty for every one, and its address."""
    name, equals, url = text.partition("=")
    provider, address = (name, url) if equals and name in ("anthropic", "openai") else ("", text)
    if not address.startswith(("http://", "https://")):
        raise click.UsageError(f"--base-url {text!r}: write [anthropic=|openai=]http://HOST/…")
    return provider, address
