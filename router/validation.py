"""Validation: the rules that the proto declares, as errors that name field and rule."""

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from router.errors import FieldViolation, InvalidArgumentError

_validator = Validator()


def validate(message: Message, prefix: str = "") -> None:
    """Raise InvalidArgumentError naming every field that breaks a rule, and the rule."""
    found = _validator.collect_violations(message)
    if found:
        violations = [FieldViolation(prefix + field_path(v), _rule(v)) for v in found]
        summary = "; ".join(f"{v.field}: {v.description}" for v in violations[:5])
        if len(violations) > 5:
            summary += f"; and {len(violations) - 5} more"
        raise InvalidArgumentError(summary, violations=violations)


def field_path(violation: Violation) -> str:
    """Return the path of the field that broke a rule, as in `arms[1].cap` or `weights["haiku"]`."""
    path = ""
    proto = violation.proto
    for element in proto.field.elements if proto.field else ():
        path += ("." if path else "") + element.field_name
        if element.subscript is not None:
            value = element.subscript.value
            path += f'["{value}"]' if isinstance(value, str) else f"[{value}]"
    return path


def _rule(violation: Violation) -> str:
    return violation.proto.message
