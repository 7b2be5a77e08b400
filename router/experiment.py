"""What the router holds of an experiment's definition: immutable values, replaced whole when something changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from bandit.allocation import AllocationRule
from bandit.ramp import Ramp
from bandit.ramp_state import RampState
from bandit.reward import Signal
from router.discounting import Discount
from router.segments import Segment

#: The states in which Route answers.
SERVING: Final = ("running", "shadow")


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of an arm."""

    #: Its number within the experiment: never reused, so it names a version for ever.
    number: int
    arm_id: str
    version: int
    model: str
    family: str
    is_control: bool
    config: Mapping[str, Any]
    cap: float | None
    cost_usd: float | None
    active: bool
    #: Whether it never answers: it is called beside the serving arm, for comparison.
    is_shadow: bool = False


@dataclass(frozen=True, slots=True)
class DerivedRule:
    """Which signals the router derives from decisions. None is never."""

    #: immediate_retry: another decision for the same turn within this time.
    retry_within: timedelta | None = None
    #: session_abandoned: nothing in the session for this long.
    abandon_after: timedelta | None = None
    #: rephrased_query: the next turn's prompt is at least this similar, in (0, 1], …
    rephrased_similarity: float | None = None
    #: … and follows within this time.
    rephrased_within: timedelta = timedelta(minutes=5)

    @property
    def any(self) -> bool:
        """Whether anything is derived."""
        return (self.retry_within, self.abandon_after, self.rephrased_similarity) != (None, None, None)


@dataclass(frozen=True, slots=True)
class RewardRule:
    """How events become a reward."""

    #: Reward of each signal in millionths; None is neutral.
    signal_micros: Mapping[Signal, int | None]
    attribution_window: timedelta
    #: How old a decision is when its outcome begins to count; 0 is at once.
    mature_after: timedelta = timedelta(0)
    #: Reward, in millionths, of a matured decision that nothing was heard of; None is that silence says nothing.
    no_feedback_micros: int | None = None
    derived: DerivedRule = DerivedRule()
    #: Outcomes of one unit that count, of the decisions of a day in UTC; None is no limit.
    unit_share: int | None = None
    #: Whether a unit counts once and for all, whatever its share.
    unit_once: bool = False
    #: The attribution window in microseconds.
    window_us: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_us", self.attribution_window // timedelta(microseconds=1))


@dataclass(frozen=True, slots=True)
class ShadowRule:
    """Which decisions are mirrored to shadow arms, and what of them is kept."""

    #: The share of decisions, in [0, 1].
    rate: float
    #: US dollars a day in UTC; None is no limit.
    daily_budget_usd: float | None
    #: "full", "truncated" or "off".
    text: str
    #: For truncated: how many characters of each text.
    text_limit: int


@dataclass(frozen=True, slots=True)
class SegmentRule:
    """Segments that have posteriors of their own."""

    names: tuple[str, ...]
    #: What an outcome of other traffic is worth in a segment's prior, in [0, 1].
    weight: float
    #: Outcomes that the other traffic is worth at most.
    largest: float

    def segment(self, name: str) -> Segment:
        """Return the segment of this name."""
        return Segment(name, self.weight, self.largest)


