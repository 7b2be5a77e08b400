"""The client for asyncio: `RouterClient`'s methods as coroutines."""
# ruff: noqa: ASYNC109  # the deadline is gRPC's: it travels to the router, which asyncio.timeout does not

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio

from router.client import _channel, _errors, _trace
from router.client._access import Tls, access
from router.client._calls import Call, Calls
from router.client._errors import RouterError
from router.client._requests import RewardEvent, RewardOptions, RouteOptions, RouteRequest, ShadowOptions, ShadowRecord
from router.client._values import Arm, ClientStats, Decision, ModelAnswer, RewardResult

T = TypeVar("T")


class AsyncRouterClient:
    """Routes and rewards over one channel of the event loop it is made in.

    The arguments are those of `RouterClient`, with a grpc.aio channel. A cancelled task cancels its call.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.aio.Channel | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        fallback_arms: Mapping[str, Arm | str] | None = None,
    ) -> None:
        self._calls = Calls(fallback_arms)
        found = access(
            target,
            given_channel=channel is not None,
            credentials=credentials,
            api_key=api_key,
            tls=tls,
            insecure=insecure,
        )
        self._metadata = found.metadata
        self._channel = _channel.dial_aio(target, channel, found.credentials)
        self._owns_channel = channel is None
        self._methods = _channel.methods(self._channel)

    async def route(self, experiment_id: str, *, timeout: float | None = None, **request: Unpack[RouteOptions]) -> Decision:
        """Return the arm that answers this request, as `RouterClient.route`."""
        return await self._send(self._calls.route(RouteRequest(experiment_id, **request), timeout))

    async def batch_route(
        self, requests: Iterable[RouteRequest], *, timeout: float | None = None
    ) -> list[Decision | RouterError]:
        """Return a decision or an error for each request, as `RouterClient.batch_route`."""
        return await self._send(self._calls.batch_route(requests, timeout))

    async def reward(
        self, decision: Decision | str, *, timeout: float | None = None, **event: Unpack[RewardOptions]
    ) -> RewardResult:
        """Tell what happened after a decision, as `RouterClient.reward`."""
        return await self._send(self._calls.reward(RewardEvent(decision, **event), timeout))

    async def batch_reward(
        self, events: Iterable[RewardEvent], *, timeout: float | None = None
    ) -> list[RewardResult | RouterError]:
        """Tell many events, as `RouterClient.batch_reward`."""
        return await self._send(self._calls.batch_reward(events, timeout))

    async def record_shadow(
        self,
        decision: Decision | str,
        arm: Arm | str,
        *,
        serving: ModelAnswer,
        shadow: ModelAnswer,
        timeout: float | None = None,
        **options: Unpack[ShadowOptions],
    ) -> bool:
        """Tell how a shadow arm answered beside the serving one, as `RouterClient.record_shadow`."""
        record = ShadowRecord(decision, arm, serving=serving, shadow=shadow, **options)
        return await self._send(self._calls.record_shadow(record, timeout))

    def stats(self) -> ClientStats:
        """Return what this client did without the router."""
        return self._calls.stats()

    async def close(self) -> None:
        """Close the channel, unless it was given; calls in flight are cancelled."""
        if self._owns_channel:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        if call.message is None:
            return call.done(None)
        try:
            reply = await self._methods[call.method](
                call.message, timeout=call.timeout_s, metadata=(*self._metadata, *_trace.headers())
            )
        except grpc.RpcError as error:
            return call.failed(_errors.from_rpc(error))
        return call.done(reply)
