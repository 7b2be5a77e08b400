"""Logs: where they go and what a line looks like.

A line says when, how grave, which process and module, and what; then whatever the record carries in `extra`, such as
experiment, arm, decision, session and turn, and the trace and span that it is logged in: as key=value in text, as members of
the object in JSON.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

LogFormat = Literal["text", "json"]
FORMATS: Final[tuple[LogFormat, ...]] = get_args(LogFormat)

#: What every record has; anything else came from `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: A value that needs no quotes in text.
_PLAIN: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f]+")


def configure_logging(level: str, style: LogFormat = "text") -> None:
    """Send logs to standard error, one line each (in text, a traceback takes more)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)


def configured_format() -> LogFormat:
    """Return what this process was configured with: the processes that it starts should log alike."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(handler.formatter, JsonFormatter) for handler in handlers) else "text"


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, process id, module, message, key=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the first line."""
        pairs = "".join(f" {name}={_text(value)}" for name, value in _extra(record).items())
        return super().formatMessage(record) + pairs


class JsonFormatter(logging.Formatter):
    """Lines for programs: one JSON object each, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        known: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            known["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            known["stack"] = self.formatStack(record.stack_info)
        # What the line itself says is never replaced by a field of the same name.
        return json.dumps({**{name: _plain(value) for name, value in _extra(record).items()}, **known}, default=str)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {**{name: value for name, value in vars(record).items() if name not in _STANDARD}, **_trace_ids()}


def _trace_ids() -> dict[str, str]:
    """The trace and the span in which a line is logged, in hexadecimal, as collectors show them; nothing outside of any."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:  # nobody traces
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _plain(value: object) -> object:
    """The value as JSON can say it: keys are text, and a number that is not finite is text too."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value
