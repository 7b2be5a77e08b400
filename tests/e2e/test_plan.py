"""Plans and pictures of a live experiment, as a data scientist asks for them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from processes import Service, run, serving, wait_until

from router.cli.calls import connected
from router.cli.main import main
from router.cli.past import metrics_of, snapshots_of
from router.client import RewardEvent, RouterClient, RouteRequest

pytestmark = pytest.mark.slow

TWO = """\
experiment: {name}
arms:
  - {{id: a, model: model-a, role: control, cost_usd: 0.002}}
  - {{id: b, model: model-b, cost_usd: 0.01}}
allocation: {{floor: 0.1}}
"""
N = 300
#: Pictures that are drawn from the database.
FROM_THE_LOG = ("estimates", "pareto")
MEANS = {"a": 0.3, "b": 0.7}


@dataclass
class Live:
    """A router with an experiment that has learned, and what it was told."""

    service: Service
    data_dir: Path
    #: By arm id.
    rewards: dict[str, list[float]]
    #: One that nobody has routed yet.
    idle: str = "idle"

    def __call__(self, *arguments: str | Path, experiment: str = "support", server: bool = True) -> Result:
        where = ["--server", self.service.target] if server else ["--data-dir", str(self.data_dir)]
        return CliRunner().invoke(main, [*map(str, arguments), "--experiment", experiment, *where])

    def answer(self, *arguments: str | Path, **fields: Any) -> Any:
        done = self(*arguments, "--json", **fields)
        assert done.exit_code == 0, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
        return json.loads(done.stdout)


def kept(channel: grpc.Channel) -> int:
    """Outcomes in the last snapshot."""
    snapshots = snapshots_of(channel, "support", None, None)
    return sum(arm.n for arm in snapshots[-1].arms) if snapshots else 0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("plan")
    with serving(directory) as service:
        for name in ("support", "idle"):
            path = directory / f"{name}.yaml"
            path.write_text(TWO.format(name=name))
            done = CliRunner().invoke(main, ["apply", "-f", str(path), "--server", service.target])
            assert done.exit_code == 0, done.output
        rng, rewards = random.Random(4), {"a": [], "b": []}
        with RouterClient(service.target) as client, connected(service.target) as channel:
            wait_until(lambda: snapshots_of(channel, "support", None, None), "the prior is kept")
            for part in range(3):
                asked = [RouteRequest("support", unit_id=f"u{part}-{i}", session_id=f"s{i // 3}") for i in range(N // 3)]
                events = []
                for decision in client.batch_route(asked):
                    reward = float(rng.random() < MEANS[decision.arm.arm_id])
                    rewards[decision.arm.arm_id].append(reward)
                    events.append(RewardEvent(decision, event_id="only", reward=reward))
                client.batch_reward(events)
                learned = N // 3 * (part + 1)
                wait_until(lambda learned=learned: kept(channel) == learned, "a snapshot has all of them")
            wait_until(lambda: sum(m.outcomes for m in metrics_of(channel, "support", None, None)) == N, "the log is stored")
        yield Live(service, directory / "data", rewards)


def test_a_plan_knows_the_past_by_the_metrics(live: Live) -> None:
    document = live.answer("plan", "--effect", "+5%", "--feedback-delay", "1h")
    past, situation = document["history"], document["situation"]
    own = live.rewards["a"]
    assert past["baseline"] == situation["baseline"] == pytest.approx(sum(own) / len(own))
    assert situation["effect"] == pytest.approx(0.05 * past["baseline"])
    assert past["coverage"] == 1.0
    assert past["traffic_per_day"] > N
    assert past["icc"] is past["variance"] is past["feedback_delay_us"] is None
    missing = live("plan", "--effect", "0.05")
    assert missing.exit_code == 2
    assert "--feedback-delay is missing: give it; the past of support does not tell it" in missing.stderr


def test_a_plan_knows_more_by_the_database(live: Live) -> None:
    document = live.answer("plan", "--effect", "0.05", server=False)
    past, own = document["history"], live.rewards["a"]
    mean = sum(own) / len(own)
    assert past["baseline"] == pytest.approx(mean)
    assert past["variance"] == pytest.approx(mean * (1 - mean) * len(own) / (len(own) - 1))
    assert past["turns_per_session"] == pytest.approx(9, abs=0.2), "34 sessions of three turns, three times over"
    assert 0 <= past["feedback_delay_us"] < 60_000_000
    assert document["strategies"][4]["forecast"] is not None, "sessions of several turns may be interleaved"
    told = live.answer("plan", "--effect", "0.05", "--traffic", "100/day", "--baseline", "0.5", "--arms", "3", server=False)
    assert (told["situation"]["traffic_per_day"], told["situation"]["baseline"], told["situation"]["arms"]) == (100, 0.5, 3)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("posteriors", "b leads: it is the best arm with probability"),
        ("shares", "b is given 9"),
        ("best", "b leads: it is the best arm with probability"),
        ("regret", "About "),
        ("coverage", "Feedback covers "),
        ("estimates", "b earns most"),
        ("pareto", "b: 0."),
    ],
)
def test_every_picture_is_drawn(live: Live, name: str, finding: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.svg"
    document = live.answer("picture", name, "-o", path, server=name not in FROM_THE_LOG)
    assert document["file"] == str(path)
    assert document["finding"].startswith(finding), document
    assert path.read_bytes().startswith(b"<?xml")
    png = tmp_path / "one.png"
    done = live("picture", name, "-o", png, server=name not in FROM_THE_LOG)
    assert done.stdout.startswith(f"wrote {png}: {finding}")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_of_its_time(live: Live, tmp_path: Path) -> None:
    with connected(live.service.target) as channel:
        first, *_, last = snapshots_of(channel, "support", None, None)
    began, ended = (one.snapshot_time.ToDatetime(UTC).isoformat() for one in (first, last))
    then = live.answer("picture", "posteriors", "-o", tmp_path / "then.svg", "--end", began)
    assert then["finding"] == "Undecided: a is the best arm with probability 0.50"
    past = live.answer("picture", "shares", "-o", tmp_path / "past.svg", "--end", ended)
    assert past["finding"].startswith("b is given ")
    assert past["finding"].endswith(" of the traffic, 50% at first")
    # The end is not part of the range, and the start is.
    latest = live.answer("picture", "shares", "-o", tmp_path / "latest.svg", "--start", ended)
    assert latest["finding"] == "b is given 90% of the traffic"
    none = live("picture", "coverage", "-o", tmp_path / "none.svg", "--end", "2001-01-01T00:00:00Z")
    assert "support: no decisions were made until 2001-01-01T00:00:00+00:00" in none.stderr


def test_a_process_draws_without_a_display(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "best.pdf"
    done = run("picture", "best", "--experiment", "support", "--server", live.service.target, "-o", path)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["shares", "best", "regret"])
def test_times_without_a_snapshot_are_said(live: Live, name: str, tmp_path: Path) -> None:
    done = live("picture", name, "-o", tmp_path / "a.png", "--end", "2001-01-01T00:00:00Z")
    assert done.exit_code == 1
    assert "error: support: there is no snapshot in the time until 2001-01-01T00:00:00+00:00" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_what_is_not_there_is_said(live: Live, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    for name in ("posteriors", "shares", "best", "regret", "coverage"):
        done = live("picture", name, "-o", out, experiment="nope")
        assert done.exit_code == 1
        assert "nope" in done.stderr
        assert "Traceback" not in done.output
    done = live("picture", "estimates", "-o", out, experiment="nope", server=False)
    assert done.exit_code == 2
    assert "--experiment nope: no such experiment in" in done.stderr
    done = live("picture", "coverage", "-o", out, experiment=live.idle)
    assert (done.exit_code, "idle: no decisions were made yet" in done.stderr) == (1, True)
    done = live("picture", "estimates", "-o", out, experiment=live.idle, server=False)
    assert (done.exit_code, "idle: no decision so far has an outcome" in done.stderr) == (1, True)
    done = live("plan", "--effect", "0.1", experiment=live.idle)
    assert (done.exit_code, "--experiment idle: it has no decisions in this time" in done.stderr) == (2, True)
    done = live("plan", "--effect", "0.1", experiment=live.idle, server=False)
    assert (done.exit_code, "--experiment idle: it has no decisions in this time" in done.stderr) == (2, True)
    done = live("picture", "posteriors", "-o", out, "--end", "2001-01-01T00:00:00Z")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert not out.exists()


def test_an_experiment_that_has_learned_nothing_has_a_picture(live: Live, tmp_path: Path) -> None:
    with connected(live.service.target) as channel:
        wait_until(lambda: snapshots_of(channel, live.idle, None, None), "the prior is kept")
    for name in ("posteriors", "shares", "best", "regret"):
        document = live.answer("picture", name, "-o", tmp_path / f"{name}.png", experiment=live.idle)
        if name in ("posteriors", "best"):
            assert document["finding"] == "Undecided: a is the best arm with probability 0.50"


def test_bad_options_are_refused_before_anything_is_read(live: Live, tmp_path: Path) -> None:
    done = live("picture", "best", "-o", tmp_path / "a.gif")
    assert done.exit_code == 2
    assert "--output" in done.stderr
    assert "the name must end with .png, .svg or .pdf" in done.stderr
    empty = ["--start", "2026-11-22T10:00:00Z", "--end", "2026-11-22T10:00:00Z"]
    for name in ("best", "coverage", "posteriors"):
        done = live("picture", name, "-o", tmp_path / "a.png", *empty)
        assert done.exit_code == 2
        assert "--start 2026-11-22T10:00:00+00:00: must be before --end" in done.stderr
    nowhere = CliRunner().invoke(
        main,
        ["picture", "estimates", "--experiment", "e", "-o", str(tmp_path / "a.png"), "--data-dir", str(tmp_path / "no")],
    )
    assert nowhere.exit_code == 2
    assert "holds no embedded Postgres" in nowhere.stderr
    assert not (tmp_path / "no").exists(), "nothing is made by reading"
    done = live("picture", "best", "-o", tmp_path / "nowhere" / "a.png")
    assert done.exit_code == 1
    assert "No such file or directory" in done.stderr
