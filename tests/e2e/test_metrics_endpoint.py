"""The metrics endpoint of a real service: exact figures, over several processes, through deaths, restarts and the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from processes import COMMAND, Service, serving, wait_until
from running import event, experiment
from scraping import Scraped, get, scrape, value, values

from router.telemetry.catalogue import CATALOGUE, Kind
from router.v1 import experiments_pb2, experiments_pb2_grpc, routing_pb2, routing_pb2_grpc

ENDPOINT = ("--metrics-listen", "127.0.0.1:0")
DEPLOY = Path(__file__).parents[2] / "deploy"


class Caller:
    """Calls a service, each connection of its own so that every worker gets some."""

    def __init__(self, service: Service, connections: int = 8) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.insecure_channel(service.target, options) for _ in range(connections)]
        self.stubs = [routing_pb2_grpc.RouterServiceStub(channel) for channel in self.channels]
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(self.channels[0])

    def close(self) -> None:
        for channel in self.channels:
            channel.close()

    def run(self, definition: experiments_pb2.Experiment) -> None:
        self.experiments.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=definition))
        self.experiments.StartExperiment(
            experiments_pb2.StartExperimentRequest(experiment_id=definition.experiment_id), timeout=30
        )

    def route(self, count: int, **fields: object) -> list[routing_pb2.RouteResponse]:
        request = routing_pb2.RouteRequest(experiment_id="support", **fields)  # type: ignore[arg-type]
        return [self.stubs[i % len(self.stubs)].Route(request, timeout=30) for i in range(count)]

    def reward(self, decision_id: str, reward: float, event_id: str) -> None:
        self.stubs[0].Reward(event(decision_id, reward, event_id=event_id), timeout=30)


def calls_of(scraped: Scraped, method: str, code: str = "OK") -> float | None:
    return value(scraped, "rpc_duration_seconds_count", service="router.v1.RouterService", method=method, code=code)


def counters(scraped: Scraped) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Everything that may never go back."""
    kinds = {f"{m.name}{suffix}" for m in CATALOGUE.values() if m.kind is Kind.HISTOGRAM for suffix in ("_count", "_bucket")}
    kinds |= {metric.name for metric in CATALOGUE.values() if metric.kind is Kind.COUNTER}
    return {series: number for series, number in scraped.items() if series[0] in kinds}


@pytest.mark.slow
def test_figures_are_what_was_sent_through_deaths_and_restarts(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", *ENDPOINT) as service:
        caller = Caller(service)
        caller.run(experiment(prior=(1.0, 1.0)))
        routed = caller.route(30)
        for i, reply in enumerate(routed[:10]):
            caller.reward(reply.decision_id, float(i % 2), f"event-{i}")
        caller.reward(routed[0].decision_id, 0.0, "event-0")
        caller.reward(routed[1].decision_id, 0.25, "event-1")
        with pytest.raises(grpc.RpcError):
            caller.stubs[0].Route(routing_pb2.RouteRequest(experiment_id="nobody"), timeout=30)

        def is_learned() -> bool:
            scraped = scrape(service.metrics)
            return (
                sum(values(scraped, "evidence_outcomes", "arm").values()) == 10
                and value(scraped, "spool_stored_records_total", kind="decisions") is not None
                and value(scraped, "spool_waiting_bytes", kind="decisions") == 0
            )

        wait_until(is_learned, "the leader knows of every outcome, and the spool is empty")
        scraped = scrape(service.metrics)
        drawn = Counter(reply.arm.arm_id for reply in routed)
        assert values(scraped, "decisions_total", "arm") == drawn
        assert values(scraped, "decisions_total", "reason") == {"sampled": 30}
        expected: Counter[str] = Counter()
        for reply in routed:
            expected.update({entry.arm_id: entry.probability for entry in reply.allocation})
        assert values(scraped, "expected_decisions_total", "arm") == pytest.approx(expected)
        assert values(scraped, "events_total", "status") == {"applied": 10, "duplicate": 2}
        assert values(scraped, "events_total", "experiment") == {"support": 12}
        assert value(scraped, "contradictory_events_total") == 1
        assert value(scraped, "reward_lag_seconds_count", experiment="support") == 10
        assert [calls_of(scraped, "Route"), calls_of(scraped, "Route", "NOT_FOUND"), calls_of(scraped, "Reward")] == [
            30,
            1,
            12,
        ]
        assert value(scraped, "spool_refused_writes_total", kind="decisions") == 0
        assert value(scraped, "workers", state="answering") == 2
        assert value(scraped, "leader") == 1
        outcomes = Counter(reply.arm.arm_id for reply in routed[:10])
        assert values(scraped, "evidence_outcomes", "arm") == {arm_id: outcomes[arm_id] for arm_id in ("a", "b")}
        assert sum(values(scraped, "probability_best_ratio", "arm").values()) == pytest.approx(1)
        assert sum(values(scraped, "allocation_ratio", "arm").values()) == pytest.approx(1)
        version = value(scraped, "committed_policy_version", experiment="support")
        assert version is not None
        wait_until(lambda: value(scrape(service.metrics), "policy_version", experiment="support") == version, "learned")

        _is_as_the_catalogue_says(scrape(service.metrics))

        before = counters(scrape(service.metrics))
        victims = [service.workers()[0], *service.keepers()]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        deaths = {"worker": 1.0, "keeper": 1.0}
        wait_until(lambda: values(scrape(service.metrics), "process_deaths_total", "role") == deaths, "deaths are seen")
        _no_series_went_back(before, counters(scrape(service.metrics)))
        wait_until(lambda: get(service.metrics, "/readyz") == (200, "2 of 2 workers answer\n"), "another worker answers")
        caller.close()
        caller = Caller(service)
        caller.route(20)
        assert calls_of(scrape(service.metrics), "Route") == 50

        before = counters(scrape(service.metrics))
        old = set(service.workers())
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "every worker and the keeper are new" in service.log, "all are replaced", 60)
        wait_until(lambda: not old & set(service.workers()), "the old ones are gone")
        after = counters(scrape(service.metrics))
        _no_series_went_back(before, after)
        assert calls_of(after, "Route") == 50, "what a process counted last comes with its last report"
        caller.close()


