"""The errors that a call can end in: one tree, each with the status and reason its client sees.

Nothing but the interceptor turns them into gRPC statuses. `details` go to the client; causes go to the log.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from router.v1 import error_reason_pb2

DOMAIN = "bandit-router"
_REASONS = frozenset(error_reason_pb2.ErrorReason.keys())


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field and the rule that it breaks."""

    #: Path from the request, for example "experiment.arms[1].cap".
    field: str
    description: str


# Details travel in trailers, of which clients take 8 KiB; a character outside ASCII takes up to twelve bytes there.
_MESSAGE_CHARACTERS = 250
_SHOWN_VIOLATIONS = 10
_SHOWN_CHARACTERS = 100


def _cut(text: str, characters: int) -> str:
    """Shorten a text, and escape what would not travel or would break a line of a log."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: characters + 1])
    return plain if len(plain) <= characters else plain[: characters - 1] + "…"


class ServiceError(Exception):
    """A call that ends in an error; `reason` is the name of an ErrorReason without its prefix."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after_ms = retry_after_ms
        if f"ERROR_REASON_{self.reason}" not in _REASONS:
            raise ValueError(f"reason {self.reason!r} is not declared in error_reason.proto")

    def to_status(self) -> status_pb2.Status:
        """Return the google.rpc.Status with its rich details."""
        details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        ]
        if self.violations:
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=_cut(v.field, _SHOWN_CHARACTERS), description=_cut(v.description, _SHOWN_CHARACTERS)
                        )
                        for v in self.violations[:_SHOWN_VIOLATIONS]
                    ]
                )
            )
        if self.retry_after_ms is not None:
            delay = Duration()
            delay.FromMilliseconds(self.retry_after_ms)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        packed = []
        for detail in details:
            any_detail = Any()
            any_detail.Pack(detail)
            packed.append(any_detail)
        number: int = self.code.value[0]
        return status_pb2.Status(code=number, message=_cut(self.message, _MESSAGE_CHARACTERS), details=packed)


class InvalidArgumentError(ServiceError):
    """The request breaks a rule, whatever the state of the router."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    @classmethod
    def of_field(cls, field: str, description: str, *, reason: str | None = None) -> "InvalidArgumentError":
        """One field that breaks one rule."""
        return cls(f"{field}: {description}", reason=reason, violations=[FieldViolation(field, description)])


class NotFoundError(ServiceError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "EXPERIMENT_NOT_FOUND"

    @classmethod
    def of_experiment(cls, experiment_id: str) -> "NotFoundError":
        """No experiment of this id."""
        return cls(
            f"experiment {experiment_id!r} does not exist: create it with `bandit-router apply -f FILE`",
            metadata={"experiment_id": experiment_id},
        )


class AlreadyExistsError(ServiceError):
    """What the request creates exists."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "EXPERIMENT_EXISTS"


class FailedPreconditionError(ServiceError):
    """The state of an experiment does not permit the call."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "INVALID_TRANSITION"


class AbortedError(ServiceError):
    """Somebody else changed the experiment first."""

    code = grpc.StatusCode.ABORTED
    reason = "STALE_ETAG"


class UnauthenticatedError(ServiceError):
    """The call has no key that is good."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "API_KEY_INVALID"


class PermissionDeniedError(ServiceError):
    """The key is good, and not for this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "ROLE_MISSING"


class ResourceExhaustedError(ServiceError):
    """A bound of this replica is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class UnavailableError(ServiceError):
    """The call may succeed later or elsewhere."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "STORAGE_UNAVAILABLE"


class InternalError(ServiceError):
    """A fault of the router; the message holds an id and nothing of the cause."""
