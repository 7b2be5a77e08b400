"""Decide: from a policy and a request to an arm, a propensity and a signed decision id."""

import random
import struct
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from bandit.allocation import draw
from bandit.assignment import bucket, keyed_number, rendezvous, unit_number
from bandit.turns import turn_arm
from router.asked import choice_for, eligible_positions, forced_position, is_held_out, serving, turn_number
from router.errors import InvalidArgumentError, ResourceExhaustedError
from router.journal import Journal
from router.policy import Choice, Policy, freeze
from router.registry import Registry
from router.sticky import StickyUnits
from router.telemetry.drawn import Drawn
from router.telemetry.tallies import Names
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2
from router.wire import receipt

#: Memory for the replies of recent requests: a retry gets the very same reply from the same process.
_REPLIES_BYTES = 64 * 1024 * 1024
#: Choices of the control alone that are kept, one for each experiment that holds units out.
_CONTROLS_KEPT = 10_000
#: Decisions that nothing is learned from, and what tells them apart in their keys.
_NOT_LEARNED = {routing_pb2.REASON_FORCED: 1, routing_pb2.REASON_HOLDOUT: 2}


class Decision(NamedTuple):
    """An answered request. Its serialized reply is `reply + choice.in_reply`."""

    #: A serialized RouteResponse without allocation.
    reply: bytes
    choice: Choice
    #: What `Decider.commit` is to be told; None for a decision that was made before.
    number: int | None


class _Remembered(NamedTuple):
    #: The arms that were asked for.
    asked_for: tuple[str, ...]
    decision: Decision
    #: Bytes of memory, about.
    size: int


