"""TLS on a real server: who is let in, and certificates that are replaced while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from certificates import Authority
from keyed import EVERY_ROLE, create_key, revoke_key
from running import Router, experiment, until

from router.client import AsyncRouterClient, RouterClient, Tls, Unauthenticated, Unavailable
from router.settings import SettingsError, tls_files
from router.v1 import experiments_pb2, experiments_pb2_grpc

StartRouter = Callable[..., Awaitable[Router]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("certificates"))
    for name in ("one", "two", "client"):
        made.sign(name)
    return made


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("strangers"), "stranger")
    made.sign("client")
    return made


class Served:
    """The files that a server was given."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.cert, self.key = directory / "server.pem", directory / "server.key"
        self._authority = authority
        self.put("one")

    def put(self, cert: str, key: str | None = None) -> None:
        """Replace them by those of this name."""
        for path, source in ((self.key, f"{key or cert}.key"), (self.cert, f"{cert}.pem")):
            shutil.copy(self._authority.directory / source, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)


@pytest.fixture
def served(tmp_path: Path, authority: Authority) -> Served:
    return Served(tmp_path, authority)


@pytest_asyncio.fixture
async def running(database_url: str, start_router: StartRouter, served: Served) -> Router:
    """A router with TLS and keys."""
    return await start_router(database_url, keys=True, tls_cert=str(served.cert), tls_key=str(served.key))


def channel_to(made: Router, ca: Authority, cert: Path | None = None, key: Path | None = None) -> grpc.aio.Channel:
    """A channel of its own to a server."""
    tls = Tls(ca.path, cert, key).credentials()
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"localhost:{made.server.port}", tls, options=options)


