"""Policies: an experiment's definition and evidence, compiled for routing into one immutable value.

Route reads one reference to a Policy: no lock, no await. Whatever changes makes a new one.

Policies hold the parts of replies that all decisions share, serialized: in protobuf, messages that follow one another are
one merged message, so that a reply is put together by joining bytes.

Source
    Protocol Buffers, "Encoding": "Last One Wins" and the merging of concatenated messages.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf, isinf
from types import MappingProxyType
from typing import Final

import numpy as np

from bandit.allocation import (
    LEARNING,
    AllocationKind,
    NoEligibleArmError,
    Vector,
    allocate,
    cumulative,
    finish,
    restrict,
)
from bandit.reward import Evidence
from router.discounting import Hours, posterior_of
from router.experiment import Arm, Definition, Rules
from router.pricing import EXACT_SUBSET_ARMS as EXACT_PRICED_ARMS
from router.pricing import Price, at_price, priced
from router.segments import BySegment, weights_of
from router.v1 import routing_pb2, types_pb2

#: Subsets of up to this many arms get their own allocation at once, which takes under 1 ms; larger ones are renormalised.
EXACT_SUBSET_ARMS: Final[Mapping[AllocationKind, float]] = MappingProxyType(
    {AllocationKind.THOMPSON: 5, AllocationKind.TOP_TWO: 1, AllocationKind.FIXED: inf, AllocationKind.UNIFORM: inf}
)
_SUBSETS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """An allocation that is ready to be drawn from, for one policy and one set of eligible arms."""

    #: 16 bytes that name this vector in the decision log.
    allocation_id: bytes
    #: (K,) over the policy's arms; 0 for arms that are not eligible.
    probabilities: Vector
    #: What `bandit.allocation.draw` searches.
    sums: tuple[float, ...]
    #: False where a subset was only renormalised, not given its own P(best).
    exact: bool
    #: A serialized RouteResponse that holds the vector and nothing else, and a BatchRouteResponse likewise.
    in_reply: bytes
    in_batch: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """How one part of the traffic is divided among the arms."""

    definition: Definition
    policy_version: int
    #: The active arms, in order; the vectors below are aligned with them.
    arms: tuple[Arm, ...]
    alpha: Vector
    beta: Vector
    #: The allocation over all active arms; None if none of them can be served.
    everyone: Choice | None
    #: At what price; None where cost is not weighed.
    price: Price | None = None
    #: Choices of eligible subsets, made on first use.
    subsets: dict[tuple[int, ...], Choice] = field(default_factory=dict)

    def choice(self, eligible: tuple[int, ...] | None) -> Choice:
        """Return the allocation for `eligible`, sorted positions; None means every active arm.

        Raises NoEligibleArmError if every eligible arm has probability 0.
        """
        if eligible is None or len(eligible) == len(self.arms):
            if self.everyone is None:
                raise NoEligibleArmError("every arm has probability 0")
            return self.everyone
        known = self.subsets.get(eligible)
        if known is not None:
            return known
        choice = self._subset(eligible)
        if len(self.subsets) < _SUBSETS_KEPT:
            self.subsets[eligible] = choice
        return choice

    def _subset(self, eligible: tuple[int, ...]) -> Choice:
        rule = self.definition.rules.allocation
        if self.everyone is None:
            raise NoEligibleArmError("every arm has probability 0")
        if self.definition.bucket_table is not None:
            # Units whose bucket belongs to an arm that is not eligible are dealt out again in proportion.
            return self._frozen(restrict(self.everyone.probabilities, eligible), exact=True)
        if self.price is not None:
            # What costs too much beside the others has no share that could be renormalised.
            hopeless = not self.everyone.probabilities[list(eligible)].any()
            if len(eligible) <= EXACT_PRICED_ARMS or isinf(self.price.reward_per_usd) or hopeless:
                return self._frozen(at_price(self.price, rule, self.alpha, self.beta, self.arms, eligible), exact=True)
        elif len(eligible) <= EXACT_SUBSET_ARMS[rule.kind]:
            return self._frozen(allocate(rule, self.alpha, self.beta, eligible), exact=True)
        restricted = restrict(self.everyone.probabilities, eligible)[list(eligible)]
        return self._frozen(finish(rule, restricted, np.asarray(eligible, dtype=np.intp)), exact=False)

    def _frozen(self, p: Vector, *, exact: bool) -> Choice:
        return freeze(self.definition.incarnation, self.policy_version, self.arms, p, exact=exact)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a replica needs to decide for one experiment."""

    definition: Definition
    policy_version: int
    #: The active arms, in order.
    arms: tuple[Arm, ...]
    #: For each, a serialized RouteResponse that holds experiment and arm and nothing else.
    replies: tuple[bytes, ...]
    #: For each reason, a serialized RouteResponse that holds reason and policy version and nothing else.
    reasons: tuple[bytes, ...]
    #: Position of each active arm by its id, and by its number.
    position: Mapping[str, int]
    position_of_number: Mapping[int, int]
    #: How traffic is divided that is in none of the segments.
    pooled: Part
    #: By segment, where segments have posteriors of their own.
    segments: Mapping[str, Part] = field(default_factory=dict)
    #: The share of decisions that is mirrored; 0 where there is no arm to mirror to.
    mirror_rate: float = 0.0
    #: A serialized RouteResponse that holds the arms to mirror to and how much text is wanted, and nothing else.
    mirrored: bytes = b""

    @property
    def everyone(self) -> Choice | None:
        """The allocation over all active arms, of traffic in no segment; None if none of them can be served."""
        return self.pooled.everyone