@dataclass(frozen=True, slots=True)
class CostRule:
    """How cost enters the allocation: exactly one of these is not None."""

    #: The most that a decision may cost in expectation, in US dollars.
    ceiling_usd: float | None = None
    #: What a dollar is worth in reward.
    reward_per_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a definition's allocation and assignment mean, with every default filled in."""

    #: Aligned with the active arms.
    allocation: AllocationRule
    #: (alpha, beta) of the prior of every arm that has none of its own.
    prior: tuple[float, float]
    #: "per_request", "sticky_hash", "sticky_stored" or "interleaved".
    assignment: str
    #: How long a stored assignment lasts; None is for ever.
    sticky_ttl: timedelta | None
    #: The share of units that stay on the control and teach nothing.
    holdout: float = 0.0
    #: How the challenger is let in, if by stages, and its arm id.
    ramp: Ramp | None = None
    ramp_challenger: str = ""
    #: What is mirrored, if anything may be.
    shadow: ShadowRule | None = None
    #: By arm id, the priors of arms that have one of their own.
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: How evidence loses weight; None where it does not.
    discount: Discount | None = None
    #: Which segments have posteriors of their own; None where there is one for all.
    segments: SegmentRule | None = None
    #: How cost enters the allocation; None where it does not.
    cost: CostRule | None = None

    def prior_of(self, arm: Arm) -> tuple[float, float]:
        """Return (alpha, beta) of an arm's prior."""
        return self.priors.get(arm.arm_id, self.prior)

    def named_segment(self, segment: str) -> str:
        """Return the segment if it has a posterior of its own, "" otherwise: what evidence is kept under."""
        return segment if self.segments is not None and segment in self.segments.names else ""


@dataclass(frozen=True, slots=True)
class Definition:
    """An experiment as its owner defined it."""

    incarnation: int
    experiment_id: str
    description: str
    #: "draft", "shadow", "running", "paused" or "concluded".
    state: str
    etag: str
    #: Active arms in the order of the definition, then retired ones. Those of role shadow are among them.
    arms: tuple[Arm, ...]
    #: AllocationRule, AssignmentRule and RewardRule of the proto in protobuf JSON, as they were given.
    allocation: Mapping[str, Any]
    assignment: Mapping[str, Any]
    reward_rule: Mapping[str, Any]
    #: What allocation and assignment mean.
    rules: Rules
    reward_rule_version: int
    #: Every version of the reward rule: the one in force when a decision was made applies to its events.
    reward_rules: Mapping[int, RewardRule]
    #: For `fixed` by hash: the arm number of each bucket.
    bucket_table: tuple[int, ...] | None
    created_at: datetime
    updated_at: datetime
    #: +1 with every change of definition, state or ramp.
    definition_version: int
    #: RampRule of the proto, as the rules above; empty where there is none.
    ramp: Mapping[str, Any] = field(default_factory=dict)
    #: Where the ramp stands; None where there is none, or the experiment never ran.
    ramp_state: RampState | None = None
    #: The last look at the ramp's stage: RampAssessment in protobuf JSON.
    ramp_assessment: Mapping[str, Any] | None = None
    #: ShadowRule of the proto, as the rules above; empty where there is none.
    shadow: Mapping[str, Any] = field(default_factory=dict)
    #: By number, of active and retired arms.
    arm_ids: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arm_ids", {arm.number: arm.arm_id for arm in self.arms})

    @property
    def serves(self) -> bool:
        """Whether Route answers."""
        return self.state in SERVING

    @property
    def active_arms(self) -> tuple[Arm, ...]:
        """The arms that are offered traffic, in order. Those of role shadow never are."""
        return tuple(arm for arm in self.arms if arm.active and not arm.is_shadow)

    @property
    def mirrored_arms(self) -> tuple[Arm, ...]:
        """The arms that are called beside the serving one, in order; in state shadow these are all but the control."""
        if self.state == "shadow":
            return tuple(arm for arm in self.arms if arm.active and not arm.is_control)
        return tuple(arm for arm in self.arms if arm.active and arm.is_shadow)


@dataclass(frozen=True, slots=True)
class NewArm:
    """An arm as a definition asks for it, before it has a number."""

    arm_id: str
    model: str
    family: str
    is_control: bool
    config: Mapping[str, Any]
    cap: float | None
    cost_usd: float | None
    is_shadow: bool = False


@dataclass(frozen=True, slots=True)
class NewDefinition:
    """A definition as its owner gives it."""

    experiment_id: str
    description: str
    arms: tuple[NewArm, ...]
    allocation: Mapping[str, Any]
    assignment: Mapping[str, Any]
    reward_rule: Mapping[str, Any]
    ramp: Mapping[str, Any] = field(default_factory=dict)
    shadow: Mapping[str, Any] = field(default_factory=dict)