async def code_of(channel: grpc.aio.Channel, key: str = "") -> grpc.StatusCode:
    """Return how a call ends."""
    stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
    metadata = [("authorization", f"Bearer {key}")] if key else []
    request = experiments_pb2.GetExperimentRequest(experiment_id="nowhere")
    try:
        await stub.GetExperiment(request, metadata=metadata, timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def until_known(channel: grpc.aio.Channel, key: str, *, known: bool = True) -> None:
    """Wait until a key is let in, or is not any more."""

    async def met() -> bool:
        return (await code_of(channel, key) is not grpc.StatusCode.UNAUTHENTICATED) is known

    await until(met, "the router has heard of the key")


def shown(made: Router, authority: Authority) -> str:
    """Return the name in the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.path)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", made.server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        subject = connection.getpeercert()["subject"]  # type: ignore[index]
    return str(subject[0][0][1])


async def test_whoever_trusts_the_certificate_is_served_and_nobody_else(
    running: Router, authority: Authority, stranger: Authority
) -> None:
    async with channel_to(running, authority) as good, channel_to(running, stranger) as doubting:
        assert await code_of(good) is grpc.StatusCode.UNAUTHENTICATED
        assert await code_of(doubting) is grpc.StatusCode.UNAVAILABLE
    assert await code_of(running.channel) is grpc.StatusCode.UNAVAILABLE, "plain text"


async def test_with_a_client_ca_clients_need_a_certificate(
    database_url: str, start_router: StartRouter, served: Served, authority: Authority, stranger: Authority
) -> None:
    made = await start_router(
        database_url, tls_cert=str(served.cert), tls_key=str(served.key), tls_client_ca=str(authority.path)
    )
    own = authority.directory / "client.pem", authority.directory / "client.key"
    theirs = stranger.directory / "client.pem", stranger.directory / "client.key"
    async with contextlib.AsyncExitStack() as stack:
        good, without, foreign = [
            await stack.enter_async_context(channel_to(made, authority, *files)) for files in (own, (), theirs)
        ]
        assert await code_of(good) is grpc.StatusCode.NOT_FOUND
        assert await code_of(without) is grpc.StatusCode.UNAVAILABLE
        assert await code_of(foreign) is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_is_replaced_and_no_connection_dropped(
    running: Router, authority: Authority, served: Served
) -> None:
    async with channel_to(running, authority) as before:
        assert await code_of(before) is grpc.StatusCode.UNAUTHENTICATED
        states = [before.get_state()]
        assert await asyncio.to_thread(shown, running, authority) == "one"
        served.put("two")
        assert await asyncio.to_thread(shown, running, authority) == "two"
        for _ in range(20):
            assert await code_of(before) is grpc.StatusCode.UNAUTHENTICATED
            states.append(before.get_state())
        assert set(states) == {grpc.ChannelConnectivity.READY}


async def test_a_certificate_that_is_broken_or_half_replaced_leaves_the_old_one(
    running: Router, authority: Authority, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await asyncio.to_thread(shown, running, authority) == "one"

    def errors() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    served.put("two", key="one")
    for _ in range(3):
        assert await asyncio.to_thread(shown, running, authority) == "one"
    assert len(errors()) == 1, "said once"
    assert "key values mismatch" in errors()[0]
    served.cert.write_text("no certificate")
    assert await asyncio.to_thread(shown, running, authority) == "one"
    served.cert.unlink()
    assert await asyncio.to_thread(shown, running, authority) == "one"
    served.put("two")
    assert await asyncio.to_thread(shown, running, authority) == "two"
    async with channel_to(running, authority) as channel:
        assert await code_of(channel) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("one.pem", None, None), "--tls-cert and --tls-key go together"),
        ((None, None, "ca.pem"), "--tls-client-ca needs both"),
        (("one.pem", "two.key", None), "key values mismatch"),
        (("one.pem", "gone.key", None), "gone.key: No such file"),
        (("one.key", "one.key", None), "give a PEM certificate"),
        (("one.pem", "locked.key", None), "give a PEM certificate"),
        (("one.pem", "one.key", "one.key"), "give a PEM certificate"),
    ],
)
def test_files_that_cannot_be_used_are_refused_at_the_start(
    authority: Authority, given: tuple[str | None, ...], said: str
) -> None:
    locked = authority.directory / "locked.key"
    if not locked.exists():
        one = authority.directory / "one.key"
        subprocess.run(["openssl", "ec", "-in", one, "-aes256", "-passout", "pass:x", "-out", locked], check=True)
    cert, key, ca = (None if name is None else str(authority.directory / name) for name in given)
    with pytest.raises(SettingsError) as raised:
        tls_files(cert, key, ca)
    assert said in str(raised.value)


@pytest_asyncio.fixture
async def keyed(running: Router) -> AsyncIterator[str]:
    """The target of a router that has an experiment."""
    yield f"localhost:{running.server.port}"


async def test_both_clients_send_their_key_over_tls(
    running: Router, keyed: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = create_key(running.url, *EVERY_ROLE)
    tls = Tls(ca=authority.path)
    async with channel_to(running, authority) as channel:
        stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        key = (("authorization", f"Bearer {new.text}"),)
        await until_known(channel, new.text)
        await stub.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=experiment()), metadata=key)
        await stub.StartExperiment(experiments_pb2.StartExperimentRequest(experiment_id="support"), metadata=key)
    async with AsyncRouterClient(keyed, api_key=new.text, tls=tls) as client:
        decision = await client.route("support")
        assert (await client.reward(decision, signal="task_completed")).arm_id == decision.arm.arm_id

    def in_a_thread() -> None:
        with RouterClient(keyed, api_key=new.text, tls=tls) as client:
            assert client.route("support").decision_id
        with RouterClient(keyed, tls=tls) as client, pytest.raises(Unauthenticated) as raised:
            client.route("support")
        assert raised.value.reason == "API_KEY_MISSING"
        with RouterClient(keyed, api_key=new.text) as client, pytest.raises(Unavailable):
            client.route("support")  # in plain text, to this host

    await asyncio.to_thread(in_a_thread)
    monkeypatch.setenv("BANDIT_ROUTER_API_KEY", f"{new.text}\n")
    monkeypatch.setenv("BANDIT_ROUTER_TLS_CA", str(authority.path))
    async with AsyncRouterClient(keyed) as client:
        assert (await client.route("support")).decision_id


async def test_a_key_that_is_revoked_costs_learning_and_no_answers(
    running: Router, keyed: str, authority: Authority
) -> None:
    new = create_key(running.url, *EVERY_ROLE)
    async with channel_to(running, authority) as channel:
        await until_known(channel, new.text)
        revoke_key(running.url, new.key_id)
        await until_known(channel, new.text, known=False)
    tls = Tls(ca=authority.path)
    async with AsyncRouterClient(keyed, api_key=new.text, tls=tls, fallback_arms={"support": "control"}) as client:
        decision = await client.route("support")
        assert (decision.is_fallback, decision.arm.arm_id) == (True, "control")
        assert client.stats().fallbacks == 1
