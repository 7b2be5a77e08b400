"""Validation: the rules that the proto declares, as errors that name field and rule."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from protovalidate import Validator, Violation

from router.buf.validate import validate_pb2
from router.errors import FieldViolation, InvalidArgumentError

_validator = Validator()
#: A map key is quoted up to this many characters.
_LONGEST_KEY = 64


def validate(message: Message) -> None:
    """Raise InvalidArgumentError naming the fields that break a rule, and the rules."""
    too_many = list(_counts_exceeded(message, ""))
    if too_many:
        raise _refusal(too_many)
    found = _validator.collect_violations(message)
    if found:
        raise _refusal([FieldViolation(field_path(v), _rule(v)) for v in found])


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
