"""`export`: what the router has, as files."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router.cli.calls import connected, read_several, state_name
from router.cli.options import database_at, database_options, json_option, server_option
from router.config import dump_experiment_file
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

_CONCLUDED = "# It is concluded: no file starts it again.\n"


@click.group()
def export() -> None:
    """Write what the router has as files."""


@export.command()
@click.argument("experiment_ids", nargs=-1, metavar="[EXPERIMENT]...")
@click.option(
    "-o",
    "--output",
    default="-",
    show_default=True,
    metavar="DIR|-",
    help="Write one file for each experiment into this directory; - is standard output.",
)
@server_option
@json_option
def experiments(experiment_ids: tuple[str, ...], output: str, server: str, as_json: bool) -> None:
    """Write experiments as the files that `apply` reads: applying them changes nothing."""
    with connected(server) as channel:
        found = read_several(experiments_pb2_grpc.ExperimentServiceStub(channel), experiment_ids)
    texts = {experiment.experiment_id: as_file(experiment) for experiment in found}
    if output == "-":
        if as_json:
            click.echo(json.dumps([{"experiment_id": name, "content": text} for name, text in texts.items()], indent=2))
        else:
            click.echo("---\n".join(texts.values()), nl=False)
        return
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    written = {name: directory / f"{quote(name, safe='')}.yaml" for name in texts}
    for name, path in written.items():
        path.write_text(texts[name], encoding="utf-8")
    if as_json:
        click.echo(json.dumps([{"experiment_id": name, "file": str(path)} for name, path in written.items()], indent=2))
    else:
        for path in written.values():
            click.echo(f"wrote {path}")


_DATASETS = {
    "decisions": "Write decisions, with the vectors that they were drawn from, as Parquet files.",
    "events": "Write events of feedback as Parquet files.",
    "outcomes": "Write the outcomes of decisions as Parquet files.",
    "snapshots": "Write posteriors as they were as Parquet files.",
    "all": "Write decisions, events, outcomes and snapshots as Parquet files.",
}
_COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "none")
_DAY = click.DateTime(["%Y-%m-%d"])


def _log_command(dataset: str, about: str) -> click.Command:
    @click.command(dataset, help=f"{about}\n\n{_HOW}", short_help=about)
    @database_options
    @click.option("--experiment", required=True, help="The experiment.")
    @click.option(
        "--to",
        "directory",
        required=True,
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="The directory of the files: one for each experiment.",
    )
    @click.option("--start", type=_DAY, metavar="DAY", help="The first day, in UTC, as in 2026-11-22.")
    @click.option("--end", type=_DAY, metavar="DAY", help="The day after the last one.")
    @click.option(
        "--compression",
        type=click.Choice(_COMPRESSIONS),
        default="zstd",
        show_default=True,
        help="Of the files that are written: finished days keep theirs, unless --rewrite.",
    )
    @click.option("--rewrite", is_flag=True, help="Write finished days again too.")
    @json_option
    def command(
        database_url: str | None,
        data_dir: Path,
        experiment: str,
        directory: Path,
        start: datetime | None,
        end: datetime | None,
        compression: str,
        rewrite: bool,
        as_json: bool,
    ) -> None:
        try:
            from router.analysis import AnalysisError
            from router.analysis.parquet import DATASETS, export_experiment
        except ModuleNotFoundError as error:
            raise click.UsageError(str(error)) from None
        first = date.min if start is None else start.date()
        last = date.max if end is None else end.date() - timedelta(days=1)
        if first > last:
            raise click.UsageError(f"--start {first}: must be before --end {last + timedelta(days=1)}")
        with database_at(database_url, data_dir) as url, _bar(hidden=as_json) as told:
            try:
                done = export_experiment(
                    url,
                    experiment,
                    directory,
                    DATASETS if dataset == "all" else (dataset,),
                    first=first,
                    last=last,
                    compression=compression,
                    rewrite=rewrite,
                    progress=told,
                )
            except AnalysisError as error:
                raise click.UsageError(str(error)) from None
        if as_json:
            click.echo(json.dumps({"directory": str(directory), "datasets": [asdict(found) for found in done]}, indent=2))
            return
        for found in done:
            click.echo(
                f"{found.dataset}: {found.rows_written:,} rows of {found.days_written:,} days written,"
                f" {found.days_kept:,} days as they were; {found.rows:,} rows and {found.bytes / 1e6:,.1f} MB in all"
            )

    return command


_HOW = """A file for each day of the decisions: DIR/decisions/day=2026-11-22/part-0.parquet. Run it again to go on: finished
days are written once, days that still change each time, and DIR/manifest.json says which are which."""

for _name, _about in _DATASETS.items():
    export.add_command(_log_command(_name, _about))


@contextmanager
def _bar(hidden: bool) -> Iterator[Callable[[int, int, int], None]]:
    columns = (
        *(TextColumn("days"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rows]:,} rows"), TimeElapsedColumn()),
    )
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as progress:
        task = progress.add_task("export", total=None, rows=0)
        yield lambda done, days, rows: progress.update(task, completed=done, total=days, rows=rows)


def as_file(experiment: pb.Experiment) -> str:
    """Return the file that brings an experiment to where it is."""
    if experiment.state == pb.STATE_CONCLUDED:
        return _CONCLUDED + dump_experiment_file(experiment)
    return dump_experiment_file(experiment, state_name(experiment.state))
