"""How a channel behaves: retries, deadlines, keepalive and sizes, as gRPC's own configuration.

Retries are gRPC's, by service config, so that neither client has a loop of its own. Deadlines are given per call: a
timeout in the service config is a ceiling that no caller could raise, and would be missing on a channel somebody else
made.
"""

from __future__ import annotations

import json
from typing import Any, Final

import grpc
import grpc.aio

from router.v1.routing_pb2_grpc import RouterServiceStub
from router.v1.shadow_pb2_grpc import ShadowServiceStub

#: What the router accepts and sends, in bytes.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

#: Deadline of each method unless the caller gives one, in seconds, retries included.
DEADLINE_S: Final = {"Route": 1.0, "BatchRoute": 5.0, "Reward": 5.0, "BatchReward": 30.0, "RecordShadow": 10.0}


def _retry(*codes: str, attempts: int, initial_s: float, longest_s: float) -> dict[str, Any]:
    return {
        "maxAttempts": attempts,
        "initialBackoff": f"{initial_s}s",
        "maxBackoff": f"{longest_s}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": list(codes),
    }


def _method(*names: str, retry: dict[str, Any], service: str = "RouterService") -> dict[str, Any]:
    return {
        "name": [{"service": f"router.v1.{service}", "method": name} for name in names],
        # A router that is down is told at once, so that the fallback arm can answer.
        "waitForReady": False,
        "retryPolicy": retry,
    }


SERVICE_CONFIG: Final[dict[str, Any]] = {
    # A name with several addresses is several replicas: use them all, and let a retry land on another one.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        # CANCELLED is what gRPC servers answer to a call that arrives while they shut down.
        # A user waits for Route. RESOURCE_EXHAUSTED is not retried: the replica is already drowning, more calls would
        # push it under, and the fallback arm is the faster answer.
        _method("Route", "BatchRoute", retry=_retry("UNAVAILABLE", "CANCELLED", attempts=4, initial_s=0.02, longest_s=0.2)),
        # Nobody waits for feedback, and feedback lost under load is lost selectively, which biases what is learned. So
        # an overloaded router is asked again; its pushback, when it sends one, replaces the backoff.
        _method(
            "Reward",
            "BatchReward",
            retry=_retry("UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", attempts=5, initial_s=0.1, longest_s=1),
        ),
        # Nobody waits for these either, and a record that is lost was paid for.
        _method(
            "RecordShadow",
            retry=_retry("UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", attempts=5, initial_s=0.1, longest_s=1),
            service="ShadowService",
        ),
    ],
    # Once about a tenth of all calls fail, retries stop until the router recovers: an outage is not amplified, and then
    # fallbacks come without waiting for retries.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

#: The channel arguments of both clients; use them for a channel of your own that clients share.
CHANNEL_OPTIONS: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # gRPC retries only what fits its buffer, 256 KiB by default: large batches would silently go without.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    # Pings only while calls are in flight, which servers always permit. It also bounds how long unacknowledged bytes
    # keep a dead connection alive, so that a vanished replica costs seconds, not the kernel's quarter of an hour.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # After a restart of the router, clients are back within seconds instead of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def dial(target: str | None, channel: grpc.Channel | None, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """Return the channel given, or a new one, in plain text without credentials; it connects at the first call."""
    address = _address(target, channel, credentials)
    if channel is not None:
        return channel
    if credentials is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def dial_aio(
    target: str | None, channel: grpc.aio.Channel | None, credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    """Return the same for asyncio."""
    address = _address(target, channel, credentials)
    if channel is not None:
        return channel
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def methods(channel: Any) -> dict[str, Any]:
    """Return what a client calls on a channel of either kind, by the name of the method."""
    routing, shadow = RouterServiceStub(channel), ShadowServiceStub(channel)
    return {name: getattr(shadow if name == "RecordShadow" else routing, name) for name in DEADLINE_S}


def _address(target: str | None, channel: object | None, credentials: object | None) -> str:
    """Return the target, empty if there is a channel. Raises ValueError unless there is exactly one of them."""
    if bool(target) == (channel is not None):
        raise ValueError("give either a target such as 'router:50051' or a channel")
    if channel is not None and credentials is not None:
        raise ValueError("credentials belong to the channel: give them to whoever makes it")
    return target or ""
