"""Signing keys take each other's place while replicas serve: no decision id is refused, and nobody changes arms."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from datetime import timedelta

import psycopg
import pytest
import pytest_asyncio
from keyed import ACT
from running import Router, assert_replay_agrees, experiment, refused, scalar, until

from router.clocks import Clocks
from router.storage import token_keys
from router.storage.api_keys import KeyRefusedError
from router.tokens import parse_token
from router.v1 import routing_pb2

StartRouter = Callable[..., Awaitable[Router]]
HOUR_US = 3_600_000_000


class Ahead:
    """A clock that runs with the host's, and can be put ahead."""

    def __init__(self) -> None:
        self.by_us = 0
        self._now_us = Clocks().now_us

    def clocks(self) -> Clocks:
        return Clocks(now_us=lambda: self._now_us() + self.by_us)


def signer(decision_id: str) -> int:
    """Return the id of the key that signed."""
    return int.from_bytes(raw(decision_id)[1:5], "big")


def raw(decision_id: str) -> bytes:
    return urlsafe_b64decode(decision_id + "=" * (-len(decision_id) % 4))


def rotate(url: str, after: timedelta) -> int:
    with psycopg.connect(url) as connection:
        return token_keys.rotate(connection, after, ACT).key_id


def retire(url: str, key_id: int) -> None:
    with psycopg.connect(url) as connection:
        token_keys.retire(connection, key_id, ACT)


@pytest.fixture
def ahead() -> Ahead:
    return Ahead()


@pytest_asyncio.fixture
async def replicas(database_url: str, start_router: StartRouter, ahead: Ahead) -> tuple[Router, Router]:
    """Two routers with an experiment."""
    one, two = [await start_router(database_url, ahead.clocks()) for _ in range(2)]
    await one.run(experiment("support", kind="FIXED", weights={"a": 0.5, "b": 0.5}, assignment="STICKY_HASH"))
    return one, two


async def until_signed_by(made: Router, key_id: int) -> None:
    async def met() -> bool:
        return signer((await made.route(unit_id="u")).decision_id) == key_id

    await until(met, f"{key_id} signs")


async def test_a_rotation_with_overlap_refuses_no_decision_id(
    replicas: tuple[Router, Router], ahead: Ahead, database_url: str
) -> None:
    before = [await made.route(unit_id="u", session_id="s", request_id=f"r{n}") for n, made in enumerate(replicas)]
    old = signer(before[0].decision_id)
    new = rotate(database_url, timedelta(hours=1))
    # Every replica knows it, and none signs with it.
    for made in replicas:
        await until(lambda made=made: any(key.key_id == new for key in made.server.codec.keys), "the key is known")
        assert signer((await made.route(unit_id="u")).decision_id) == old
    ahead.by_us = HOUR_US + 1
    for made in replicas:
        await until_signed_by(made, new)
    after = [await made.route(unit_id="u", session_id="s") for made in replicas]
    for decision in (*before, *after):
        for made in replicas:
            reply = await made.reward(decision.decision_id, 1.0, event_id="e")
            assert reply.status in (routing_pb2.STATUS_APPLIED, routing_pb2.STATUS_DUPLICATE)
    assert await scalar(database_url, "SELECT sum(n)::int8 FROM evidence") == 4
    await assert_replay_agrees(database_url)


async def test_units_and_repeated_requests_stay_what_they_were(
    replicas: tuple[Router, Router], ahead: Ahead, database_url: str
) -> None:
    one, two = replicas
    first = await one.route(unit_id="u", session_id="s", turn_id="t", request_id="again")
    new = rotate(database_url, timedelta(hours=1))
    ahead.by_us = HOUR_US + 1
    await until_signed_by(two, new)
    # By a replica that has not answered it: the draw and the key of the decision are computed anew.
    second = await two.route(unit_id="u", session_id="s", turn_id="t", request_id="again")
    assert signer(first.decision_id) != signer(second.decision_id)
    tokens = [parse_token(raw(decision.decision_id)) for decision in (first, second)]
    assert tokens[0].decision_key == tokens[1].decision_key
    assert (first.arm.arm_id, first.propensity) == (second.arm.arm_id, second.propensity)
    assert tokens[0][8:11] == tokens[1][8:11], "hashes of unit, session and turn"


async def test_what_a_retired_key_signed_is_refused(
    replicas: tuple[Router, Router], ahead: Ahead, database_url: str
) -> None:
    one, two = replicas
    leaked = (await one.route(unit_id="u")).decision_id
    with pytest.raises(KeyRefusedError, match="is signing: only one that verifies"):
        retire(database_url, signer(leaked))
    new = rotate(database_url, timedelta(seconds=0.001))
    for made in replicas:
        await until_signed_by(made, new)
    retire(database_url, signer(leaked))

    for made in replicas:

        async def is_refused(made: Router = made) -> bool:
            try:
                await made.reward(leaked, 1.0, event_id="e")
            except Exception:
                return True
            return False

        await until(is_refused, "what it signed is refused")
        assert (await refused(made.reward(leaked, 1.0))).reason == "DECISION_ID_FOREIGN"
    good = (await one.route(unit_id="u")).decision_id
    assert (await two.reward(good, 1.0)).status == routing_pb2.STATUS_APPLIED


def test_one_rotation_at_a_time(database_url: str) -> None:
    waiting = rotate(database_url, timedelta(hours=1))
    with pytest.raises(KeyRefusedError, match=f"token key {waiting} was made already"):
        rotate(database_url, timedelta(hours=1))
    with pytest.raises(KeyRefusedError, match="there is no token key 7"):
        retire(database_url, 7)
