"""Why a call or an item of a batch failed: one tree, read from gRPC's status and its google.rpc details."""
# ruff: noqa: N818  # RouterError says that they are errors, the subclasses say which

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

#: The ErrorInfo domain of this API: a proxy's own reasons must not be taken for the router's.
DOMAIN: Final = "bandit-router"
#: The trailer in which gRPC carries a serialized google.rpc.Status.
DETAILS_TRAILER: Final = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks a rule."""

    #: Path of the field, such as "reward" or "metadata["k"]".
    field: str
    #: What the rule asks for.
    description: str
    #: Id of the rule, such as "double.gte_lte"; empty if the router did not say.
    rule: str = ""


class RouterError(Exception):
    """The router refused, or could not be asked. The subclasses are what callers tell apart; `code` has the rest."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        violations: tuple[Violation, ...] = (),
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        # Everything goes to the base class, so that errors can be pickled and copied.
        super().__init__(code, message, reason, violations, retry_after, metadata)
        #: gRPC's status code.
        self.code = code
        #: What happened, for people.
        self.message = message
        #: The ErrorReason without its prefix, such as "EXPERIMENT_NOT_FOUND"; empty if no router said why.
        self.reason = reason
        #: The fields at fault, for INVALID_ARGUMENT.
        self.violations = violations
        #: When to try again, if the router said so.
        self.retry_after = retry_after
        #: Particulars of the reason, such as {"state": "paused"}.
        self.metadata: Mapping[str, str] = metadata or {}

    def __str__(self) -> str:
        kind = f"{self.code.name} {self.reason}".strip()
        # The router's message may name the fields already; a programmer reading only the traceback must find them.
        unsaid = [v for v in self.violations if v.field not in self.message or v.description not in self.message]
        fields = "".join(f"; {violation.field}: {violation.description}" for violation in unsaid)
        return f"{kind}: {self.message}{fields}"


class InvalidArgument(RouterError):
    """The call is wrong and will be wrong again: a field, a rule, or a decision id that no router of this key made."""


class NotFound(RouterError):
    """No such experiment."""


class FailedPrecondition(RouterError):
    """The experiment does not serve now, or none of the eligible arms can be served."""


class Unauthenticated(RouterError):
    """The router asks for a key, and this client has none, or one that is unknown, expired or revoked."""


class PermissionDenied(RouterError):
    """The key is good, and not for this method or this experiment."""


class Unavailable(RouterError):
    """No router answered in time, or it is overloaded: the same call may succeed later, and repeating it is safe."""


_CLASSES: Final[Mapping[grpc.StatusCode, type[RouterError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
}
_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc(error: grpc.RpcError) -> RouterError:
    """Return the error that a failed call of either gRPC API stands for. Unreadable details are left out."""
    call = cast(grpc.Call, error)
    return _error(call.code(), call.details() or "", _details(call))


def from_status(status: status_pb2.Status) -> RouterError:
    """Return the error of one item of a batch."""
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status.details)


def broken_reply(what: str) -> RouterError:
    """Return the error for a reply that no router of this contract sends."""
    return RouterError(grpc.StatusCode.INTERNAL, what)


def _details(call: grpc.Call) -> Iterable[Any]:
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_TRAILER:
            try:
                return cast(Iterable[Any], status_pb2.Status.FromString(value).details)
            except DecodeError:
                break
    return ()


def _error(code: grpc.StatusCode, message: str, details: Iterable[Any]) -> RouterError:
    info, request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after: timedelta | None = None
    reason, metadata = "", {}
    violations: tuple[Violation, ...] = ()
    for detail in details:
        try:
            if detail.Unpack(info) and info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(request):
                violations = tuple(Violation(v.field, v.description, v.reason) for v in request.field_violations)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta()
        except DecodeError:
            continue
    return _CLASSES.get(code, RouterError)(code, message, reason, violations, retry_after, metadata)
