"""Crashes, outages and full disks under load; what is claimed is counted in Postgres afterwards.

Short runs of what `make soak` does at length: the faults, the load and the books are those of `benchmarks.soak`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import clock, fault, faults, replays, stage
from benchmarks.soak.fault import Fault
from benchmarks.soak.figures import Figure

EVENTS = 100
#: Nothing here crashes the machine, so nothing has to reach the disk but what the router itself syncs.
POSTGRES = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "max_wal_size": "48MB",
    "min_wal_size": "32MB",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stage.Stage]:
    """A service that runs its own Postgres."""
    with stage.own_postgres(tmp_path_factory.mktemp("own")) as made:
        yield made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stage.Stage]:
    """A service on a Postgres that is not its own."""
    with stage.other_postgres(tmp_path_factory.mktemp("other"), POSTGRES) as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path) -> stage.Volume:
    return stage.Volume(tmp_path / "service" / "data" / "spool", 8)


def all_hold(figures: Sequence[Figure]) -> None:
    """What was counted is as promised. How long things took is promised by the soak, on a machine of its own."""
    broken = [figure for figure in figures if figure.passed is False and figure.unit not in {"s", "1/s"}]
    assert not broken, "\n".join(f"{f.name}: {f.value:g} {f.unit}, promised {f.target} {f.note}" for f in broken)


def survives(what: Fault, on: stage.Stage) -> None:
    """Every answered decision and acknowledged event is present once, evidence is what the log says, promises held."""
    try:
        all_hold(fault.figures_of(what, fault.run(what, on, events=EVENTS)))
    except BaseException:
        print(on.service.end_of_log())
        raise


#: The others are those of test_processes.py, or differ from one of these in how Postgres is away; `make soak` runs them all.
PROCESSES = ("worker killed", "postmaster killed", "supervisor killed", "everything killed", "spool torn")
OUTAGES = ("Postgres stopped", "router started without Postgres", "Postgres hung", "Postgres read-only")


#: What `make soak` and `make test-slow` try.
SLOW = (
    "everything killed",
    "postmaster killed",
    "Postgres hung",
    "supervisor killed",
    "spool torn",
    "router started without Postgres",
    "Postgres read-only",
)


def named(every: Sequence[Fault], names: Sequence[str]) -> list[Any]:
    chosen = [what for what in every if what.name in names]
    assert len(chosen) == len(names)
    return [pytest.param(what, id=what.name, marks=[pytest.mark.slow] if what.name in SLOW else []) for what in chosen]


@pytest.mark.parametrize("what", named(faults.OF_PROCESSES, PROCESSES))
def test_a_fault_of_processes_loses_and_repeats_nothing(what: Fault, own: stage.Stage) -> None:
    survives(what, own)


@pytest.mark.parametrize("what", named(faults.OF_POSTGRES, OUTAGES))
def test_an_outage_loses_and_repeats_nothing(what: Fault, other: stage.Stage) -> None:
    survives(what, other)


@pytest.mark.slow
def test_a_full_disk_of_postgres_loses_and_repeats_nothing(tmp_path: Path) -> None:
    try:
        with (
            stage.Volume(tmp_path / "volume", 200) as volume,
            stage.other_postgres(tmp_path, POSTGRES, volume=volume.path) as made,
        ):
            survives(faults.DISK_OF_POSTGRES, made)
    except stage.VolumeRefusedError as error:
        pytest.skip(str(error))


def test_a_full_disk_of_the_spool_refuses_decisions_and_takes_feedback(
    tmp_path: Path, volume: stage.Volume, database_url: str
) -> None:
    try:
        with volume, stage.on_database(tmp_path / "service", database_url) as made:
            made.volume = volume.path
            survives(faults.DISK_OF_SPOOL, made)
    except stage.VolumeRefusedError as error:
        pytest.skip(str(error))


def test_each_event_five_times_by_eight_clients_counts_once(other: stage.Stage) -> None:
    all_hold(replays.storm(other, events=60))


def test_an_hour_of_events_out_of_order_is_the_fold_of_them(other: stage.Stage) -> None:
    all_hold(replays.out_of_order(other, decisions=1_500))


@pytest.mark.slow
def test_a_clock_that_steps_back_counts_each_event_once(other: stage.Stage, tmp_path: Path) -> None:
    all_hold(clock.stepping_back(other, tmp_path, decisions=60))