def freeze(incarnation: int, policy_version: int, arms: tuple[Arm, ...], p: Vector, *, exact: bool) -> Choice:
    """Prepare a vector for drawing, replying and logging."""
    p.setflags(write=False)
    name = blake2b(digest_size=16, person=b"allocation")
    name.update(struct.pack("!QQ", incarnation, policy_version))
    name.update(struct.pack(f"!{len(arms)}H", *(arm.number for arm in arms)))
    name.update(p.tobytes())
    entries = tuple(
        types_pb2.ArmProbability(arm_id=arm.arm_id, probability=probability)
        for arm, probability in zip(arms, p.tolist(), strict=True)
    )
    in_reply = routing_pb2.RouteResponse(allocation=entries).SerializeToString()
    in_batch = routing_pb2.BatchRouteResponse(allocations=[routing_pb2.Allocation(entries=entries)]).SerializeToString()
    return Choice(name.digest(), p, cumulative(p), exact, in_reply, in_batch)


def compile_policy(
    definition: Definition,
    policy_version: int,
    evidence: Mapping[int, Evidence],
    previous: Policy | None = None,
    hours: Hours | None = None,
    by_segment: BySegment | None = None,
) -> Policy:
    """Compile a definition and the evidence of its arms (by arm number).

    Takes what P(best) takes for K arms, and that again for each segment. What `previous` holds of the same definition is
    used again. `hours` is the evidence by the hour, where it is discounted, and `by_segment` the same evidence by segment,
    where segments have posteriors of their own. Raises ValueError where one of them is missing.
    """
    arms = definition.active_arms
    rules = definition.rules
    none = Evidence()
    posteriors = [
        posterior_of(arm.number, evidence.get(arm.number, none), rules.prior_of(arm), rules.discount, hours) for arm in arms
    ]
    same = previous is not None and previous.definition is definition
    return Policy(
        definition=definition,
        policy_version=policy_version,
        arms=arms,
        replies=previous.replies if previous is not None and same else tuple(_reply(definition, arm) for arm in arms),
        reasons=tuple(
            routing_pb2.RouteResponse(policy_version=policy_version, reason=name).SerializeToString()
            for name in routing_pb2.Reason.DESCRIPTOR.values_by_name
        ),
        position={arm.arm_id: i for i, arm in enumerate(arms)},
        position_of_number={arm.number: i for i, arm in enumerate(arms)},
        pooled=_part(definition, policy_version, posteriors),
        segments=_segments(definition, policy_version, by_segment, hours),
        mirror_rate=rules.shadow.rate if rules.shadow is not None and definition.mirrored_arms else 0.0,
        mirrored=previous.mirrored if previous is not None and same else _mirrored(definition),
    )


def _segments(
    definition: Definition, policy_version: int, by_segment: BySegment | None, hours: Hours | None
) -> dict[str, Part]:
    rules = definition.rules
    if rules.segments is None or rules.allocation.kind not in LEARNING:
        return {}
    if by_segment is None:
        raise ValueError("segments have posteriors of their own, and the evidence was read without its segments")
    weights = weights_of(by_segment, rules.discount, hours)
    segments = map(rules.segments.segment, rules.segments.names)
    return {
        segment.name: _part(
            definition,
            policy_version,
            [segment.posterior(arm.number, rules.prior_of(arm), weights) for arm in definition.active_arms],
        )
        for segment in segments
    }


def _part(definition: Definition, policy_version: int, posteriors: Sequence[tuple[float, float]]) -> Part:
    arms = definition.active_arms
    alpha, beta = (np.array([posterior[i] for posterior in posteriors]) for i in range(2))
    alpha.setflags(write=False)
    beta.setflags(write=False)
    try:
        p, price = allocation_of(definition.rules, alpha, beta, definition.bucket_table, arms)
        everyone = freeze(definition.incarnation, policy_version, arms, p, exact=True)
    except NoEligibleArmError:
        everyone, price = None, None
    return Part(definition, policy_version, arms, alpha, beta, everyone, price)


def allocation_of(
    rules: Rules, alpha: Vector, beta: Vector, bucket_table: tuple[int, ...] | None, arms: tuple[Arm, ...]
) -> tuple[Vector, Price | None]:
    """Return the vector over all active arms, and its price where it weighs cost.

    With a bucket table it has exactly the shares of its buckets. Raises NoEligibleArmError if every arm has probability 0.
    """
    if bucket_table is not None:
        return np.array([bucket_table.count(arm.number) for arm in arms]) / len(bucket_table), None
    if rules.cost is not None:
        return priced(rules.cost, rules.allocation, alpha, beta, arms)
    return allocate(rules.allocation, alpha, beta), None


def _reply(definition: Definition, arm: Arm) -> bytes:
    message = routing_pb2.RouteResponse(experiment_id=definition.experiment_id, arm=_routed(arm))
    return message.SerializeToString()


def _mirrored(definition: Definition) -> bytes:
    rule = definition.rules.shadow
    if rule is None:
        return b""
    message = routing_pb2.RouteResponse(
        shadow_arms=map(_routed, definition.mirrored_arms), shadow_text=f"TEXT_MODE_{rule.text.upper()}"
    )
    if rule.text == "truncated":
        message.shadow_text_limit = rule.text_limit
    return message.SerializeToString()


def _routed(arm: Arm) -> routing_pb2.RoutedArm:
    message = routing_pb2.RoutedArm(arm_id=arm.arm_id, model=arm.model)
    if arm.config:
        message.config.update(dict(arm.config))
    return message
