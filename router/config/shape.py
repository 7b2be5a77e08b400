"""The shape of an experiment file: its keys and their types, and the JSON Schema that editors complete from.

Ranges, lengths and charsets are not repeated here: they are the proto's, and the schema reads them from there.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from google.protobuf.message import Message
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from bandit.reward import DEFAULT_SIGNAL_MICROS, MICROS
from router import experiment_rules as rules
from router.buf.validate import validate_pb2
from router.config import durations
from router.v1.experiments_pb2 import AllocationRule, AssignmentRule, BetaPrior, Experiment, RewardRule
from router.v1.types_pb2 import Arm

SignalName = Literal[
    "rephrased_query",
    "immediate_retry",
    "session_abandoned",
    "follow_up_question",
    "task_completed",
    "thumbs_up",
    "thumbs_down",
]

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


def _key(message: type[Message], name: str, text: str, *, required: bool = False, **schema: Any) -> Any:
    """A key of the file for a field of the proto: its description, the field's rules, and further schema keywords."""
    options: Any = message.DESCRIPTOR.fields_by_name[name].GetOptions()
    declared = options.Extensions[validate_pb2.field]
    scalar = declared.WhichOneof("type") in ("string", "double")
    found = getattr(declared, declared.WhichOneof("type")).ListFields() if scalar else ()
    known = {_KEYWORDS[rule.name]: value for rule, value in found if rule.name in _KEYWORDS}
    return Field(... if required else None, description=text, json_schema_extra={**known, **schema})


def _refuse_null(value: object) -> object:
    # A key with nothing after its colon is more likely forgotten than meant as "the default".
    if value is None:
        raise PydanticCustomError("no_value", "has no value")
    return value


def _rewards_schema() -> dict[str, Any]:
    reward = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    properties = {
        signal.name.lower(): {**reward, "default": None if micros is None else micros / MICROS}
        for signal, micros in DEFAULT_SIGNAL_MICROS.items()
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


_T = TypeVar("_T")
#: A key that may be left out (it is then None here, and absent in the proto), but not left empty.
_Optional = Annotated[_T | None, BeforeValidator(_refuse_null)]
_Duration = Annotated[
    str, PlainValidator(durations.parse_duration), WithJsonSchema({"type": "string", "pattern": durations.PATTERN})
]
_Rewards = Annotated[dict[SignalName, float | None], WithJsonSchema(_rewards_schema())]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ArmShape(_Shape):
    """A choice: a model with its parameters."""

    id: str = _key(Arm, "arm_id", "Unique in the experiment.", required=True)
    model: _Optional[str] = _key(Arm, "model", "What the caller passes to its model client.")
    family: _Optional[str] = _key(Arm, "family", "The vendor or lineage of the model, for example anthropic.")
    role: _Optional[Literal["control", "challenger"]] = _key(
        Arm, "role", "The control, one arm at most, takes what caps leave over.", default="challenger"
    )
    config: _Optional[dict[str, Any]] = _key(Arm, "config", "Parameters for the caller, handed on as they are.")
    cap: _Optional[float] = _key(Arm, "cap", "The most traffic the arm may get.", default=rules.DEFAULT_CAP)
    cost_usd: _Optional[float] = _key(Arm, "cost_usd", "Expected cost of one call in US dollars.")


class PriorShape(_Shape):
    """A Beta distribution over an arm's mean reward, before evidence."""

    alpha: float = _key(BetaPrior, "alpha", "Imagined successes.", required=True, default=rules.DEFAULT_PRIOR[0])
    beta: float = _key(BetaPrior, "beta", "Imagined failures.", required=True, default=rules.DEFAULT_PRIOR[1])


class AllocationShape(_Shape):
    """How probability is divided among the arms."""

    kind: _Optional[Literal["thompson", "fixed", "uniform"]] = _key(
        AllocationRule,
        "kind",
        "thompson: as likely as the arm is the best; fixed: by weights; uniform: every arm alike.",
        default="thompson",
    )
    floor: _Optional[float] = _key(
        AllocationRule,
        "floor",
        "The least probability of an arm: by default 0.01 for thompson, 0 for fixed and uniform.",
    )
    prior: _Optional[PriorShape] = _key(AllocationRule, "prior", "The prior of every arm: by default Beta(1, 1).")
    weights: _Optional[dict[str, float]] = _key(
        AllocationRule, "weights", "For fixed: the probability of each arm, by id. They add up to 1."
    )


class AssignmentShape(_Shape):
    """How a unit gets its arm from the allocation."""

    kind: _Optional[Literal["per_request", "sticky_hash", "sticky_stored"]] = _key(
        AssignmentRule,
        "kind",
        "per_request: a new draw each time; sticky_hash: by a hash of the unit; sticky_stored: the first draw is kept.",
        default="per_request",
    )
    ttl: _Optional[_Duration] = _key(
        AssignmentRule, "ttl", "For sticky_stored: how long a unit keeps its arm, by default for ever."
    )
    unit: _Optional[Literal["request", "session", "user"]] = _key(
        AssignmentRule, "unit", "What unit_id stands for.", default="user"
    )


class ExperimentShape(_Shape):
    """An experiment of bandit-router: its arms, how traffic is divided among them, and what counts as success."""

    experiment: str = _key(Experiment, "experiment_id", "The experiment's id, unique for ever.", required=True)
    description: _Optional[str] = _key(Experiment, "description", "A sentence for people.")
    arms: list[ArmShape] = _key(Experiment, "arms", "The choices.", required=True, minItems=1, maxItems=rules.MAX_ARMS)
    allocation: _Optional[AllocationShape] = _key(Experiment, "allocation", "How probability is divided among the arms.")
    assignment: _Optional[AssignmentShape] = _key(Experiment, "assignment", "How a unit gets its arm.")
    rewards: _Optional[_Rewards] = _key(
        RewardRule, "signals", "The reward of each signal, from 0 to 1; null is neutral: kept, never counted."
    )
    attribution_window: _Optional[_Duration] = _key(
        RewardRule, "attribution_window", "How long after a decision feedback counts, at most 90d.", default="7d"
    )
    state: _Optional[Literal["draft", "running", "paused"]] = _key(
        Experiment, "state", "The state to bring the experiment to when the file is applied.", default="running"
    )


#: The models of the mappings whose keys are fixed, by their path without list positions.
SHAPES: Final[dict[tuple[str, ...], type[BaseModel]]] = {
    (): ExperimentShape,
    ("arms",): ArmShape,
    ("allocation",): AllocationShape,
    ("allocation", "prior"): PriorShape,
    ("assignment",): AssignmentShape,
}


class _EditorSchema(GenerateJsonSchema):
    """Leaves out that None stands for an absent key (in the file, null is refused), and titles that repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def experiment_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of experiment files, with descriptions and defaults for editors."""
    schema = ExperimentShape.model_json_schema(schema_generator=_EditorSchema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "bandit-router experiment"}
