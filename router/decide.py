"""Decide: from a policy and a request to an arm, a propensity and a signed decision id."""

import random
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from bandit.allocation import NoEligibleArmError, draw
from bandit.assignment import bucket, keyed_number, rendezvous
from router.errors import FailedPreconditionError, InvalidArgumentError
from router.journal import Journal
from router.policy import Choice, Policy
from router.registry import Entry, Registry
from router.sticky import StickyUnits
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2

#: Memory for the replies of recent requests: a retry gets the very same reply from the same process.
_REPLIES_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Decision:
    """An answered request; `reply` carries no allocation yet."""

    reply: routing_pb2.RouteResponse
    choice: Choice


@dataclass(frozen=True, slots=True)
class _Remembered:
    #: The arms that were asked for.
    asked_for: tuple[str, ...]
    decision: Decision
    #: Bytes of memory, about.
    size: int


@dataclass(frozen=True, slots=True)
class _Pick:
    position: int
    propensity: float
    reason: routing_pb2.Reason


class Decider:
    """The decision path of one process."""

    def __init__(
        self,
        registry: Registry,
        sticky: StickyUnits,
        codec: TokenCodec,
        journal: Journal,
        clock_us: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """`clock_us` gives microseconds since the epoch; `rng` draws arms and decision keys."""
        self._registry = registry
        self._sticky = sticky
        self._codec = codec
        self._journal = journal
        self._clock_us = clock_us
        self._rng = rng
        self._replies: OrderedDict[tuple[int, str], _Remembered] = OrderedDict()
        self._replies_bytes = 0

    async def decide(self, request: routing_pb2.RouteRequest) -> Decision:
        """Answer one valid request. Waits only for an experiment or a stored unit that this process has not seen.

        Raises ServiceErrors as the Route RPC documents them.
        """
        entry = self._registry.current(request.experiment_id)
        if entry is None:
            entry = await self._registry.lookup(request.experiment_id)
        if entry.policy is None:
            entry = await self._registry.confirm(entry)
        policy = _running(entry)
        incarnation = policy.definition.incarnation
        if request.request_id:
            known = self._known(incarnation, request)
            if known is not None:
                return known
        try:
            choice = policy.choice(_eligible(policy, request))
        except NoEligibleArmError as error:
            raise FailedPreconditionError(
                f"eligible_arm_ids: {error} in experiment {request.experiment_id!r}", reason="NO_ELIGIBLE_ARM"
            ) from error
        pick = await self._pick(policy, choice, request)
        # While this one waited for Postgres, a retry of it may have been answered.
        known = self._known(incarnation, request)
        if known is not None:
            return known
        decision = self._record(policy, choice, pick, request)
        if request.request_id:
            self._remember(incarnation, request, decision)
        return decision

    def _known(self, incarnation: int, request: routing_pb2.RouteRequest) -> Decision | None:
        """Return the decision of this request id, unless this request asks for other arms: those it must get."""
        found = self._replies.get((incarnation, request.request_id)) if request.request_id else None
        if found is None or found.asked_for != _asked_for(request):
            return None
        return found.decision

    def _remember(self, incarnation: int, request: routing_pb2.RouteRequest, decision: Decision) -> None:
        key = (incarnation, request.request_id)
        replaced = self._replies.pop(key, None)
        # In memory, a message takes several times its serialized size.
        size = 8 * decision.reply.ByteSize() + 200 * len(decision.choice.entries)
        self._replies[key] = _Remembered(_asked_for(request), decision, size)
        self._replies_bytes += size - (replaced.size if replaced is not None else 0)
        while self._replies_bytes > _REPLIES_BYTES:
            _, oldest = self._replies.popitem(last=False)
            self._replies_bytes -= oldest.size

    async def _pick(self, policy: Policy, choice: Choice, request: routing_pb2.RouteRequest) -> _Pick:
        if request.force_arm_id:
            position = _position(policy, request.force_arm_id, "force_arm_id")
            return _Pick(position, 1.0, routing_pb2.REASON_FORCED)
        assignment = policy.definition.rules.assignment
        if assignment == "per_request":
            position = draw(choice.sums, self._uniform(policy, request))
            sampled = routing_pb2.REASON_SAMPLED if choice.exact else routing_pb2.REASON_FALLBACK
            return _Pick(position, float(choice.probabilities[position]), sampled)
        if not request.unit_id:
            raise InvalidArgumentError.of_field(
                "unit_id", f"is required: experiment {request.experiment_id!r} assigns arms by {assignment}"
            )
        position = hashed(policy, choice, request.unit_id)
        by_hash = _Pick(position, float(choice.probabilities[position]), routing_pb2.REASON_STICKY)
        if assignment == "sticky_hash":
            return by_hash
        return await self._stored(policy, choice, request, by_hash)

    async def _stored(self, policy: Policy, choice: Choice, request: routing_pb2.RouteRequest, by_hash: _Pick) -> _Pick:
        incarnation = policy.definition.incarnation

        def permitted(number: int) -> bool:
            position = policy.position_of_number.get(number)
            return position is not None and choice.probabilities[position] > 0.0

        known = self._sticky.known(incarnation, request.unit_id)
        if known is not None and permitted(known.arm):
            return _Pick(policy.position_of_number[known.arm], known.propensity, routing_pb2.REASON_STICKY)
        settled = await self._sticky.settle(
            incarnation,
            request.unit_id,
            permitted=permitted,
            draw=lambda: (policy.arms[by_hash.position].number, by_hash.propensity),
            ttl=policy.definition.rules.sticky_ttl,
        )
        if settled is None or not permitted(settled[0].arm):
            return _Pick(by_hash.position, by_hash.propensity, routing_pb2.REASON_FALLBACK)
        stored, drawn_now = settled
        reason = routing_pb2.REASON_SAMPLED if drawn_now else routing_pb2.REASON_STICKY
        return _Pick(policy.position_of_number[stored.arm], stored.propensity, reason)

    def _record(self, policy: Policy, choice: Choice, pick: _Pick, request: routing_pb2.RouteRequest) -> Decision:
        """Mint the decision id and write the journal; then the decision is made."""
        now_us = self._clock_us()
        arm = policy.arms[pick.position]
        hash_id = self._codec.hash_id
        decision_id, raw = self._codec.mint(
            DecisionToken(
                incarnation=policy.definition.incarnation,
                decision_key=self._decision_key(policy, request, pick, now_us),
                arm=arm.number,
                reward_rule_version=policy.definition.reward_rule_version,
                learned=pick.reason != routing_pb2.REASON_FORCED,
                policy_version=policy.policy_version,
                propensity=pick.propensity,
                decided_at_us=now_us,
                unit_hash=hash_id(request.unit_id),
                session_hash=hash_id(request.session_id),
                turn_hash=hash_id(request.turn_id),
                segment=request.segment,
            )
        )
        self._journal.append(raw, pick.reason, choice, policy, request)
        reply = routing_pb2.RouteResponse(
            decision_id=decision_id,
            experiment_id=policy.definition.experiment_id,
            arm=policy.routed_arms[pick.position],
            propensity=pick.propensity,
            policy_version=policy.policy_version,
            reason=pick.reason,
        )
        stale_for_s = self._registry.stale_for_s()
        if stale_for_s:
            reply.stale_for.FromMicroseconds(int(stale_for_s * 1e6))
        return Decision(reply, choice)

    def _uniform(self, policy: Policy, request: routing_pb2.RouteRequest) -> float:
        """One number in [0, 1): the same for the same request id on every replica."""
        if request.request_id:
            return keyed_number(self._codec.secret, str(policy.definition.incarnation), request.request_id)
        return self._rng.random()

    def _decision_key(self, policy: Policy, request: routing_pb2.RouteRequest, pick: _Pick, now_us: int) -> bytes:
        """A UUIDv7, or for a request id a UUIDv8 that is the same on every replica that draws the same arm.

        A retry that another replica answers with another arm, because its policy is newer, is a decision of its own: an
        outcome must never be laid to an arm that did not earn it.
        """
        if request.request_id:
            forced = pick.reason == routing_pb2.REASON_FORCED
            head = struct.pack("!QH?", policy.definition.incarnation, policy.arms[pick.position].number, forced)
            text = head + request.request_id.encode()
            key = bytearray(blake2b(text, key=self._codec.secret, digest_size=16, person=b"decision key").digest())
            version = 0x80
        else:
            key = bytearray((now_us // 1000).to_bytes(6, "big") + self._rng.getrandbits(80).to_bytes(10, "big"))
            version = 0x70
        key[6] = (key[6] & 0x0F) | version
        key[8] = (key[8] & 0x3F) | 0x80
        return bytes(key)


def hashed(policy: Policy, choice: Choice, unit_id: str) -> int:
    """Return the position of the unit's arm by its hash: its bucket where there is a table, else rendezvous."""
    experiment_id = policy.definition.experiment_id
    table = policy.definition.bucket_table
    if table is not None:
        position = policy.position_of_number.get(table[bucket(experiment_id, unit_id)])
        if position is not None and choice.probabilities[position] > 0.0:
            return position
    names = [arm.arm_id for arm in policy.arms]
    return policy.position[rendezvous(experiment_id, unit_id, names, choice.probabilities.tolist())]


def _asked_for(request: routing_pb2.RouteRequest) -> tuple[str, ...]:
    return (request.force_arm_id, *request.eligible_arm_ids)


def _running(entry: Entry) -> Policy:
    if entry.policy is None:
        state, experiment_id = entry.definition.state, entry.definition.experiment_id
        raise FailedPreconditionError(
            f"experiment {experiment_id!r} is {state}, not running",
            reason="EXPERIMENT_NOT_RUNNING",
            metadata={"experiment_id": experiment_id, "state": state},
        )
    return entry.policy


def _eligible(policy: Policy, request: routing_pb2.RouteRequest) -> tuple[int, ...] | None:
    if not request.eligible_arm_ids:
        return None
    return tuple(
        sorted(_position(policy, arm_id, f"eligible_arm_ids[{i}]") for i, arm_id in enumerate(request.eligible_arm_ids))
    )


def _position(policy: Policy, arm_id: str, field: str) -> int:
    position = policy.position.get(arm_id)
    if position is None:
        raise InvalidArgumentError(
            f"{field}: {arm_id!r} is not an active arm of experiment {policy.definition.experiment_id!r}; active are"
            f" {', '.join(sorted(policy.position)[:10])}{' and others' if len(policy.position) > 10 else ''}",
            reason="ARM_NOT_FOUND",
            metadata={"arm_id": arm_id},
        )
    return position
