"""Routers that ask for keys, and those who have one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import psycopg
from running import Router, until

from router.access.keys import NewKey, new_key
from router.access.roles import Role
from router.storage import api_keys
from router.storage.api_keys import Grant
from router.storage.audit import Act
from router.v1 import shadow_pb2_grpc

ACT = Act("test", "tester", reason="a test")
EVERY_ROLE = tuple(role.value for role in Role)


def create_key(
    url: str,
    *roles: str,
    name: str = "",
    experiments: Collection[str] | None = None,
    rate: float | None = None,
    burst: float | None = None,
    lifetime: timedelta | None = None,
) -> NewKey:
    """Make a key as `keys create` does."""
    new = new_key()
    scope = None if experiments is None else frozenset(experiments)
    grant = Grant(name or new.key_id, frozenset(map(Role, roles)), scope, rate, burst or rate, lifetime)
    with psycopg.connect(url) as connection:
        api_keys.create(connection, new, grant, ACT)
    return new


def revoke_key(url: str, key_id: str) -> None:
    """Revoke a key as `keys revoke` does."""
    with psycopg.connect(url) as connection:
        api_keys.revoke(connection, key_id, ACT)


@dataclass
class Caller(Router):
    """A router as somebody sees it who sends a key, or what passes for one."""

    #: Of the key, where it is one.
    key_id: str = ""
    text: str = ""

    @property
    def shadows(self) -> shadow_pb2_grpc.ShadowServiceStub:
        """Shadow answers."""
        return shadow_pb2_grpc.ShadowServiceStub(self.channel)

    async def until_known(self) -> Caller:
        """Wait until the router knows the key, whatever it may do."""

        async def known() -> bool:
            try:
                await self.get("nowhere")
            except grpc.aio.AioRpcError as error:
                return error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
            return True

        await until(known, "the key is known")
        return self


def caller(made: Router, key: NewKey | str) -> Caller:
    """Call a router with a key, or with any value of `authorization`; close its channel."""
    value = key if isinstance(key, str) else f"Bearer {key.text}"
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    interceptors = [_sending(value, "unary_unary"), _sending(value, "unary_stream")]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{made.server.port}", options=options, interceptors=interceptors)
    one = Caller(made.server, None, made.url, channel)
    if isinstance(key, NewKey):
        one.key_id, one.text = key.key_id, key.text
    return one


def _sending(value: str, kind: str) -> Any:
    """An interceptor for calls of one kind: the library takes an object for the first kind that it is of."""
    base = {"unary_unary": grpc.aio.UnaryUnaryClientInterceptor, "unary_stream": grpc.aio.UnaryStreamClientInterceptor}[kind]

    async def intercept(self: Any, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", value))
        return await continuation(details._replace(metadata=metadata), request)

    return type("Sending", (base,), {f"intercept_{kind}": intercept})()
