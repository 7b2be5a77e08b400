"""Validation: the rules that the proto declares, as errors that name field and rule."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from protovalidate import Validator, Violation

from router.buf.validate import validate_pb2
from router.errors import FieldViolation, InvalidArgumentError
from router.v1 import routing_pb2, types_pb2

_validator = Validator()
#: A map key is quoted up to this many characters.
_LONGEST_KEY = 64


#: Five ids that obey the rules of each: what most requests consist of.
_PLAIN_IDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}(?:\x1f[ -~]{0,256}){4}").fullmatch
_PLAIN_EVENT_ID = re.compile(r"[ -~]{1,128}").fullmatch


def validate(message: Message) -> None:
    """Raise InvalidArgumentError naming the fields that break a rule, and the rules."""
    is_plain = _PLAIN.get(type(message))
    if is_plain is not None and is_plain(message):
        return
    too_many = list(_counts_exceeded(message, ""))
    if too_many:
        raise _refusal(too_many)
    found = _validator.collect_violations(message)
    if found:
        raise _refusal([FieldViolation(field_path(v), _rule(v)) for v in found])


def _is_plain_route(message: Any) -> bool:
    """Whether a RouteRequest obviously breaks no rule: a fifth of the validator's time, for most requests.

    It may say False of a valid request, never True of another.
    """
    request: routing_pb2.RouteRequest = message
    ids = (request.experiment_id, request.unit_id, request.session_id, request.turn_id, request.request_id)
    return _PLAIN_IDS("\x1f".join(ids)) is not None and not (
        request.eligible_arm_ids
        or request.segment
        or request.force_arm_id
        or request.prompt_fingerprint
        or request.HasField("prompt_similarity")
    )


def _is_plain_reward(message: Any) -> bool:
    """As `_is_plain_route`, of a RewardRequest."""
    request: routing_pb2.RewardRequest = message
    return (
        0 < len(request.decision_id) <= 512
        and _PLAIN_EVENT_ID(request.event_id) is not None
        and (1 <= request.signal <= _LAST_SIGNAL or (request.HasField("reward") and 0.0 <= request.reward <= 1.0))
        and not request.metadata
    )


_LAST_SIGNAL = max(types_pb2.Signal.values())
_PLAIN: dict[type, Callable[[Any], bool]] = {
    routing_pb2.RouteRequest: _is_plain_route,
    routing_pb2.RewardRequest: _is_plain_reward,
}


def _refusal(violations: list[FieldViolation]) -> InvalidArgumentError:
    summary = "; ".join(f"{v.field}: {v.description}" for v in violations[:5])
    if len(violations) > 5:
        summary += f"; and {len(violations) - 5} more"
    return InvalidArgumentError(summary, violations=violations)


def _counts_exceeded(message: Message, prefix: str) -> Iterator[FieldViolation]:
    """Find lists and maps that are too long, by their length alone.

    The validator looks at every element even of a list that is too long, and makes a violation of each: a request of some
    hundred kilobytes would hold up a process for seconds.
    """
    for name, most, unit, descends in _limits(message.DESCRIPTOR):
        value = getattr(message, name)
        if most is not None and len(value) > most:
            yield FieldViolation(prefix + name, f"must contain no more than {most} {unit}, has {len(value)}")
        elif descends and most is not None:
            for i, element in enumerate(value):
                yield from _counts_exceeded(element, f"{prefix}{name}[{i}].")
        elif descends and message.HasField(name):
            yield from _counts_exceeded(value, f"{prefix}{name}.")


@cache
def _limits(descriptor: Descriptor) -> tuple[tuple[str, int | None, str, bool], ...]:
    """Return (field, limit, unit, whether to look inside) of the fields of a message that can be too long."""
    found: list[tuple[str, int | None, str, bool]] = []
    for field in descriptor.fields:
        options = cast(Any, field.GetOptions())
        rules: validate_pb2.FieldRules = options.Extensions[validate_pb2.field]
        ours = field.message_type is not None and field.message_type.full_name.startswith("router.v1.")
        if rules.repeated.HasField("max_items"):
            checked_later = rules.repeated.items.ignore == validate_pb2.IGNORE_ALWAYS
            inside = ours and not checked_later and bool(_limits(field.message_type))
            found.append((field.name, rules.repeated.max_items, "items", inside))
        elif rules.map.HasField("max_pairs"):
            found.append((field.name, rules.map.max_pairs, "entries", False))
        elif ours and not field.is_repeated and _limits(field.message_type):
            found.append((field.name, None, "", True))
    return tuple(found)


def field_path(violation: Violation) -> str:
    """Return the path of the field that broke a rule, as in `arms[1].cap` or `weights["haiku"]`."""
    path = ""
    proto = violation.proto
    for element in proto.field.elements if proto.field else ():
        path += ("." if path else "") + element.field_name
        if element.subscript is not None:
            value = element.subscript.value
            path += f"[{json.dumps(value[:_LONGEST_KEY])}]" if isinstance(value, str) else f"[{value}]"
    return path


def _rule(violation: Violation) -> str:
    return violation.proto.message
