"""What went wrong with a model call, in the few words that metrics, reports and retries need.

Both SDKs raise the same family of errors, each from its own module, and let errors of their HTTP library through where a
body breaks off. Nothing here imports an SDK: an error can only be of one that is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from router.llm.models import ModelError

_SDKS: Final = ("anthropic", "openai")
_HTTP: Final = ("httpx2", "httpx")
_BY_STATUS: Final = {
    400: "bad_request",
    401: "authentication",
    403: "permission",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
#: How the errors of a broken-off stream name themselves in its last event.
_BY_TYPE: Final = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limit",
    "api_error": "server_error",
    "timeout_error": "timeout",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call gave no answer."""

    #: A short word for metrics and `CallReport.error`: timeout, connection, rate_limit, overloaded, server_error,
    #: bad_request, authentication, permission, not_found, too_large, malformed, or error.
    kind: str
    #: Whether the same call may succeed later.
    retryable: bool
    #: How long its server asked to be left alone.
    retry_after_s: float | None = None


class MalformedAnswer(Exception):  # noqa: N818  # what it is, next to ModelError
    """A server answered 200 with something that is no answer, and the SDK took it for one."""


def failure_of(error: BaseException) -> Failure:
    """Return what an error of an SDK, of its HTTP library or of a Model stands for."""
    if isinstance(error, ModelError):
        return Failure(error.kind, error.retryable, error.retry_after_s)
    if isinstance(error, MalformedAnswer) or _is(error, "APIResponseValidationError") or _is_json_error(error):
        return Failure("malformed", retryable=True)
    if _is(error, "APITimeoutError") or _is_http(error, "TimeoutException") or isinstance(error, TimeoutError):
        return Failure("timeout", retryable=True)
    if _is(error, "APIConnectionError") or _is_http(error, "TransportError"):
        return Failure("connection", retryable=True)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _of_status(error, status)
    if _is(error, "APIError"):
        return Failure("server_error", retryable=True)
    return Failure("error", retryable=False)


def model_error(error: BaseException) -> ModelError:
    """Return the same as the error that a Model raises."""
    if isinstance(error, ModelError):
        return error
    failure = failure_of(error)
    message = str(error) or type(error).__name__
    return ModelError(failure.kind, message, retry_after_s=failure.retry_after_s, retryable=failure.retryable)


def _of_status(error: BaseException, status: int) -> Failure:
    # A stream fails after its 200: then only the type of the event says how.
    kind = _BY_TYPE.get(str(getattr(error, "type", None))) if status < 400 else _BY_STATUS.get(status)
    if kind is None:
        kind = "server_error" if status >= 500 or status < 400 else "bad_request"
    retryable = kind in ("timeout", "rate_limit", "overloaded", "server_error")
    return Failure(kind, retryable, _retry_after_s(getattr(getattr(error, "response", None), "headers", {})))


def _retry_after_s(headers: Any) -> float | None:
    """Return the seconds of a retry-after header, which may also be a date."""
    for name, factor in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * factor
        except ValueError:
            seconds = _until(value, headers.get("date"))
        # A NaN compares false to everything, and must not become a rest without end.
        if seconds >= 0:
            return seconds
    return None


def _until(moment: str, now: str | None) -> float:
    """Return the seconds between two dates of one server, whose clock need not be ours; -1 where one is missing."""
    try:
        return (parsedate_to_datetime(moment) - parsedate_to_datetime(now or "")).total_seconds()
    except (ValueError, TypeError):
        return -1.0


def _is(error: BaseException, name: str) -> bool:
    return any(isinstance(error, kind) for kind in _classes(_SDKS, name))


def _is_http(error: BaseException, name: str) -> bool:
    return any(isinstance(error, kind) for kind in _classes(_HTTP, name))


def _is_json_error(error: BaseException) -> bool:
    import json

    return isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))


def _classes(modules: tuple[str, ...], name: str) -> Iterator[type[BaseException]]:
    for module in modules:
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type):
            yield found
