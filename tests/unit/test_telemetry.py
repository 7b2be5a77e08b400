"""Counting in one process, adding processes up, and the text that Prometheus reads."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable

import pytest
from running import until
from scraping import parsed, value

from router.exposition import exposition
from router.telemetry import catalogue
from router.telemetry.answered import Answered
from router.telemetry.catalogue import CATALOGUE, Kind
from router.telemetry.reports import Reporter, Reports
from router.telemetry.tallies import OTHERS, Distribution, Names, Sample, Tally
from router.v1 import routing_pb2


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    lags = Distribution(catalogue.REWARD_LAG)
    for seconds in (0, 1, 1.5, 5, 604_800, 604_801):
        lags.record(("e",), seconds)
    scraped = parsed(exposition({(name, labels): v for name, labels, v in lags.samples()}).decode())

    def until_s(le: str) -> float | None:
        return value(scraped, "reward_lag_seconds_bucket", experiment="e", le=le)

    assert [until_s(le) for le in ("1.0", "5.0", "15.0", "604800.0", "+Inf")] == [2, 4, 4, 5, 6]
    assert value(scraped, "reward_lag_seconds_count", experiment="e") == 6
    assert value(scraped, "reward_lag_seconds_sum", experiment="e") == 604_800 + 604_801 + 7.5


def test_experiments_beyond_the_bound_are_counted_together() -> None:
    names = Names(most=2)
    assert [names.of(e, "a") for e in ("x", "y", "z", "x")] == [("x", "a"), ("y", "a"), (OTHERS, ""), ("x", "a")]
    assert "z" not in names


def test_repetitions_and_call_reports_have_no_lag() -> None:
    answered = Answered(Names())
    answered.event("e", "a", routing_pb2.STATUS_APPLIED, 2_000_000)
    answered.event("e", "a", routing_pb2.STATUS_DUPLICATE, 9_000_000)
    answered.event("e", "a", routing_pb2.STATUS_NEUTRAL, None)
    answered.event("", "", routing_pb2.STATUS_SPOOLED)
    answered.failed_item(3)
    samples = {(name, labels): v for name, labels, v in answered.samples()}
    lag = samples[catalogue.REWARD_LAG.name, ("e",)]
    assert isinstance(lag, list)
    assert (sum(lag[:-1]), lag[-1]) == (1, 2.0)
    assert samples[catalogue.EVENTS.name, ("e", "a", "duplicate")] == 1
    assert samples[catalogue.EVENTS.name, ("", "", "spooled")] == 1
    assert samples[catalogue.ITEM_ERRORS.name, ("INVALID_ARGUMENT",)] == 1


def test_every_metric_is_well_named() -> None:
    for name, metric in CATALOGUE.items():
        assert name.startswith("bandit_router_")
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER), name
        assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM), name
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert metric.help.endswith("."), name
        assert not {"unit", "unit_id", "session", "decision", "decision_id"} & set(metric.labels), name


def test_a_metric_without_values_is_described() -> None:
    text = exposition({}).decode()
    for name, metric in CATALOGUE.items():
        assert f"# TYPE {name} {metric.kind}" in text


class Process:
    """What a child of a supervisor does about its reports."""

    def __init__(self) -> None:
        self.decisions = Tally(catalogue.DECISIONS)
        self.lags = Distribution(catalogue.LEARNING_LAG)
        self.gauges: list[Sample] = []
        self.reporter = Reporter(self.samples)
        self.line: socket.socket | None = None

    async def start(self, reports: Reports, role: str = "worker") -> Process:
        with await reports.open(role) as theirs:
            await self.reporter.start(theirs.dup().detach())
        return self

    def decide(self, count: int, arm: str = "a") -> None:
        self.decisions.add(("e", arm, "sampled"), count)

    def samples(self) -> Iterable[Sample]:
        return [*self.decisions.samples(), *self.lags.samples(), *self.gauges]


DECISIONS = (catalogue.DECISIONS.name, ("e", "a", "sampled"))


@pytest.fixture
async def reports():
    reports = Reports()
    yield reports
    await reports.close()


async def serving(reports: Reports, count: int) -> None:
    await until(lambda: sum(line.serving for line in reports._lines) == count, f"{count} children serve")


async def test_counts_add_up_over_processes_and_stay_when_one_ends(reports: Reports) -> None:
    first, second = [await Process().start(reports) for _ in range(2)]
    await serving(reports, 2)
    first.decide(3)
    second.decide(4)
    first.lags.record((), 0.02)
    second.lags.record((), 99.0)
    lags = (catalogue.LEARNING_LAG.name, ())
    together = reports.together(await reports.ask(5))
    assert together[DECISIONS] == 7
    expected = [0.0] * (len(catalogue.LEARNING_LAG.bounds) + 2)
    expected[2], expected[-2], expected[-1] = 1, 1, 99.02
    assert together[lags] == expected

    first.decide(10)
    await first.reporter.stop()
    await serving(reports, 1)
    await until(lambda: len(reports._lines) == 1, "the line of the first has ended")
    third = await Process().start(reports)
    third.decide(100)
    await serving(reports, 2)
    together = reports.together(await reports.ask(5))
    assert together[DECISIONS] == 117, "what the first counted last came with its last report"
    assert together[lags] == expected
    for process in (second, third):
        await process.reporter.stop()


async def test_of_a_process_that_is_killed_the_last_report_stays(reports: Reports) -> None:
    process = await Process().start(reports)
    await serving(reports, 1)
    process.decide(5)
    await reports.ask(5)
    process.decide(1)
    process.gauges = [(catalogue.STALE.name, (), 9.0)]
    assert process.reporter._writer is not None
    process.reporter._writer.transport.abort()
    await until(lambda: not reports._lines, "the line has ended")
    assert reports.together(await reports.ask(5)) == {DECISIONS: 5}


async def test_gauges_are_of_those_that_answer_and_combined_as_the_catalogue_says(reports: Reports) -> None:
    first, second = [await Process().start(reports) for _ in range(2)]
    await serving(reports, 2)
    stale, waiting, version = catalogue.STALE.name, catalogue.EVENTS_WAITING.name, catalogue.POLICY_VERSION.name
    first.gauges = [(stale, (), 2.0), (waiting, (), 5), (version, ("e",), 8)]
    second.gauges = [(stale, (), 3.0), (waiting, (), 6), (version, ("e",), 7)]
    together = reports.together(await reports.ask(5))
    assert [together[key] for key in ((stale, ()), (waiting, ()), (version, ("e",)))] == [3.0, 11, 7]

    first.decide(1)
    await reports.ask(5)
    # It hangs: its counts stay as they were, its gauges would be old.
    assert first.reporter._task is not None
    first.reporter._task.cancel()
    answered = await reports.ask(0.2)
    assert len(answered) == 1
    together = reports.together(answered)
    assert [together[key] for key in ((stale, ()), (waiting, ()), (version, ("e",)))] == [3.0, 6, 7]
    assert together[DECISIONS] == 1
    for process in (first, second):
        await process.reporter.stop()


async def test_a_report_that_cannot_be_read_ends_its_line_alone(reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    good = await Process().start(reports)
    with await reports.open("worker") as theirs:
        theirs.sendall(struct.pack("!?I", True, 3) + b"no!")
        await until(lambda: len(reports._lines) == 1, "the bad line is gone")
    assert "cannot be read" in caplog.text
    good.decide(2)
    await serving(reports, 1)
    assert reports.together(await reports.ask(5)) == {DECISIONS: 2}
    await good.reporter.stop()


async def test_nobody_is_asked_who_has_not_started(reports: Reports) -> None:
    with await reports.open("worker"):
        async with asyncio.timeout(1):
            assert await reports.ask(30) == []


def test_reports_travel_as_json() -> None:
    tally = Tally(catalogue.DECISIONS)
    tally.add(('quote"', "ünïcode\n", "x"))
    assert json.loads(json.dumps(list(tally.samples()))) == [[catalogue.DECISIONS.name, ['quote"', "ünïcode\n", "x"], 1]]
