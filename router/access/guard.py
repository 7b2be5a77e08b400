"""The guard: tells who calls before a request is read, and what they may do once it is.

Protocol
    `Guarded` handlers ask for the key when the headers of a call have come. Whoever has none is refused then: the message is
    neither awaited nor parsed. The interceptor asks for role, scope and rate once there is a request (`MethodGuard`).

    Keys are checked against a ring that is replaced as a whole (`follow`): a revoked key is gone with the next call, and a
    stream of its holder ends before its next message.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import grpc

from router.access.caller import current_caller, out_of_scope, set_caller
from router.access.keys import ApiKey, Caller, KeyRing, ring_of
from router.access.roles import METHODS, OPEN_SERVICES, Role, Rule, experiment_of
from router.errors import PermissionDeniedError, ResourceExhaustedError, ServiceError, UnauthenticatedError

log = logging.getLogger(__name__)

_SCHEME = "bearer "
#: Refused keys are summed up in the log this often, in seconds: anybody can send them.
_SUM_UP_S = 10.0

Abort = Callable[[ServiceError, Any], Awaitable[Any]]


class Watch(Protocol):
    """Counts and times the calls of a method: `router.telemetry.calls.Method`."""

    def began(self, context: Any, *, attach: bool = True) -> Any:
        """Take note of a call; returns what `ended` is to be told."""

    def ended(self, running: Any, code: grpc.StatusCode) -> None:
        """Take note of its end."""


class Denials(Protocol):
    """Where administrative calls go that were refused."""

    def denied(self, caller: Caller, method: str, experiment_id: str, source: str) -> None:
        """Have it written to the audit log, soon."""


class Guard:
    """Who may call this process. Without keys in its ring, nobody."""

    def __init__(self, clock: Callable[[], float], clock_us: Callable[[], int], denials: Denials) -> None:
        """`clock` is monotonic, in seconds; `clock_us` gives microseconds since the epoch."""
        self._clock = clock
        self._clock_us = clock_us
        self._denials = denials
        self._ring = KeyRing()
        self._used: set[str] = set()
        self._refusals = 0
        self._summed_up_at = float("-inf")

    def follow(self, keys: Iterable[ApiKey]) -> None:
        """Know these keys from now on, and no others."""
        self._ring = ring_of(keys, self._ring, self._clock)

    def used(self) -> list[str]:
        """Return the ids of keys that were used since the last time."""
        used, self._used = self._used, set()
        return list(used)

    def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Return who sends this metadata.

        Raises UnauthenticatedError, and ResourceExhaustedError if the key is over its rate already.
        """
        value = _authorization(metadata)
        if value is None:
            raise UnauthenticatedError(
                "a key is required: send the metadata `authorization: Bearer brk_…`; `bandit-router keys create` makes one",
                reason="API_KEY_MISSING",
            )
        text = value if isinstance(value, str) else ""
        caller = self._ring.find(text[7:]) if text[:7].lower() == _SCHEME else None
        if caller is None:
            raise UnauthenticatedError("there is no such key: it is misspelt, or of another deployment")
        self._check(caller)
        if caller.bucket is not None and (wait_s := caller.bucket.wait_s()):
            raise _limited(caller, wait_s)
        self._used.add(caller.key.key_id)
        return caller

    def check_still(self, caller: Caller) -> None:
        """Raise UnauthenticatedError if a caller's key was revoked or has expired since."""
        if caller not in self._ring:
            raise _revoked(caller)
        self._check(caller)

    def refused(self, error: ServiceError, source: str) -> None:
        """Count a refused key, and say so now and then."""
        self._refusals += 1
        if self._clock() - self._summed_up_at >= _SUM_UP_S:
            log.warning("%d calls without a good key since the last such line, the last one from %s", self._refusals, source)
            self._refusals, self._summed_up_at = 0, self._clock()

    def of(self, method: str) -> MethodGuard:
        """Return what guards a method; KeyError if the table of roles has not got it."""
        return MethodGuard(self, method, METHODS[method], self._denials)

    def _check(self, caller: Caller) -> None:
        if caller.key.revoked:
            raise _revoked(caller)
        expires_at_us = caller.key.expires_at_us
        if expires_at_us is not None and expires_at_us <= self._clock_us():
            raise UnauthenticatedError(
                f"key {caller.key.key_id} ({caller.key.name}) has expired: `bandit-router keys rotate` makes its successor",
                reason="API_KEY_EXPIRED",
                metadata={"key_id": caller.key.key_id},
            )


