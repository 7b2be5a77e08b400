"""`picture estimates` of a router's log: the numbers that it drew, and the reasons of what it did not."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from running import Router, arm, experiment, until_scalar

import router.analysis as analysis
from bandit.arm_estimates import estimate_arms
from router.cli.picture import picture


async def draw(router: Router, path: Path, *options: str) -> Result:
    where = ["--experiment", "support", "--database-url", router.url, "-o", str(path)]
    return await asyncio.to_thread(CliRunner().invoke, picture, ["estimates", *where, *options])


def drawn(path: Path) -> str:
    """What a picture consists of; empty if there is none."""
    return path.read_text() if path.exists() else ""


async def rewarded(router: Router, n: int, **fields: Any) -> None:
    rng = random.Random(n)
    for i in range(n):
        reply = await router.route(unit_id=f"u{i % 9}", **fields)
        await router.reward(reply.decision_id, float(rng.random() < 0.6))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "estimates.svg"


async def test_the_document_holds_what_was_drawn(router: Router, path: Path) -> None:
    await router.run(experiment(floor=0.2))
    await rewarded(router, 60)
    await rewarded(router, 3, eligible_arm_ids=["b"])
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 63)
    done = await draw(router, path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    log = analysis.logged(router.url, "support")
    found = estimate_arms(log.rewards, log.arms, log.propensities, 2, log.clusters, log.allocations)
    assert [one["arm_id"] for one in document["arms"]] == ["a", "b"]
    for entry, one in zip(document["arms"], found, strict=True):
        assert (entry["decisions"], entry["insufficient"]) == (one.decisions, "")
        assert list(entry["estimates"]) == ["raw", "ips", "snips", "dr", "adaptive"]
        for name, estimate in entry["estimates"].items():
            expected = asdict(getattr(one, name))
            warnings = [text.replace("arm 0", "arm a").replace("arm 1", "arm b") for text in expected["warnings"]]
            assert estimate == {**expected, "warnings": warnings}
            assert estimate["lower"] < estimate["value"] < estimate["upper"]
            assert estimate["clusters"] <= 9
    assert (document["left_out"], document["file"]) == (3, str(path))
    assert document["left_out_because"] == {"other_arms": 0, "some_arms": 3, "unknown_draw": 0}
    spoken = await draw(router, path)
    assert spoken.stdout.splitlines()[1:] == [
        "3 decisions were left out, made among some of the arms alone: "
        "the request, or the definition of then, ruled others out"
    ]


async def test_an_arm_that_had_no_chance_has_no_estimates_and_the_others_have(router: Router, path: Path) -> None:
    weights = {"a": 0.5, "b": 0.49999, "c": 0.00001}
    await router.run(experiment(arms="abc", kind="FIXED", weights=weights, floor=0.0, assignment="STICKY_HASH"))
    await rewarded(router, 40)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 40)
    done = await draw(router, path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    a, b, c = document["arms"]
    assert document["left_out"] == 0
    assert list(a["estimates"]) == list(b["estimates"]) == ["raw", "ips", "snips", "dr", "adaptive"]
    assert c["estimates"] == {}
    assert c["insufficient"].startswith("arm c had probability 0 in 40 of 40 decisions")
    assert "no estimates" in drawn(path)
    spoken = await draw(router, path)
    assert spoken.stdout.splitlines()[1].startswith("no estimates: arm c had probability 0 in 40 of 40 decisions")


async def test_a_log_of_other_arms_alone_says_so(router: Router, path: Path) -> None:
    await router.run(experiment())
    await rewarded(router, 4)
    definition = await router.get()
    definition.arms.append(arm("c"))
    await router.update(definition)
    await until_scalar(router.url, "SELECT count(*) FROM decisions", 4)
    done = await draw(router, path)
    assert done.exit_code == 1
    assert "no decision so far has an outcome that estimates can use" in str(done.stderr) + str(done.exception)
    assert "4 decisions were left out, made among other arms than those of now" in str(done.stderr) + str(done.exception)
    assert not drawn(path)
