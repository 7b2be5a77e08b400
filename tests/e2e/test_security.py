"""A service beyond loopback, as processes: TLS, keys made by the command, revoked on every worker, shown nowhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from books import experiment_at
from certificates import Authority
from processes import Service, run, serving, wait_until

from router.client import CHANNEL_OPTIONS, RouterClient, RouterError, Tls, Unauthenticated

_OWN = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("certificates"))
    made.sign("server")
    made.sign("client")
    return made


def command(*arguments: str | Path) -> str:
    """Run a command that must succeed; returns its output."""
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Secured:
    """A service with TLS and keys, with one experiment."""

    def __init__(self, service: Service, directory: Path, authority: Authority) -> None:
        self.service, self.directory, self.authority = service, directory, authority
        self.target = f"localhost:{service.port}"
        self.reach = ("--server", self.target, "--tls-ca", authority.path)
        self.data = ("--data-dir", directory / "data")

    def key(self, name: str, *roles: str) -> dict[str, str]:
        """Make a key, and a file of it."""
        given = [argument for role in roles for argument in ("--role", role)]
        made = json.loads(command("keys", "create", "--name", name, *given, "--json", *self.data))
        (self.directory / name).write_text(made["key"] + "\n")
        return dict(made)

    @contextmanager
    def connected(self, key: str) -> Iterator[RouterClient]:
        """A client on a connection of its own, and so with any of the workers."""
        credentials = Tls(self.authority.path).credentials()
        with (
            grpc.secure_channel(self.target, credentials, options=_OWN) as channel,
            RouterClient(channel=channel, api_key=key) as client,
        ):
            yield client


@pytest.fixture
def secured(tmp_path: Path, authority: Authority) -> Iterator[Secured]:
    files = ("--tls-cert", authority.directory / "server.pem", "--tls-key", authority.directory / "server.key")
    with serving(tmp_path, "--listen", "0.0.0.0:0", *files, "--workers", "2") as service:
        made = Secured(service, tmp_path, authority)
        made.key("ops", "admin")

        def applied() -> bool:
            arguments = ("-f", experiment_at(tmp_path), *made.reach, "--api-key-file", tmp_path / "ops")
            return run("apply", *arguments).returncode == 0

        wait_until(applied, "the router knows the key, and the experiment runs")
        yield made


@pytest.mark.slow
def test_from_the_first_key_to_a_revoked_one(secured: Secured) -> None:
    backend = secured.key("backend", "route", "reward")
    # Those that a worker answers without a key, and with one that may not.
    done = run("status", *secured.reach)
    assert done.returncode == 1
    assert "API_KEY_MISSING" in done.stderr
    done = run("status", *secured.reach, "--api-key-file", secured.directory / "backend")
    assert done.returncode == 1
    assert "ROLE_MISSING" in done.stderr
    assert "support" in command("status", *secured.reach, "--api-key-file", secured.directory / "ops")
    done = run("status", "--server", secured.target)
    assert done.returncode == 1, "in plain text"

    def answers(client: RouterClient) -> bool:
        try:
            decision = client.route("support")
        except Unauthenticated:
            return False
        return client.reward(decision, signal="task_completed").arm_id == decision.arm.arm_id

    clients = [secured.connected(backend["key"]) for _ in range(12)]
    opened = [client.__enter__() for client in clients]
    for client in opened:
        wait_until(lambda client=client: answers(client), "the key is known", 5)
    command("keys", "revoke", backend["key_id"], "--reason", "leaked", *secured.data)
    revoked_at = time.monotonic()
    for client in opened:
        wait_until(lambda client=client: not answers(client), "the key is refused", 5)
    # The command tells them before it ends, and every worker has heard it within a second.
    assert time.monotonic() - revoked_at < 1.0
    for client in clients:
        client.__exit__(None, None, None)
    with secured.connected(backend["key"]) as client, pytest.raises(RouterError) as raised:
        client.route("support")
    assert raised.value.reason == "API_KEY_REVOKED"

    whole = secured.service.log + "".join(secured.service.descendants().values())
    for key in (backend["key"], (secured.directory / "ops").read_text().strip()):
        assert key not in whole
        assert key.split("_")[2] not in whole
    listed = json.loads(command("keys", "list", "--all", "--json", *secured.data))
    assert [(row["name"], row["state"]) for row in listed] == [("ops", "active"), ("backend", "revoked")]
    acts = json.loads(command("audit", "--json", *secured.data))
    assert [(row["action"], row["outcome"]) for row in reversed(acts)] == [
        ("keys create", "done"),
        *((name, "done") for name in ("CreateExperiment", "StartExperiment", "keys create", "keys revoke")),
    ]
    assert {row["actor"] for row in acts if row["source"] != "command"} == {"ops"}


@pytest.mark.slow
def test_keys_and_signing_keys_are_rotated_under_a_running_service(secured: Secured) -> None:
    first = secured.key("backend", "route", "reward")
    second = json.loads(command("keys", "rotate", first["key_id"], "--overlap", "1h", "--json", *secured.data))
    with secured.connected(first["key"]) as old, secured.connected(second["key"]) as new:

        def both() -> bool:
            try:
                return bool(old.route("support").decision_id and new.route("support").decision_id)
            except Unauthenticated:
                return False

        wait_until(both, "both keys are good")
        before = old.route("support")
        command("keys", "tokens", "rotate", "--activate-after", "1s", *secured.data)

        def signer(decision_id: str) -> str:
            return decision_id[1:6]  # of base64: the key's id is in the bytes 1 to 4

        wait_until(lambda: signer(new.route("support").decision_id) != signer(before.decision_id), "the new key signs")
        after = new.route("support")
        for decision in (before, after):
            assert new.reward(decision, signal="task_completed").arm_id == decision.arm.arm_id
    states = [row["state"] for row in json.loads(command("keys", "tokens", "list", "--json", *secured.data))]
    assert states == ["verifying", "signing"]


@pytest.mark.slow
def test_mutual_tls(tmp_path: Path, authority: Authority) -> None:
    files = ("--tls-cert", authority.directory / "server.pem", "--tls-key", authority.directory / "server.key")
    with serving(tmp_path, *files, "--tls-client-ca", authority.path) as service:
        reach = ("--server", f"localhost:{service.port}", "--tls-ca", authority.path)
        own = ("--client-cert", authority.directory / "client.pem", "--client-key", authority.directory / "client.key")
        assert run("status", *reach, *own).returncode == 0
        assert run("status", *reach).returncode == 1


def test_a_key_is_not_sent_in_plain_text(tmp_path: Path) -> None:
    key = "brk_0123456789ab_" + "A" * 43
    (tmp_path / "key").write_text(key)
    done = run("status", "--server", "192.0.2.1:50051", "--api-key-file", tmp_path / "key")
    assert done.returncode == 2
    assert "would travel to '192.0.2.1:50051' in plain text: give --tls-ca" in done.stderr
    assert key not in done.stderr + done.stdout