class MethodGuard:
    """Role, scope and rate of one method's calls. The caller is that of the present task."""

    def __init__(self, guard: Guard, method: str, rule: Rule, denials: Denials) -> None:
        self._guard = guard
        self._method = method
        self._rule = rule
        self._denials = denials

    def admit(self, request: object) -> None:
        """Raise PermissionDeniedError or ResourceExhaustedError if the caller may not make this call."""
        caller, rule = current_caller(), self._rule
        if rule.role is not None and not caller.may(rule.role):
            raise _lacks(caller, rule.role, self._method, experiment_of(request, rule.experiment))
        if not caller.unscoped and rule.experiment:
            experiment_id = experiment_of(request, rule.experiment)
            if not caller.reaches(experiment_id):
                raise out_of_scope(caller, experiment_id)
        if caller.bucket is not None and (wait_s := caller.bucket.take(self._count(request))):
            raise _limited(caller, wait_s)

    def _count(self, request: Any) -> int:
        """Return what a call counts as: a batch as its items."""
        return max(1, len(getattr(request, "requests", ()))) if self._rule.batch else 1

    def check_still(self) -> None:
        """Raise UnauthenticatedError if the caller's key was revoked or has expired since."""
        self._guard.check_still(current_caller())

    def note(self, error: Exception, request: object, context: Any) -> None:
        """Have a refused administrative call written to the audit log."""
        if self._rule.role is Role.ADMIN and isinstance(error, PermissionDeniedError):
            named = error.metadata.get("experiment_id") or experiment_of(request, self._rule.experiment)
            self._denials.denied(current_caller(), self._method, named, context.peer())


class GuardedServer:
    """What services register with, so that their handlers are behind the guard."""

    def __init__(self, server: grpc.aio.Server, guard: Guard, abort: Abort, watch: Callable[[str, str], Watch]) -> None:
        """`abort` ends a call with an error: the interceptor's. `watch` gives what counts a method, by service and name."""
        self._server = server
        self._guard = guard
        self._abort = abort
        self._watch = watch

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Nothing: the same handlers come generically."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Register handlers behind the guard, but those of open services."""
        self._server.add_generic_rpc_handlers(
            [
                handler if _is_open(handler) else Guarded(handler, self._guard, self._abort, self._watch)
                for handler in handlers
            ]
        )


class Guarded(grpc.GenericRpcHandler):
    """The handlers of one service, for those who have a key."""

    def __init__(
        self, handlers: grpc.GenericRpcHandler, guard: Guard, abort: Abort, watch: Callable[[str, str], Watch]
    ) -> None:
        self._find = handlers.service
        self._guard = guard
        self._abort = abort
        self._watch = watch
        #: By path: of methods that there are, and so bounded.
        self._watches: dict[str, Watch] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call: that of the method, or one that refuses without reading anything."""
        handler = self._find(handler_call_details)
        if handler is None:
            return None
        try:
            set_caller(self._guard.identify(handler_call_details.invocation_metadata or ()))
        except ServiceError as error:
            return self._refusing(error, handler_call_details.method)
        return handler

    def _refusing(self, error: ServiceError, path: str) -> grpc.RpcMethodHandler[Any, Any]:
        watch = self._watches.get(path)
        if watch is None:
            _, service, name = path.split("/")
            watch = self._watches[path] = self._watch(service, name)

        async def refuse(requests: object, context: Any) -> AsyncIterator[bytes]:
            running = watch.began(context, attach=False)
            try:
                self._guard.refused(error, context.peer())
                await self._abort(error, context)
                yield b""
            finally:
                watch.ended(running, error.code)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _authorization(metadata: Iterable[tuple[str, str | bytes]]) -> str | bytes | None:
    for name, value in metadata:
        if name == "authorization":
            return value
    return None


def _is_open(handlers: Any) -> bool:
    return getattr(handlers, "service_name", lambda: "")() in OPEN_SERVICES


def _lacks(caller: Caller, role: Role, method: str, experiment_id: str) -> PermissionDeniedError:
    about = f" of experiment {experiment_id!r}" if experiment_id else ""
    roles = ", ".join(sorted(caller.key.roles))
    return PermissionDeniedError(
        f"{method.rsplit('/', 1)[1]}{about} takes the role {role}, and key {caller.key.name!r} has {roles}",
        metadata={"role": role.value, "key_id": caller.key.key_id, "experiment_id": experiment_id},
    )


def _limited(caller: Caller, wait_s: float) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"key {caller.key.name!r} sends more than {caller.key.rate:g} a second to this worker: try again in {wait_s:.3g} s",
        reason="RATE_LIMITED",
        metadata={"key_id": caller.key.key_id},
        retry_after_ms=max(1, int(wait_s * 1000) + 1),
    )


def _revoked(caller: Caller) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"key {caller.key.key_id} ({caller.key.name}) was revoked: ask its operator for another one",
        reason="API_KEY_REVOKED",
        metadata={"key_id": caller.key.key_id},
    )
