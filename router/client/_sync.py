"""The client for threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from router.client import _channel, _errors, _trace
from router.client._access import Tls, access
from router.client._calls import Call, Calls
from router.client._errors import RouterError
from router.client._requests import RewardEvent, RewardOptions, RouteOptions, RouteRequest, ShadowOptions, ShadowRecord
from router.client._values import Arm, ClientStats, Decision, ModelAnswer, RewardResult

T = TypeVar("T")


class RouterClient:
    """Routes and rewards over one channel, from any number of threads.

    `target` is gRPC's, such as "router:50051" or "dns:///router:50051". Give instead a `channel` to share one: it stays
    open when the client closes, and should be made with `CHANNEL_OPTIONS`, for they hold the retries.

    `api_key` goes with every call, and `tls` says whom to trust: where they are not given, the environment's
    BANDIT_ROUTER_API_KEY and BANDIT_ROUTER_TLS_CA are used, but not for a channel of the caller's own. `credentials` are
    gRPC's, in place of `tls`; without either, in plain text. A key in plain text to another host raises ValueError unless
    `insecure`.

    `fallback_arms` has for each experiment the arm that answers when the router cannot.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.Channel | None = None,
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
        self._channel = _channel.dial(target, channel, found.credentials)
        self._owns_channel = channel is None
        self._methods = _channel.methods(self._channel)

    def route(self, experiment_id: str, *, timeout: float | None = None, **request: Unpack[RouteOptions]) -> Decision:
        """Return the arm that answers this request; `RouteRequest` describes the keywords.

        `timeout` in seconds, 1 by default, retries included. If nobody can decide, or the experiment is not running,
        returns the fallback arm if there is one that the request permits. Otherwise, and always for the caller's own
        errors, raises RouterError.
        """
        return self._send(self._calls.route(RouteRequest(experiment_id, **request), timeout))

    def batch_route(self, requests: Iterable[RouteRequest], *, timeout: float | None = None) -> list[Decision | RouterError]:
        """Return for each of up to 1,000 requests, in order, what `route` would have returned or raised.

        `timeout` in seconds, 5 by default. Raises RouterError if the whole call failed and no request could fall back.
        """
        return self._send(self._calls.batch_route(requests, timeout))

    def reward(
        self, decision: Decision | str, *, timeout: float | None = None, **event: Unpack[RewardOptions]
    ) -> RewardResult:
        """Tell what happened after a decision, given itself or by its id; `RewardEvent` describes the keywords.

        Exactly one of signal, reward and call. `timeout` in seconds, 5 by default, retries included. When it returns,
        the event is durable, unless the decision was a fallback: then nothing is sent and the status is NOT_SENT.
        Raises ValueError if the event cannot be sent as it is, and RouterError if the router did not take it.
        """
        return self._send(self._calls.reward(RewardEvent(decision, **event), timeout))

    def batch_reward(
        self, events: Iterable[RewardEvent], *, timeout: float | None = None
    ) -> list[RewardResult | RouterError]:
        """Tell up to 10,000 events; return for each, in order, what became of it or why it was not taken.

        `timeout` in seconds, 30 by default. Raises RouterError if the whole call failed; sending the same values
        again is safe.
        """
        return self._send(self._calls.batch_reward(events, timeout))

    def record_shadow(
        self,
        decision: Decision | str,
        arm: Arm | str,
        *,
        serving: ModelAnswer,
        shadow: ModelAnswer,
        timeout: float | None = None,
        **options: Unpack[ShadowOptions],
    ) -> bool:
        """Tell how a shadow arm answered beside the serving one; `ShadowRecord` describes the keywords.

        Returns whether that was news: False of what was recorded before, and of fallbacks, which mirror nothing. No more
        text is sent than the decision wants. `timeout` in seconds, 10 by default, retries included. When it returns, the
        comparison is durable. Raises RouterError if the router did not take it.
        """
        record = ShadowRecord(decision, arm, serving=serving, shadow=shadow, **options)
        return self._send(self._calls.record_shadow(record, timeout))

    def stats(self) -> ClientStats:
        """Return what this client did without the router."""
        return self._calls.stats()

    def close(self) -> None:
        """Close the channel, unless it was given; calls in flight are cancelled."""
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        if call.message is None:
            return call.done(None)
        try:
            reply = self._methods[call.method](
                call.message, timeout=call.timeout_s, metadata=(*self._metadata, *_trace.headers())
            )
        except grpc.RpcError as error:
            return call.failed(_errors.from_rpc(error))
        return call.done(reply)
