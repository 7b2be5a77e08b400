"""Outcomes from elsewhere, imported into a running experiment as the command does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from running import Router, assert_replay_agrees, experiment, query, scalar, until, until_scalar

from router.analysis.history import read_history
from router.cli.main import main
from router.storage.connecting import DatabaseUrl, connect
from router.storage.imports import Import as Given
from router.storage.imports import add
from router.storage.rebuild import Rebuilt, rebuild
from router.v1 import types_pb2

PAST = datetime(2026, 1, 1, tzinfo=UTC)
Import = Callable[..., Any]


def file(path: Path, a: tuple[int, int] = (30, 10), b: tuple[int, int] = (5, 15), start: datetime = PAST) -> Path:
    """A file with (successes, failures) of two arms."""
    rows = [
        (arm, reward, start + timedelta(seconds=i))
        for arm, (good, bad) in (("a", a), ("b", b))
        for i, reward in enumerate([1] * good + [0] * bad)
    ]
    path.write_text("arm,reward,time,unit\n" + "".join(f"{arm},{r},{t.isoformat()},u{r}\n" for arm, r, t in rows))
    return path


@pytest.fixture
def run(router: Router, monkeypatch: pytest.MonkeyPatch) -> Import:
    target = router.channel  # keeps the router alive
    assert target is not None

    async def run(path: Path, how: str, *arguments: str, experiment_id: str = "support") -> Result:
        port = router.server.port
        command = ["import", "events", str(path), "--experiment", experiment_id, "--as", how, "--json"]
        where = ["--server", f"127.0.0.1:{port}"] if how == "prior" else ["--database-url", router.url]
        where += ["--actor", "me", "--reason", "history"]
        monkeypatch.setattr("sys.argv", ["bandit-router", *command])
        return await asyncio.to_thread(CliRunner().invoke, main, [*command, *where, *arguments])

    return run


def result(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


async def test_evidence_moves_the_posterior_by_what_the_file_adds_up_to(
    router: Router, other_router: Router, run: Import, tmp_path: Path
) -> None:
    await router.run(experiment())
    await router.learn("a", 3, 1)
    path = file(tmp_path / "x.csv")
    before = await router.posterior()
    found = result(await run(path, "evidence"))
    assert found["new"] is True
    assert found["arms"] == [
        {"arm_id": "a", "outcomes": 40, "mean": 0.75},
        {"arm_id": "b", "outcomes": 20, "mean": 0.25},
    ]
    arms = await router.arms()
    assert (arms["a"].alpha, arms["a"].beta, arms["a"].n) == (1 + 33, 1 + 11, 44)
    assert (arms["b"].alpha, arms["b"].beta, arms["b"].n) == (1 + 5, 1 + 15, 20)
    assert (await router.posterior()).policy_version == before.policy_version + 1
    await assert_replay_agrees(router.url)

    # Another replica routes by it, without a decision or an event to wake it.
    async def learned() -> bool:
        reply = await other_router.route(unit_id="u")
        return next(p.probability for p in reply.allocation if p.arm_id == "a") > 0.98

    await until(learned, "the other replica has heard of the import")
    (imported,) = await router.transitions(kind="IMPORT")
    assert (imported.to, imported.actor, imported.reason) == (found["import_id"], "me", "history")


async def test_the_same_file_counts_once(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    path = file(tmp_path / "x.csv")
    first = result(await run(path, "evidence"))
    version = (await router.posterior()).policy_version
    again = result(await run(path, "evidence"))
    assert (again["new"], again["import_id"], again["imported_at"]) == (False, first["import_id"], first["imported_at"])
    elsewhere = await run(path, "evidence", "--import-id", "other")
    assert elsewhere.exit_code == 1
    assert f"this file was imported at {first['imported_at']}, as '{first['import_id']}'" in elsewhere.output
    other = await run(file(tmp_path / "y.csv", a=(1, 1)), "evidence", "--import-id", first["import_id"])
    assert other.exit_code == 1
    assert "of other outcomes: give this one another id" in other.output
    posterior = await router.posterior()
    assert (posterior.policy_version, sum(arm.n for arm in posterior.arms)) == (version, 60)
    assert await scalar(router.url, "SELECT count(*) FROM imports") == 1
    audited = "SELECT experiment_id || ' ' || (detail ->> 'import_id') FROM audit_log WHERE action = 'import'"
    assert await scalar(router.url, audited) == f"support {first['import_id']}"


async def test_snapshots_from_before_and_after_can_be_rebuilt(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    await router.learn("a", 3, 1)
    kept = (
        "SELECT max(s.policy_version) = max(v.policy_version) AND count(DISTINCT s.policy_version) > {}"
        " FROM snapshots s, policy_versions v"
    )
    await until_scalar(router.url, kept.format(0), True)
    version, before = (await query(router.url, "SELECT policy_version, taken_at FROM snapshots ORDER BY 1 DESC LIMIT 1"))[0]
    result(await run(file(tmp_path / "x.csv"), "evidence"))
    await until_scalar(router.url, kept.format(1), True)
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")

    def rebuilt(at: datetime) -> Rebuilt | None:
        with connect(DatabaseUrl.parse(router.url)) as connection:
            return rebuild(connection, incarnation, at)

    for at, n in ((before, [4, 0]), (datetime.now(UTC), [44, 20])):
        found = await asyncio.to_thread(rebuilt, at)
        assert found is not None
        assert found.agrees, found
        assert [arm.kept["n"] for arm in found.arms] == n
    assert version < (await router.posterior()).policy_version


async def test_two_imports_at_once_are_one(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    path = file(tmp_path / "x.csv")
    history = read_history(path)
    incarnation = await scalar(router.url, "SELECT incarnation FROM experiments")
    evidence = {(0, ""): history.of_arm("a")}
    given = Given("one", history.content_hash, history.first_at, history.last_at, evidence, "me", "")

    def once() -> bool:
        with connect(DatabaseUrl.parse(router.url)) as connection:
            return add(connection, incarnation, given).new

    found = await asyncio.gather(*(asyncio.to_thread(once) for _ in range(5)))
    assert sorted(found) == [False] * 4 + [True]
    assert await scalar(router.url, "SELECT sum(n)::int8 FROM evidence_base") == 40


async def test_a_dry_run_checks_and_changes_nothing(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    path = file(tmp_path / "x.csv")
    before = await router.posterior()
    etag = (await router.get()).etag
    assert result(await run(path, "evidence", "--dry-run"))["new"] is True
    shown = result(await run(path, "prior", "--dry-run"))
    assert shown["arms"][0]["after"] == {"alpha": 16, "beta": 6}
    after = await router.posterior()
    assert list(after.arms) == list(before.arms)
    assert (await router.get()).etag == etag
    assert await query(router.url, "SELECT 1 FROM imports UNION ALL SELECT 1 FROM evidence_base") == []


async def test_a_prior_weighs_what_it_was_told(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment(prior=(2, 3)))
    await router.learn("a", 3, 1)
    path = file(tmp_path / "x.csv")
    found = result(await run(path, "prior", "--weight", "8"))
    assert found["arms"][0]["before"] == {"alpha": 2, "beta": 3}
    allocation = (await router.get()).allocation
    # The experiment's own prior, plus 8 imagined outcomes with the mean of the file.
    assert {name: (p.alpha, p.beta) for name, p in allocation.priors.items()} == {"a": (8, 5), "b": (4, 9)}
    arms = await router.arms()
    assert (arms["a"].alpha, arms["a"].beta, arms["a"].n) == (8 + 3, 5 + 1, 4)
    *_, changed = await router.transitions(kind="DEFINITION")
    assert (changed.actor, changed.reason) == ("me", "history")
    # Set, not added: again is the same, and no arm is given more than the file has of it.
    result(await run(path, "prior", "--weight", "8"))
    assert (await router.get()).allocation.priors["a"].alpha == 8
    result(await run(path, "prior", "--weight", "1000"))
    assert (await router.get()).allocation.priors["b"].beta == 3 + 15
    await assert_replay_agrees(router.url)


async def test_retired_arms_stay_retired_when_a_prior_is_set(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment(arms=("a", "b", "c")))
    await router.update(experiment(etag=(await router.get()).etag))
    result(await run(file(tmp_path / "x.csv"), "prior"))
    arms = {arm.arm_id: arm.state for arm in (await router.get()).arms}
    assert arms["c"] == types_pb2.ARM_STATE_RETIRED


@pytest.mark.parametrize("how", ["prior", "evidence"])
async def test_unknown_arms_are_named(router: Router, run: Import, tmp_path: Path, how: str) -> None:
    await router.run(experiment(arms=("a", "c")))
    done = await run(file(tmp_path / "x.csv"), how)
    assert done.exit_code == 1
    assert "the experiment has no arm 'b': it has 'a', 'c'" in done.output
    assert json.loads(done.stdout)["error"]


async def test_a_prior_of_fixed_shares_is_refused(router: Router, run: Import, tmp_path: Path) -> None:
    shares = experiment(kind="FIXED", weights={"a": 0.5, "b": 0.5}, assignment="STICKY_HASH")
    await router.run(shares)
    done = await run(file(tmp_path / "x.csv"), "prior")
    assert done.exit_code == 1
    assert "only an allocation that learns looks at priors" in done.output


async def test_what_may_not_count_yet_is_refused(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    await query(router.url, "UPDATE policy_versions SET matured_to = %s", PAST + timedelta(seconds=10))
    done = await run(file(tmp_path / "x.csv"), "evidence")
    assert done.exit_code == 1
    assert "outcomes of this experiment count once their decisions are old enough, and these are not" in done.output
    older = file(tmp_path / "y.csv", start=PAST - timedelta(seconds=60))
    assert result(await run(older, "evidence"))["new"]
    await assert_replay_agrees(router.url)


async def test_the_future_is_refused(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    done = await run(file(tmp_path / "x.csv", start=datetime.now(UTC) + timedelta(days=1)), "evidence")
    assert done.exit_code == 1
    assert "is in the future" in done.output


async def test_evidence_that_is_discounted_by_its_age_takes_no_import(router: Router, run: Import, tmp_path: Path) -> None:
    await router.create(experiment())
    await query(router.url, """UPDATE experiments SET allocation = allocation || '{"discount": {}}'""")
    done = await run(file(tmp_path / "x.csv"), "evidence")
    assert done.exit_code == 1
    assert "discounted by the hour" in done.output


async def test_a_concluded_experiment_learns_nothing_more(router: Router, run: Import, tmp_path: Path) -> None:
    await router.run(experiment())
    await router.move("Conclude")
    done = await run(file(tmp_path / "x.csv"), "evidence")
    assert done.exit_code == 1
    assert "concluded" in done.output


@pytest.mark.parametrize(
    ("how", "option", "other"),
    [
        ("evidence", ["--weight", "20"], "prior"),
        ("evidence", ["--server", "127.0.0.1:1"], "prior"),
        ("prior", ["--import-id", "x"], "evidence"),
        ("prior", ["--database-url", "postgresql://nowhere/x"], "evidence"),
        ("prior", ["--data-dir", "nowhere"], "evidence"),
    ],
)
def test_options_of_the_other_way_are_refused(how: str, option: list[str], other: str, tmp_path: Path) -> None:
    path = str(file(tmp_path / "x.csv"))
    done = CliRunner().invoke(main, ["import", "events", path, "--experiment", "support", "--as", how, *option])
    assert done.exit_code == 2
    assert f"{option[0]}: is for --as {other}: --as {how} has no use for it" in " ".join(done.output.split())


async def test_settings_of_the_environment_are_for_whom_they_concern(
    router: Router, run: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await router.run(experiment())
    monkeypatch.setenv("BANDIT_ROUTER_SERVER", f"127.0.0.1:{router.server.port}")
    monkeypatch.setenv("BANDIT_ROUTER_DATABASE_URL", router.url)
    for how in ("prior", "evidence"):
        result(await run(file(tmp_path / "x.csv"), how))


async def test_an_experiment_that_is_not_there_is_named(router: Router, run: Import, tmp_path: Path) -> None:
    path = file(tmp_path / "x.csv")
    for how in ("prior", "evidence"):
        done = await run(path, how, experiment_id="nope")
        assert done.exit_code != 0
        assert "nope" in done.output
