"""The shape of an experiment file: its keys and their types, and the JSON Schema that editors complete from.

Ranges, lengths and charsets are not repeated here: they are the proto's, and the schema reads them from there.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, WithJsonSchema, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from bandit.reward import DEFAULT_SIGNAL_MICROS, MICROS
from router import experiment_rules as rules
from router.config.keys import DurationText, Optional, Shape, key
from router.config.rollout_shape import DerivedShape, GuardrailShape, RampShape, ShadowShape, StageShape
from router.v1.experiments_pb2 import (
    AllocationRule,
    AssignmentRule,
    BetaPrior,
    CostRule,
    DiscountRule,
    Experiment,
    RewardRule,
    SegmentRule,
)
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
#: The states that a file may ask for.
StateName = Literal["draft", "shadow", "running", "paused"]


def _rewards_schema() -> dict[str, Any]:
    reward = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    properties = {
        signal.name.lower(): {**reward, "default": None if micros is None else micros / MICROS}
        for signal, micros in DEFAULT_SIGNAL_MICROS.items()
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


_Rewards = Annotated[dict[SignalName, float | None], WithJsonSchema(_rewards_schema())]


class ArmShape(Shape):
    """A choice: a model with its parameters."""

    id: str = key(Arm, "arm_id", "Unique in the experiment.", required=True)
    model: Optional[str] = key(Arm, "model", "What the caller passes to its model client.")
    family: Optional[str] = key(Arm, "family", "The vendor or lineage of the model, for example anthropic.")
    role: Optional[Literal["control", "challenger", "shadow"]] = key(
        Arm,
        "role",
        "The control, one arm at most, takes what caps leave over; a shadow arm is called beside the others, and never "
        "answers.",
        default="challenger",
    )
    config: Optional[dict[str, Any]] = key(Arm, "config", "Parameters for the caller, handed on as they are.")
    cap: Optional[float] = key(Arm, "cap", "The most traffic the arm may get.", default=rules.DEFAULT_CAP)
    cost_usd: Optional[float] = key(Arm, "cost_usd", "Expected cost of one call in US dollars.")


class PriorShape(Shape):
    """A Beta distribution over an arm's mean reward, before evidence."""

    alpha: float = key(BetaPrior, "alpha", "Imagined successes.", required=True, default=rules.DEFAULT_PRIOR[0])
    beta: float = key(BetaPrior, "beta", "Imagined failures.", required=True, default=rules.DEFAULT_PRIOR[1])


