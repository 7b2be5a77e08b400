"""The commands of keys, in this process: what they print, refuse and never repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from postgres import TestCluster

from router.access.keys import is_key
from router.cli.main import main

KEY = "brk_0123456789ab_" + "A" * 43


class Commands:
    """`bandit-router` on one database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--database-url", self.url])

    def json(self, *arguments: str) -> object:
        done = self(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@pytest.fixture
def run(database_url: str) -> Commands:
    return Commands(database_url)


@pytest.fixture
def empty(cluster: TestCluster) -> Iterator[Commands]:
    with cluster.database_from_template("template1") as url:
        yield Commands(url)


def test_the_key_alone_is_on_standard_output(run: Commands) -> None:
    done = run("keys", "create", "--name", "backend", "--role", "route", "--role", "reward")
    assert done.exit_code == 0
    assert is_key(done.stdout.strip())
    assert "not shown again" in done.stderr
    assert done.stdout.strip() not in done.stderr
    for command in (("keys", "list"), ("keys", "list", "--all", "--json"), ("audit",), ("audit", "--json")):
        shown = run(*command)
        assert "backend" in shown.stdout
        assert done.stdout.strip().rsplit("_", 1)[-1] not in shown.stdout


def test_the_first_key_can_be_made_before_there_is_a_schema(empty: Commands) -> None:
    assert is_key(empty("keys", "create", "--name", "ops", "--role", "admin").stdout.strip())


def test_what_was_given_is_what_is_listed(run: Commands) -> None:
    run.json("keys", "create", "--name", "a", "--role", "route", "--experiment", "x", "--expires", "90d", "--rate", "600/m")
    run.json("keys", "create", "--name", "b", "--role", "read", "--rate", "5/s", "--burst", "50", "--actor", "ana")
    first, second = run.json("keys", "list")  # type: ignore[misc]
    assert (first["roles"], first["experiments"], first["rate"], first["burst"]) == (["route"], ["x"], 10.0, 10.0)
    assert first["expires_at"] is not None
    assert (second["experiments"], second["rate"], second["burst"]) == (None, 5.0, 50.0)
    assert (second["expires_at"], second["created_by"], second["last_used_at"]) == (None, "ana", None)


def test_replaced_and_revoked_keys(run: Commands) -> None:
    first = run.json("keys", "create", "--name", "a", "--role", "read")
    second = run.json("keys", "rotate", first["key_id"], "--overlap", "1h")  # type: ignore[index]
    run.json("keys", "revoke", first["key_id"], "--reason", "leaked")  # type: ignore[index]
    assert [row["key_id"] for row in run.json("keys", "list")] == [second["key_id"]]  # type: ignore[index, attr-defined]
    states = {row["key_id"]: row["state"] for row in run.json("keys", "list", "--all")}  # type: ignore[attr-defined]
    assert states == {first["key_id"]: "revoked", second["key_id"]: "active"}  # type: ignore[index]
    done = run("keys", "revoke", first["key_id"], "--reason", "again")  # type: ignore[index]
    assert done.exit_code == 1
    assert "was revoked at" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--role", "read"), "Missing option '--name'"),
        (("create", "--name", "a"), "Missing option '--role'"),
        (("create", "--name", "a", "--role", "root"), "'root' is not one of"),
        (("create", "--name", " ", "--role", "read"), "must be 1 to 128 printable characters"),
        (("create", "--name", "a\nb", "--role", "read"), "must be 1 to 128 printable characters"),
        (("create", "--name", "a", "--role", "read", "--expires", "90"), "write it as 500ms, 30s, 10m, 2h or 30d"),
        (("create", "--name", "a", "--role", "read", "--expires", "0s"), "must be above 0"),
        (("create", "--name", "a", "--role", "read", "--rate", "500"), "is not a rate, as in 500/s"),
        (("create", "--name", "a", "--role", "read", "--rate", "0/s"), "is not a rate"),
        (("create", "--name", "a", "--role", "read", "--burst", "5"), "--burst: takes a --rate"),
        (("create", "--name", "a", "--role", "read", "--experiment", ""), "is no id of an experiment"),
        (("rotate", "0" * 12, "--overlap", "0s"), "must be above 0"),
        (("revoke", "0" * 12), "Missing option '--reason'"),
        (("tokens", "retire", "5"), "Missing option '--reason'"),
    ],
)
def test_wrong_usage_is_explained(run: Commands, arguments: tuple[str, ...], said: str) -> None:
    done = run("keys", *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert run.json("keys", "list", "--all") == []


@pytest.mark.parametrize("command", [("rotate", KEY), ("revoke", KEY, "--reason", "x")])
def test_a_key_that_was_given_for_its_id_is_not_repeated(run: Commands, command: tuple[str, ...]) -> None:
    done = run("keys", *command)
    assert done.exit_code == 2
    assert "is not the id of a key" in done.stderr
    assert "AAAA" not in done.output


def test_the_audit_log_is_searched(run: Commands) -> None:
    made = run.json("keys", "create", "--name", "a", "--role", "read", "--actor", "ana", "--reason", "first")
    run.json("keys", "revoke", made["key_id"], "--reason", "second", "--actor", "ben")  # type: ignore[index]
    lines = run("audit").stdout.splitlines()
    assert ["keys revoke" in lines[0], "keys create" in lines[1]] == [True, True]
    assert "by ana from command" in lines[1]
    assert 'reason="first"' in lines[1]
    assert [row["actor"] for row in run.json("audit", "--actor", "ben")] == ["ben"]  # type: ignore[attr-defined]
    assert run.json("audit", "--outcome", "denied") == []
    assert len(run.json("audit", "--limit", "1")) == 1  # type: ignore[arg-type]


def test_signing_keys(run: Commands) -> None:
    made = run.json("keys", "tokens", "rotate", "--activate-after", "1h")
    (row,) = run.json("keys", "tokens", "list")  # type: ignore[misc]
    assert (row["key_id"], row["state"]) == (made["key_id"], "waiting")  # type: ignore[index]
    done = run("keys", "tokens", "rotate")
    assert done.exit_code == 1
    assert "was made already" in done.stderr
    assert "secret" not in run("keys", "tokens", "list", "--json").stdout
