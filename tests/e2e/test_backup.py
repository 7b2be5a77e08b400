"""Backup and restore as an operator does them: the commands, a new cluster, and a router that goes on from there."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from books import apply, experiment_at
from postgres import TestCluster
from processes import run, serving
from running import Router, arm, assert_replay_agrees, event, experiment, query, scalar, until, until_scalar

from router.client import RouterClient
from router.embedded.binaries import locate
from router.feedback_spool import FeedbackSpool
from router.v1 import experiments_pb2 as pb
from router.v1 import routing_pb2

StartRouter = Callable[..., Awaitable[Router]]
EVIDENCE = "SELECT * FROM evidence ORDER BY incarnation, arm, segment, bucket"
EVENTS = "SELECT count(*) FROM events"


async def busy(made: Router) -> list[str]:
    """Traffic of every kind; returns decision ids of `support` that have no event yet."""
    await made.run()
    ramp = pb.RampRule(approval=True)
    await made.run(experiment("ramped", [arm("old", role="ROLE_CONTROL"), arm("new")], ramp=ramp))
    await made.run(experiment("sticky", assignment="STICKY_STORED"))
    await made.learn("a", 30, 10)
    await made.learn("b", 10, 30)
    for number in range(20):
        reply = await made.route("sticky", unit_id=f"u{number}")
        await made.reward(reply.decision_id, 0.25)
        await made.route("ramped", unit_id=f"u{number}")
    await until_scalar(made.url, "SELECT count(*) > 0 FROM snapshots", True)
    # 80, 20 and 20 decisions: all of them have left the spool.
    await until_scalar(made.url, "SELECT count(*) FROM decisions", 120)
    return [(await made.route(unit_id=f"later-{number}")).decision_id for number in range(10)]


@pytest.mark.slow
async def test_a_restored_backup_goes_on_where_it_was_made(
    cluster: TestCluster, database_url: str, start_router: StartRouter, tmp_path: Path
) -> None:
    """The disaster comes after the backup: what was applied in between is lost, what was spooled is not."""
    file = tmp_path / "kept" / "router.backup"
    file.parent.mkdir()
    before = await start_router(database_url)
    ids = await busy(before)
    evidence, events = await query(database_url, EVIDENCE), await scalar(database_url, EVENTS)

    done = run("backup", "--database-url", database_url, "-o", file)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "password" not in done.stdout
    again = run("backup", "--database-url", database_url, "-o", file)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)

    for decision_id in ids[:3]:
        assert (await before.reward(decision_id, 1.0, event_id="lost")).status == routing_pb2.STATUS_APPLIED
    after_the_backup = (await before.route(unit_id="after")).decision_id
    deployment = await scalar(database_url, "SELECT deployment_id FROM deployment")
    await before.close()
    # As a worker leaves it that could not reach Postgres.
    spool = FeedbackSpool(tmp_path / "spool" / str(deployment))
    at_us = int(datetime.now(UTC).timestamp() * 1e6)
    spooled = [event(decision_id, 1.0, event_id="spooled") for decision_id in [*ids[3:6], after_the_backup]]
    spool.extend((one.SerializeToString(), at_us) for one in spooled)
    await spool.sync()
    spool.close()
    cluster.drop_database(database_url.rsplit("/", 1)[1].split("?")[0])

    with TestCluster() as fresh:
        url = fresh.create_database("restored")
        done = run("restore", file, "--database-url", url)
        assert done.returncode == 0, done.stderr
        replayed = run("replay", "--database-url", url)
        assert (replayed.returncode, "agrees" in replayed.stdout) == (0, True), replayed.stdout
        assert await query(url, EVIDENCE) == evidence
        assert await scalar(url, EVENTS) == events
        assert await scalar(url, "SELECT deployment_id FROM deployment") == deployment

        made = await start_router(url)
        await until_scalar(url, EVENTS, events + len(spooled))
        assert (await made.reward(ids[3], 1.0, event_id="spooled")).status == routing_pb2.STATUS_DUPLICATE
        # Ids of before verify; so do those of decisions that only the lost database knew.
        for decision_id in ids[6:]:
            assert (await made.reward(decision_id, 1.0)).status == routing_pb2.STATUS_APPLIED
        # What was acknowledged in between counts again if its producer sends it again.
        assert (await made.reward(ids[0], 1.0, event_id="lost")).status == routing_pb2.STATUS_APPLIED
        assert (await made.get("ramped")).HasField("ramp_status")
        assert (await made.route("sticky", unit_id="u1")).reason == routing_pb2.REASON_STICKY
        reply = await made.route()
        assert not reply.HasField("stale_for")

        async def learned() -> bool:
            posterior = await made.posterior()
            return (await made.route()).policy_version == posterior.policy_version

        await until(learned, "the new router learns")
        await assert_replay_agrees(url)
        await made.close()


@pytest.mark.slow
def test_what_a_restore_refuses(cluster: TestCluster, database_url: str, tmp_path: Path) -> None:
    taken = run("restore", __file__, "--database-url", database_url)
    assert (taken.returncode, "is not empty" in taken.stderr) == (1, True), taken.stderr
    empty = cluster.create_database("for_a_restore")
    noise = tmp_path / "noise"
    noise.write_bytes(b"PGDMP" + bytes(500))
    broken = run("restore", noise, "--database-url", empty)
    assert (broken.returncode, broken.stderr.startswith("error: pg_restore")) == (1, True), broken.stderr
    whole = tmp_path / "whole"
    assert run("backup", "--database-url", database_url, "-o", whole).returncode == 0
    for share in (0.66, 0.999):
        cut = tmp_path / f"cut-{share}"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        short = run("restore", cut, "--database-url", empty)
        assert (short.returncode, "end of file" in short.stderr) == (1, True), "one that is cut short is not restored"
    assert run("restore", whole, "--database-url", empty).returncode == 0, "and leaves the database empty"
    away = run("backup", "--database-url", "postgresql://nobody@127.0.0.1:1/x", "-o", tmp_path / "none")
    assert (away.returncode, list(tmp_path.glob("none*"))) == (1, [])


def test_the_embedded_postgres(tmp_path: Path) -> None:
    """Backed up beside the service, restored into a new data directory that nothing runs on."""
    file = tmp_path / "backup"
    with serving(tmp_path / "one") as service:
        apply(experiment_at(tmp_path), service.target)
        with RouterClient(service.target) as client:
            decision = client.route("support", unit_id="u")
            client.reward(decision, event_id="e", reward=1.0)
        assert run("backup", "--data-dir", tmp_path / "one" / "data", "-o", file).returncode == 0
    done = run("restore", file, "--data-dir", tmp_path / "two" / "data")
    assert done.returncode == 0, done.stderr
    with serving(tmp_path / "two") as service, RouterClient(service.target) as client:
        assert client.route("support", unit_id="v").arm.arm_id in ("a", "b")
        assert client.reward(decision, event_id="e", reward=1.0).status.name == "DUPLICATE"
        replayed = run("replay", "--data-dir", tmp_path / "two" / "data", "--json")
        assert '"agrees": true' in replayed.stdout
    listed = subprocess.run(
        [locate().root / "bin" / "pg_restore", "--list", file], capture_output=True, text=True, check=True
    )
    assert "TABLE DATA public token_keys" in listed.stdout, "Postgres' own tools read it"
