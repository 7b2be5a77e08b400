"""What commands read of an experiment's past, from a router or from its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import grpc
from click.core import ParameterSource

from router.cli.calls import TIMEOUT_S
from router.cli.options import INSTANT, database_at
from router.v1 import experiments_pb2 as experiments
from router.v1 import posteriors_pb2 as pb
from router.v1 import posteriors_pb2_grpc, types_pb2

if TYPE_CHECKING:
    from bandit.situation import History
    from router.storage.analysis import Read, Reading

F = TypeVar("F", bound=Callable[..., Any])
#: Counting what users did reads every decision of the time in question.
_METRICS_TIMEOUT_S = 60.0
_PAGE = 1000


def range_options(command: F) -> F:
    """Add --start and --end."""
    command = click.option("--end", type=INSTANT, metavar="TIME", help="Until then, which is not part of it.")(command)
    return click.option("--start", type=INSTANT, metavar="TIME", help="From then on, as in 2026-11-22T10:00:00Z.")(command)


def check_range(start: datetime | None, end: datetime | None) -> None:
    """Refuse a range that nothing can be in."""
    if start is not None and end is not None and start >= end:
        raise click.UsageError(f"--start {start.isoformat()}: must be before --end {end.isoformat()}")


def shown_range(start: datetime | None, end: datetime | None) -> str:
    """Return a range as messages have it; empty for all of the time."""
    parts = [f"from {start.isoformat()}" if start else "", f"until {end.isoformat()}" if end else ""]
    return " ".join(part for part in parts if part)


def database_given() -> bool:
    """Whether the command was told where the database is, by an option or by the environment."""
    context = click.get_current_context()
    sources = [context.get_parameter_source(name) for name in ("database_url", "data_dir")]
    return any(source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT) for source in sources)


@contextmanager
def log_of(
    database_url: str | None, data_dir: Path, experiment_id: str, given_as: str = "--experiment"
) -> Iterator[tuple[Reading, Read]]:
    """Read an experiment in the database of a router; one state throughout. `given_as` names it in messages."""
    if database_url is None and not (data_dir / "postgres").is_dir():
        # Nothing is made by reading.
        raise click.UsageError(
            f"--data-dir {data_dir}: holds no embedded Postgres: give --data-dir or --database-url as `serve` has it"
        )
    # Here: statistics take a second to load, and --help needs none.
    from router.storage.analysis import reading

    with database_at(database_url, data_dir) as url, reading(url) as found:
        of = found.experiment(experiment_id)
        if of is None:
            raise click.UsageError(f"{given_as} {experiment_id}: no such experiment in {url.shown}")
        yield found, of


def snapshots_of(
    channel: grpc.Channel, experiment_id: str, start: datetime | None, end: datetime | None, segment: str = ""
) -> list[pb.Snapshot]:
    """Return the snapshots of [start, end), oldest first: of a segment, or of all traffic."""
    stub = posteriors_pb2_grpc.PosteriorServiceStub(channel)
    asked = pb.ListSnapshotsRequest(experiment_id=experiment_id, page_size=_PAGE, segment=segment)
    _set_range(asked, start, end)
    found: list[pb.Snapshot] = []
    while True:
        page = stub.ListSnapshots(asked, timeout=TIMEOUT_S)
        found.extend(page.snapshots)
        asked.page_token = page.next_page_token
        if not asked.page_token:
            return found


def posterior_of(
    channel: grpc.Channel, experiment_id: str, as_of: datetime | None, segment: str = ""
) -> pb.GetPosteriorResponse:
    """Return the posterior of now, or the last snapshot until a time: of a segment, or of all traffic."""
    asked = pb.GetPosteriorRequest(experiment_id=experiment_id, segment=segment)
    if as_of is not None and as_of < datetime.now(UTC):
        asked.as_of.FromDatetime(as_of)
    found: pb.GetPosteriorResponse = posteriors_pb2_grpc.PosteriorServiceStub(channel).GetPosterior(asked, timeout=TIMEOUT_S)
    return found


def metrics_of(
    channel: grpc.Channel,
    experiment_id: str,
    start: datetime | None,
    end: datetime | None,
    period: timedelta | None = None,
) -> list[pb.ArmMetrics]:
    """Return what users did after the decisions of [start, end), by arm and period."""
    asked = pb.GetMetricsRequest(experiment_id=experiment_id)
    _set_range(asked, start, end)
    if period is not None:
        asked.period.FromTimedelta(period)
    stub = posteriors_pb2_grpc.PosteriorServiceStub(channel)
    return list(stub.GetMetrics(asked, timeout=_METRICS_TIMEOUT_S).metrics)


def active_arms(experiment: experiments.Experiment) -> list[types_pb2.Arm]:
    """Return the arms that are offered traffic."""
    return [arm for arm in experiment.arms if arm.state != types_pb2.ARM_STATE_RETIRED and arm.role != types_pb2.ROLE_SHADOW]


def history_in_metrics(experiment: experiments.Experiment, metrics: list[pb.ArmMetrics]) -> History | None:
    """Return what GetMetrics says to a plan, which is neither reward lag nor sessions; None without a decision."""
    from bandit.situation import History

    learned = [entry for entry in metrics if not entry.holdout]
    decisions, outcomes = sum(entry.interactions for entry in learned), sum(entry.outcomes for entry in learned)
    if not decisions:
        return None
    control = {(arm.arm_id, arm.version) for arm in active_arms(experiment) if arm.role == types_pb2.ROLE_CONTROL}
    means = [e.mean_reward for e in learned if (e.arm_id, e.version) in control and e.HasField("mean_reward")]
    span = learned[0].end_time.ToDatetime(UTC) - learned[0].start_time.ToDatetime(UTC)
    return History(
        baseline=means[0] if means else None,
        traffic_per_day=decisions / (span / timedelta(days=1)) if span > timedelta(0) else None,
        coverage=outcomes / decisions if outcomes else None,
    )


def _set_range(asked: Any, start: datetime | None, end: datetime | None) -> None:
    if start is not None:
        asked.start_time.FromDatetime(start)
    if end is not None:
        asked.end_time.FromDatetime(end)
