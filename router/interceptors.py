"""The one place where calls are validated and where errors become gRPC statuses.

Handlers raise; nothing else aborts. An unexpected exception becomes INTERNAL with an id: the id is in the log beside
the cause, and the cause stays there. Bytes that are not the expected message are the client's error, not a fault.

Handlers are wrapped when their service is registered. An interceptor of the library's own kind would be asked again at
every call, at the cost of a coroutine.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from router.access.guard import Guard, MethodGuard
from router.errors import InternalError, InvalidArgumentError, ServiceError, UnavailableError
from router.storage.errors import StorageError, StorageUnavailableError
from router.telemetry.calls import Calls, Method, interrupted
from router.validation import validate

log = logging.getLogger(__name__)


class _Malformed:
    """Stands for a request whose bytes could not be parsed."""


class InterceptingServer:
    """What `add_…Servicer_to_server` is given in place of a server, so that every handler is wrapped."""

    def __init__(self, server: grpc.aio.Server, calls: Calls | None = None, guard: Guard | None = None) -> None:
        """`calls` counts and times them; `guard` asks what the caller may do, unless anybody may do anything."""
        self._server = server
        self._calls = calls or Calls()
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers come by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """Register the wrapped handlers of a service."""
        wrapped = {
            name: _wrap(
                handler,
                self._calls.method(service, name),
                None if self._guard is None else self._guard.of(f"/{service}/{name}"),
            )
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))


def _wrap(
    handler: grpc.RpcMethodHandler[Any, Any], method: Method, guard: MethodGuard | None
) -> grpc.RpcMethodHandler[Any, Any]:
    """Wrap a handler of one request and one reply, or of one request and a stream of replies."""
    behave: Any = handler.unary_unary
    stream: Any = handler.unary_stream
    parse: Any = handler.request_deserializer

    def deserialize(data: bytes) -> Message | _Malformed:
        try:
            message: Message = parse(data)
            return message
        except Exception:
            return _Malformed()

    async def call(request: Message | _Malformed, context: Any) -> Any:
        running, code, reply = method.began(context), grpc.StatusCode.OK, None
        try:
            if guard is not None:
                guard.admit(request)
            if isinstance(request, _Malformed):
                raise _malformed()
            validate(request)
            reply = await behave(request, context)
            return reply
        except Exception as error:
            if guard is not None:
                guard.note(error, request, context)
            told = as_service_error(error, log_fields(request))
            code = told.code
            return await abort(told, context)
        except asyncio.CancelledError:
            code = interrupted(context)
            raise
        finally:
            method.ended(running, code, reply)

    async def call_stream(request: Message | _Malformed, context: Any) -> AsyncIterator[Any]:
        running, code = method.began(context, attach=False), grpc.StatusCode.OK
        try:
            if guard is not None:
                guard.admit(request)
            if isinstance(request, _Malformed):
                raise _malformed()
            validate(request)
            async for reply in stream(request, context):
                if guard is not None:
                    guard.check_still()
                yield reply
        except Exception as error:
            if guard is not None:
                guard.note(error, request, context)
            told = as_service_error(error, log_fields(request))
            code = told.code
            await abort(told, context)
        except (asyncio.CancelledError, GeneratorExit):
            code = interrupted(context)
            raise
        finally:
            method.ended(running, code)

    if stream is not None:
        return grpc.unary_stream_rpc_method_handler(call_stream, deserialize, _serialize)
    return grpc.unary_unary_rpc_method_handler(call, deserialize, _serialize)


def _malformed() -> InvalidArgumentError:
    return InvalidArgumentError("the request's bytes are not the message that this method takes", reason="MALFORMED_MESSAGE")


async def abort(service_error: ServiceError, context: Any) -> Any:
    """End a call with an error."""
    status = rpc_status.to_status(service_error.to_status())
    trailers = status.trailing_metadata
    if service_error.retry_after_ms is not None and service_error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # What gRPC's own retries obey; RetryInfo is for people and for other clients. Where a call is only unavailable here,
        # another replica may answer at once.
        trailers = (*trailers, ("grpc-retry-pushback-ms", str(service_error.retry_after_ms)))
    return await context.abort(status.code, status.details, trailers)


def _serialize(reply: Message | bytes) -> bytes:
    """Serialize a reply; the hot path's are serialized already."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


#: What of a request names the interaction that a line of the log is about. Units may be people, and so are left out.
_LOGGED = ("experiment_id", "decision_id", "session_id", "turn_id", "request_id", "interleaving_id")


def log_fields(request: object) -> dict[str, str]:
    """Return the fields of a request by which its log lines can be joined to decisions; empty ones are left out."""
    found = {name: getattr(request, name, "") for name in _LOGGED}
    arm_id = getattr(request, "arm_id", "") or getattr(request, "force_arm_id", "")
    return {name: value for name, value in {**found, "arm_id": arm_id}.items() if value}


def as_service_error(error: Exception, fields: Mapping[str, str] | None = None) -> ServiceError:
    """Return the error that a client may see for `error`; `fields` go to the log with it."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, StorageUnavailableError):
        log.warning("a call ended because Postgres is away: %s", error, extra=fields)
        return UnavailableError("Postgres cannot be reached or cannot write just now", retry_after_ms=1000)
    error_id = secrets.token_hex(8)
    kind = "storage refused" if isinstance(error, StorageError) else "unexpected error"
    log.error("%s, error id %s", kind, error_id, exc_info=error, extra={**(fields or {}), "error_id": error_id})
    return InternalError(f"a fault of the router: its log tells more under {error_id}", metadata={"error_id": error_id})