class DiscountShape(Shape):
    """How evidence loses weight with age: by a half-life or a window."""

    half_life: Optional[DurationText] = key(
        DiscountRule, "half_life", "After this long an outcome counts half: at least 1h."
    )
    window: Optional[DurationText] = key(
        DiscountRule, "window", "Outcomes count for this long, and then not at all: at least 1h."
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        # protobuf refuses two members of a oneof without saying where.
        if self.half_life is not None and self.window is not None:
            raise PydanticCustomError("two_of_one", "has half_life and window")
        return self


class SegmentsShape(Shape):
    """Segments of the traffic that have posteriors of their own."""

    names: list[str] = key(
        SegmentRule, "names", "Their names, as requests give them.", required=True, minItems=1, maxItems=20
    )
    weight: Optional[float] = key(
        SegmentRule,
        "weight",
        "What an outcome of other traffic is worth in a segment's prior; 0 borrows nothing.",
        default=rules.DEFAULT_SEGMENT_WEIGHT,
    )
    largest: Optional[float] = key(
        SegmentRule, "largest", "Outcomes that the other traffic is worth at most.", default=rules.DEFAULT_SEGMENT_LARGEST
    )


class CostShape(Shape):
    """How cost enters the allocation: by a ceiling or a price."""

    ceiling_usd: Optional[float] = key(
        CostRule, "ceiling_usd", "The most that a decision may cost in expectation, in US dollars."
    )
    reward_per_usd: Optional[float] = key(CostRule, "reward_per_usd", "What a dollar is worth in reward.")

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.ceiling_usd is not None and self.reward_per_usd is not None:
            raise PydanticCustomError("two_of_one", "has ceiling_usd and reward_per_usd")
        return self


class AllocationShape(Shape):
    """How probability is divided among the arms."""

    kind: Optional[Literal["thompson", "top_two", "fixed", "uniform"]] = key(
        AllocationRule,
        "kind",
        "thompson: as likely as the arm is the best; top_two: to find the best arm soonest; fixed: by weights; uniform: "
        "every arm alike.",
        default="thompson",
    )
    floor: Optional[float] = key(
        AllocationRule,
        "floor",
        "The least probability of an arm: by default 0.01 for thompson and top_two, 0 for fixed and uniform.",
    )
    prior: Optional[PriorShape] = key(AllocationRule, "prior", "The prior of every arm: by default Beta(1, 1).")
    priors: Optional[dict[str, PriorShape]] = key(
        AllocationRule, "priors", "For thompson and top_two: the priors of single arms, by id, in place of that of all."
    )
    discount: Optional[DiscountShape] = key(
        AllocationRule, "discount", "For thompson and top_two: how evidence loses weight with age: by default it does not."
    )
    segments: Optional[SegmentsShape] = key(
        AllocationRule, "segments", "For thompson and top_two: segments with posteriors of their own: by default none."
    )
    cost: Optional[CostShape] = key(
        AllocationRule,
        "cost",
        "For thompson: what decisions may cost, or what a dollar is worth: by default cost is ignored.",
    )
    leader_share: Optional[float] = key(
        AllocationRule,
        "leader_share",
        "For top_two: how often the leader is chosen, and otherwise its challenger; by default "
        f"{rules.DEFAULT_LEADER_SHARE}.",
    )
    weights: Optional[dict[str, float]] = key(
        AllocationRule, "weights", "For fixed: the probability of each arm, by id. They add up to 1."
    )


class AssignmentShape(Shape):
    """How a unit gets its arm from the allocation."""

    kind: Optional[Literal["per_request", "sticky_hash", "sticky_stored", "interleaved"]] = key(
        AssignmentRule,
        "kind",
        "per_request: a new draw each time; sticky_hash: by a hash of the unit; sticky_stored: the first draw is kept; "
        "interleaved: the arms take turns within each session.",
        default="per_request",
    )
    ttl: Optional[DurationText] = key(
        AssignmentRule, "ttl", "For sticky_stored: how long a unit keeps its arm, by default for ever."
    )
    unit: Optional[Literal["request", "session", "user"]] = key(
        AssignmentRule, "unit", "What unit_id stands for.", default="user"
    )
    holdout: Optional[float] = key(
        AssignmentRule, "holdout", "The share of units that stay on the control and are never learned from.", default=0
    )


class ExperimentShape(Shape):
    """An experiment of bandit-router: its arms, how traffic is divided among them, and what counts as success."""

    experiment: str = key(Experiment, "experiment_id", "The experiment's id, unique for ever.", required=True)
    description: Optional[str] = key(Experiment, "description", "A sentence for people.")
    arms: list[ArmShape] = key(Experiment, "arms", "The choices.", required=True, minItems=1, maxItems=rules.MAX_ARMS)
    allocation: Optional[AllocationShape] = key(Experiment, "allocation", "How probability is divided among the arms.")
    assignment: Optional[AssignmentShape] = key(Experiment, "assignment", "How a unit gets its arm.")
    rewards: Optional[_Rewards] = key(
        RewardRule, "signals", "The reward of each signal, from 0 to 1; null is neutral: kept, never counted."
    )
    attribution_window: Optional[DurationText] = key(
        RewardRule, "attribution_window", "How long after a decision feedback counts, at most 90d.", default="7d"
    )
    derived: Optional[DerivedShape] = key(
        RewardRule, "derived", "Signals that the router derives from decisions: by default none."
    )
    mature_after: Optional[DurationText] = key(
        RewardRule,
        "mature_after",
        "Outcomes count once their decision is this old: by default derived.abandon_after, or at once.",
    )
    no_feedback: Optional[float] = key(
        RewardRule, "no_feedback", "The reward of a matured decision that nothing was heard of: by default none."
    )
    evidence_unit: Optional[Literal["decision", "unit"]] = key(
        RewardRule,
        "evidence_unit",
        "decision: the outcome of every decision counts; unit: a unit counts once.",
        default="decision",
    )
    unit_share: Optional[int] = key(
        RewardRule,
        "unit_share",
        "Outcomes of one unit that count, of a day's decisions; 0 is no limit.",
        default=rules.DEFAULT_UNIT_SHARE,
    )
    ramp: Optional[RampShape] = key(
        Experiment, "ramp", "How a challenger is let in, stage by stage: by default it competes at once."
    )
    shadow: Optional[ShadowShape] = key(
        Experiment, "shadow", "Which decisions are mirrored to shadow arms, and how much of it is recorded."
    )
    state: Optional[StateName] = key(
        Experiment, "state", "The state to bring the experiment to when the file is applied.", default="running"
    )


#: The models of the mappings whose keys are fixed, by their path without list positions.
SHAPES: Final[dict[tuple[str, ...], type[BaseModel]]] = {
    (): ExperimentShape,
    ("arms",): ArmShape,
    ("allocation",): AllocationShape,
    ("allocation", "cost"): CostShape,
    ("allocation", "discount"): DiscountShape,
    ("allocation", "prior"): PriorShape,
    ("allocation", "priors"): PriorShape,
    ("allocation", "segments"): SegmentsShape,
    ("assignment",): AssignmentShape,
    ("derived",): DerivedShape,
    ("ramp",): RampShape,
    ("ramp", "stages"): StageShape,
    ("ramp", "stages", "guardrails"): GuardrailShape,
    ("ramp", "guardrails"): GuardrailShape,
    ("shadow",): ShadowShape,
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
