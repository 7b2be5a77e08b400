"""Keys of an experiment file: each stands for a field of the proto, whose rules it shows to editors."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

from google.protobuf.message import Message
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from router import durations
from router.buf.validate import validate_pb2

#: The rules of protovalidate that JSON Schema has too.
_KEYWORDS: Final = {
    "min_len": "minLength",
    "max_len": "maxLength",
    "pattern": "pattern",
    "gt": "exclusiveMinimum",
    "gte": "minimum",
    "lt": "exclusiveMaximum",
    "lte": "maximum",
}


def key(message: type[Message], name: str, text: str, *, required: bool = False, **schema: Any) -> Any:
    """A key of the file for a field of the proto: its description, the field's rules, and further schema keywords."""
    options: Any = message.DESCRIPTOR.fields_by_name[name].GetOptions()
    declared = options.Extensions[validate_pb2.field]
    scalar = declared.WhichOneof("type") in ("string", "double", "int32", "int64")
    found = getattr(declared, declared.WhichOneof("type")).ListFields() if scalar else ()
    known = {_KEYWORDS[rule.name]: value for rule, value in found if rule.name in _KEYWORDS}
    return Field(... if required else None, description=text, json_schema_extra={**known, **schema})


def _refuse_null(value: object) -> object:
    # A key with nothing after its colon is more likely forgotten than meant as "the default".
    if value is None:
        raise PydanticCustomError("no_value", "has no value")
    return value


_T = TypeVar("_T")
#: A key that may be left out (it is then None here, and absent in the proto), but not left empty.
Optional = Annotated[_T | None, BeforeValidator(_refuse_null)]
DurationText = Annotated[
    str, PlainValidator(durations.parse_duration), WithJsonSchema({"type": "string", "pattern": durations.PATTERN})
]


class Shape(BaseModel):
    """A mapping whose keys are fixed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