class _Pick(NamedTuple):
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
        drawn: Drawn | None = None,
    ) -> None:
        """`clock_us` gives microseconds since the epoch; `rng` draws arms and decision keys; `drawn` counts decisions."""
        self._registry = registry
        self._sticky = sticky
        self._codec = codec
        self._journal = journal
        self._clock_us = clock_us
        self._rng = rng
        self._budgets = registry.budgets
        self._drawn = drawn or Drawn(Names())
        self._replies: OrderedDict[tuple[int, str], _Remembered] = OrderedDict()
        self._replies_bytes = 0
        #: By incarnation: a policy version and its choice of the control alone.
        self._controls: OrderedDict[int, tuple[int, Choice]] = OrderedDict()

    async def decide(self, request: routing_pb2.RouteRequest) -> Decision:
        """Decide one valid request. Waits only for an experiment or a stored unit that this process has not seen.

        The decision is made once `commit` returns: nothing may be answered before. Raises ServiceErrors as the Route RPC
        documents them.
        """
        entry = self._registry.current(request.experiment_id)
        if entry is None or entry.policy is None:
            entry = await self._registry.routable(request.experiment_id)
        policy = serving(entry)
        incarnation = policy.definition.incarnation
        self._registry.touch(incarnation)
        if request.request_id:
            known = self._known(incarnation, request)
            if known is not None:
                return known
        if policy.definition.rules.holdout and is_held_out(policy, request):
            choice, pick = await self._hold_out(policy, request)
        else:
            choice = choice_for(policy, request)
            pick = await self._pick(policy, choice, request)
        if not request.request_id:
            return self._record(policy, choice, pick, request)
        # While this one waited for Postgres, a retry of it may have been answered.
        known = self._known(incarnation, request)
        if known is None:
            known = self._record(policy, choice, pick, request)
            self._remember(incarnation, request, known)
        return known

    def commit(self, since: int | None) -> None:
        """Make the decisions that were decided and not made yet; `since` is the first number of the caller's own.

        Raises ResourceExhaustedError if the disk refuses: then none of them was made.
        """
        try:
            self._journal.flush(since)
            self._drawn.made()
        except ResourceExhaustedError:
            self._drawn.dropped()
            # Among the remembered are some that were never made.
            self._replies.clear()
            self._replies_bytes = 0
            raise

    def _known(self, incarnation: int, request: routing_pb2.RouteRequest) -> Decision | None:
        """Return the decision of this request id, unless this request asks for other arms: those it must get."""
        found = self._replies.get((incarnation, request.request_id))
        if found is None or found.asked_for != _asked_for(request):
            return None
        return found.decision

    def _remember(self, incarnation: int, request: routing_pb2.RouteRequest, decision: Decision) -> None:
        key = (incarnation, request.request_id)
        replaced = self._replies.pop(key, None)
        size = len(decision.reply) + len(decision.choice.in_reply) + 500
        self._replies[key] = _Remembered(_asked_for(request), decision._replace(number=None), size)
        self._replies_bytes += size - (replaced.size if replaced is not None else 0)
        while self._replies_bytes > _REPLIES_BYTES:
            _, oldest = self._replies.popitem(last=False)
            self._replies_bytes -= oldest.size

    async def _pick(self, policy: Policy, choice: Choice, request: routing_pb2.RouteRequest) -> _Pick:
        if request.force_arm_id or request.force_control:
            return _Pick(forced_position(policy, request), 1.0, routing_pb2.REASON_FORCED)
        assignment = policy.definition.rules.assignment
        if assignment == "per_request":
            position = draw(choice.sums, self._uniform(policy, request))
            sampled = routing_pb2.REASON_SAMPLED if choice.exact else routing_pb2.REASON_FALLBACK
            return _Pick(position, float(choice.probabilities[position]), sampled)
        if assignment == "interleaved":
            return self._drafted(policy, choice, request)
        if not request.unit_id:
            raise InvalidArgumentError.of_field(
                "unit_id", f"is required: experiment {request.experiment_id!r} assigns arms by {assignment}"
            )
        position = hashed(policy, choice, request.unit_id)
        by_hash = _Pick(position, float(choice.probabilities[position]), routing_pb2.REASON_STICKY)
        if assignment == "sticky_hash":
            return by_hash
        return await self._stored(policy, choice, request, by_hash)

    def _drafted(self, policy: Policy, choice: Choice, request: routing_pb2.RouteRequest) -> _Pick:
        """Give a turn the arm of its session's draft, or one of the eligible arms where that one is not eligible.

        The allocation is uniform, so that an eligible arm answers with the same probability on either way.
        """
        arm_ids = [arm.arm_id for arm in policy.arms]
        position = turn_arm(request.experiment_id, request.session_id, turn_number(request), arm_ids)
        reason = routing_pb2.REASON_SAMPLED
        if not choice.probabilities[position] > 0.0:
            incarnation = str(policy.definition.incarnation)
            number = keyed_number(self._codec.secret, incarnation, request.session_id, request.turn_id)
            position, reason = draw(choice.sums, number), routing_pb2.REASON_FALLBACK
        return _Pick(position, float(choice.probabilities[position]), reason)

    async def _hold_out(self, policy: Policy, request: routing_pb2.RouteRequest) -> tuple[Choice, _Pick]:
        """Keep a unit on the control; where the request rules that out, route it as any other and learn nothing from it.

        Its decisions are the holdout's on either way: the units of a comparison must not change sides by what they got.
        """
        control = policy.definition.rules.allocation.control
        eligible = request.eligible_arm_ids
        if control is not None and (not eligible or control in eligible_positions(policy, request)):
            return self._control_alone(policy, control), _Pick(control, 1.0, routing_pb2.REASON_HOLDOUT)
        choice = choice_for(policy, request)
        pick = await self._pick(policy, choice, request)
        return choice, pick._replace(reason=routing_pb2.REASON_HOLDOUT)

    def _control_alone(self, policy: Policy, control: int) -> Choice:
        """Return the vector of units that are held out: the control's place in the allocation may be any, even 0."""
        incarnation = policy.definition.incarnation
        version, choice = self._controls.get(incarnation, (-1, None))
        if choice is None or version != policy.policy_version:
            only = np.zeros(len(policy.arms))
            only[control] = 1.0
            choice = freeze(incarnation, policy.policy_version, policy.arms, only, exact=True)
            self._controls[incarnation] = (policy.policy_version, choice)
            self._controls.move_to_end(incarnation)
            while len(self._controls) > _CONTROLS_KEPT:
                self._controls.popitem(last=False)
        return choice

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
        position, propensity, reason = pick
        definition = policy.definition
        hash_id = self._codec.hash_id
        key = self._decision_key(policy, request, pick) if request.request_id else self._new_key(now_us)
        decision_id, raw = self._codec.mint(
            DecisionToken(
                definition.incarnation,
                key,
                policy.arms[position].number,
                definition.reward_rule_version,
                reason not in _NOT_LEARNED,
                policy.policy_version,
                propensity,
                now_us,
                hash_id(request.unit_id),
                hash_id(request.session_id),
                hash_id(request.turn_id),
                request.segment,
            )
        )
        number = self._journal.append(raw, reason, choice, policy, request)
        self._drawn.decided(policy, choice, position, reason)
        reply = receipt(decision_id, propensity) + policy.reasons[reason] + policy.replies[position]
        stale_for_s = self._registry.stale_for_s()
        if stale_for_s:
            stale = routing_pb2.RouteResponse()
            stale.stale_for.FromMicroseconds(int(stale_for_s * 1e6))
            reply += stale.SerializeToString()
        elif policy.mirror_rate > 0.0 and self._is_mirrored(policy, reason, key, now_us):
            reply += policy.mirrored
            self._drawn.mirrored[definition.experiment_id] += 1
        return Decision(reply, choice, number)

    def _is_mirrored(self, policy: Policy, reason: routing_pb2.Reason, key: bytes, now_us: int) -> bool:
        """Whether a decision is among the share that is mirrored, by a hash of its key, and the budget permits it."""
        if reason == routing_pb2.REASON_FORCED:
            return False
        definition = policy.definition
        chosen = policy.mirror_rate >= 1.0 or is_mirrored(definition.experiment_id, key, policy.mirror_rate)
        return chosen and self._budgets.permits(definition, now_us)

    def _uniform(self, policy: Policy, request: routing_pb2.RouteRequest) -> float:
        """One number in [0, 1): the same for the same request id on every replica."""
        if request.request_id:
            return keyed_number(self._codec.secret, str(policy.definition.incarnation), request.request_id)
        return self._rng.random()

    def _new_key(self, now_us: int) -> bytes:
        """A UUIDv7: milliseconds, then random bits."""
        bits = self._rng.getrandbits(74)
        high = now_us // 1000 << 16 | 0x7000 | bits >> 62
        return (high << 64 | 1 << 63 | bits & 0x3FFF_FFFF_FFFF_FFFF).to_bytes(16, "big")

    def _decision_key(self, policy: Policy, request: routing_pb2.RouteRequest, pick: _Pick) -> bytes:
        """A UUIDv8 that is the same for a request id on every replica that draws the same arm.

        A retry that another replica answers with another arm, because its policy is newer, is a decision of its own: an
        outcome must never be laid to an arm that did not earn it. Likewise one that is learned from is none that is not.
        """
        kind = _NOT_LEARNED.get(pick.reason, 0)
        head = struct.pack("!QHB", policy.definition.incarnation, policy.arms[pick.position].number, kind)
        text = head + request.request_id.encode()
        key = bytearray(blake2b(text, key=self._codec.secret, digest_size=16, person=b"decision key").digest())
        key[6] = (key[6] & 0x0F) | 0x80
        key[8] = (key[8] & 0x3F) | 0x80
        return bytes(key)


def is_mirrored(experiment_id: str, decision_key: bytes, rate: float) -> bool:
    """Return whether a decision belongs to the share `rate` that is mirrored, whichever replica asks."""
    return unit_number("shadow", experiment_id, decision_key.hex()) < rate


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
    return ("" if not request.force_control else "force_control", request.force_arm_id, *request.eligible_arm_ids)