#: What this service had no occasion for: TLS, batches, shadow traffic, decisions and events that are old enough.
NO_OCCASION = {
    "bandit_router_certificate_expiry_timestamp_seconds",
    "bandit_router_batch_item_errors_total",
    "bandit_router_mirrored_decisions_total",
    "bandit_router_shadow_spend_dollars",
    "bandit_router_shadow_budget_dollars",
    "bandit_router_feedback_coverage_ratio",
    "bandit_router_feedback_coverage_decisions",
    "bandit_router_orphan_events_ratio",
}


def _is_as_the_catalogue_says(scraped: Scraped) -> None:
    seen: set[str] = set()
    for name, labels in scraped:
        family = name if name in CATALOGUE else name.rsplit("_", 1)[0]
        seen.add(family)
        added = {"le"} if name.endswith("_bucket") else set()
        assert {label for label, _ in labels} == {*CATALOGUE[family].labels, *added}, name
    assert CATALOGUE.keys() - seen == NO_OCCASION


def _no_series_went_back(before: Scraped, after: Scraped) -> None:
    went_back = {series: (number, after.get(series)) for series, number in before.items() if after.get(series, -1) < number}
    # Processor time of a process that was killed is lost since it was last asked, as all that it counted.
    assert went_back == {}


@pytest.mark.slow
def test_live_and_ready(tmp_path: Path) -> None:
    with serving(tmp_path, *ENDPOINT) as service:
        assert get(service.metrics, "/livez") == (200, "alive\n")
        assert get(service.metrics, "/readyz") == (200, "1 of 1 workers answer\n")
        assert get(service.metrics, "/readyz", "HEAD") == (200, "")
        assert get(service.metrics, "/metrics", "POST")[0] == 405
        assert get(service.metrics, "/../etc/passwd")[0] == 404
        (worker,) = service.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            assert get(service.metrics, "/readyz") == (503, "0 of 1 workers answer\n")
            assert get(service.metrics, "/livez")[0] == 200
            scraped = scrape(service.metrics)
            assert (value(scraped, "ready"), value(scraped, "workers", state="answering")) == (0, 0)
            assert value(scraped, "leader") is not None, "others are heard all the same"
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_until(lambda: get(service.metrics, "/readyz")[0] == 200, "it answers again")
        # A call that takes its time, so that draining does: until then the endpoint says what goes on.
        channel = grpc.insecure_channel(service.target)
        os.kill(worker, signal.SIGSTOP)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: get(service.metrics, "/readyz") == (503, "stopping\n"), "it says that it stops")
        os.kill(worker, signal.SIGCONT)
        channel.close()
        assert service.process.wait(40) == 0


@pytest.mark.slow
def test_of_two_services_on_one_database_one_has_the_leaders_series(database_url: str, tmp_path: Path) -> None:
    arguments = ("--database-url", database_url, *ENDPOINT)
    with serving(tmp_path / "one", *arguments) as one, serving(tmp_path / "two", *arguments) as two:
        caller = Caller(two, 1)
        caller.run(experiment())
        caller.route(1)
        caller.close()

        def leaders() -> list[str]:
            scraped = {service.metrics: scrape(service.metrics) for service in (one, two)}
            return [at for at, found in scraped.items() if value(found, "allocation_ratio", experiment="support", arm="a")]

        wait_until(lambda: len(leaders()) == 1, "one of them leads and computes")
        assert sorted(value(scrape(s.metrics), "leader") or 0 for s in (one, two)) == [0, 1]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        pytest.param("9464", "must be HOST:PORT, as in 127.0.0.1:9464", marks=pytest.mark.slow),
        pytest.param("example.org:9464", "is no IP address", marks=pytest.mark.slow),
        ("192.0.2.1:9464", "--metrics-listen 192.0.2.1:9464: cannot bind"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str, says: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path, "--metrics-listen", address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "--metrics-listen" in done.stderr


@pytest.mark.slow
def test_with_tls_it_says_when_the_certificate_expires(tmp_path: Path) -> None:
    cert, key = Authority.create(tmp_path).sign("server")
    with serving(tmp_path, *ENDPOINT, "--tls-cert", cert, "--tls-key", key) as service:
        expiry = value(scrape(service.metrics), "certificate_expiry_timestamp_seconds")
        assert expiry is not None
        assert 0 < expiry - time.time() < 2 * 86_400 + 60


@pytest.mark.slow
def test_without_the_option_nothing_listens(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert "metrics" not in service.line
        assert "metrics" not in service.log
