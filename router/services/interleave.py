"""InterleaveService: arms compared within one list, or turn by turn within one session."""

import asyncio
import random
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b

from bandit.interleave import credit as credit_of
from bandit.interleave import keyed_orders, sign_test, team_draft
from bandit.reward import clamp_occurred_at
from bandit.turns import NEGATIVE
from router.access.caller import check_scope
from router.asked import position_of, running
from router.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from router.experiment import Arm, Definition
from router.policy import Policy
from router.registry import Registry
from router.rules import assignment_of
from router.services import Context
from router.services.times import time_us
from router.services.turns import compared_turns
from router.storage import experiments, interleavings
from router.storage.database import Connection, Database
from router.storage.interleavings import Interleaving
from router.storage.turns import read_turns
from router.tokens import InterleavingToken, TokenCodec
from router.v1 import interleave_pb2 as pb
from router.v1 import interleave_pb2_grpc

#: Items of a list whose request does not say how many.
_DEFAULT_LENGTH = 10
_BAD_SIGNALS = tuple(sorted(signal.name.lower() for signal in NEGATIVE))


class InterleaveService(interleave_pb2_grpc.InterleaveServiceServicer):
    """Implements `router.v1.InterleaveService`."""

    def __init__(
        self, database: Database, registry: Registry, codec: TokenCodec, clock_us: Callable[[], int], rng: random.Random
    ) -> None:
        """`clock_us` gives microseconds since the epoch; `rng` draws the keys of lists without a request id."""
        self._database = database
        self._registry = registry
        self._codec = codec
        self._clock_us = clock_us
        self._rng = rng

    async def Interleave(self, request: pb.InterleaveRequest, context: Context) -> pb.InterleaveResponse:
        """See the proto."""
        entry = self._registry.current(request.experiment_id)
        if entry is None or entry.policy is None or entry.definition.state != "running":
            entry = await self._registry.routable(request.experiment_id, ("running",))
        policy = running(entry)
        self._registry.touch(policy.definition.incarnation)
        arms = _ranked_arms(policy, request.rankings)
        one = self._drafted(policy.definition.incarnation, arms, request)
        async with self._database.begin() as connection:
            await interleavings.store(connection, one)
        return pb.InterleaveResponse(
            interleaving_id=self._codec.mint_interleaving(InterleavingToken(one.incarnation, one.interleaving_key)),
            items=[
                pb.InterleavedItem(item_id=item_id, arm_id=arms[team].arm_id)
                for item_id, team in zip(one.item_ids, one.teams, strict=True)
            ],
        )

    async def Credit(self, request: pb.CreditRequest, context: Context) -> pb.CreditResponse:
        """See the proto."""
        token = self._codec.open_interleaving(request.interleaving_id)
        received_at_us = self._clock_us()
        stated_us = time_us(request.occurred_at, "occurred_at") if request.HasField("occurred_at") else None
        async with self._database.begin() as connection:
            one = await interleavings.read(connection, token.interleaving_key)
            if one is None:
                raise InvalidArgumentError.of_field("interleaving_id", "its list is no longer in the database")
            ((definition, _),) = await experiments.read_incarnations(connection, [one.incarnation])
            check_scope(definition.experiment_id)
            _check_positions(request.positions, len(one.item_ids))
            occurred_at_us = clamp_occurred_at(stated_us, one.interleaved_at_us, received_at_us)
            taken = await interleavings.credit(
                connection, one.interleaving_key, request.positions, occurred_at_us, received_at_us
            )
        credits = credit_of(one.teams, taken, len(one.arms), one.even)
        return pb.CreditResponse(
            credits=[
                pb.ArmCredit(arm_id=definition.arm_ids[arm], credit=value)
                for arm, value in zip(one.arms, credits, strict=True)
                if value
            ]
        )

    async def GetPreferences(self, request: pb.GetPreferencesRequest, context: Context) -> pb.GetPreferencesResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            counts = await interleavings.read_preferences(connection, definition.incarnation)
        reply = pb.GetPreferencesResponse(
            experiment_id=definition.experiment_id, interleavings=counts.interleavings, credited=counts.credited
        )
        arms = {arm.number: arm for arm in definition.arms}
        for pair in counts.pairs:
            arm, other, test = arms[pair.arm], arms[pair.other_arm], sign_test(pair.wins, pair.losses, pair.ties)
            reply.preferences.add(
                arm_id=arm.arm_id,
                version=arm.version,
                other_arm_id=other.arm_id,
                other_version=other.version,
                wins=test.wins,
                losses=test.losses,
                ties=test.ties,
                win_rate=test.win_rate,
                lower=test.lower,
                upper=test.upper,
                p_value=test.p_value,
            )
        return reply

    async def CompareTurns(self, request: pb.CompareTurnsRequest, context: Context) -> pb.CompareTurnsResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            if (assignment := assignment_of(definition.assignment)) != "interleaved":
                raise FailedPreconditionError(
                    f"experiment {definition.experiment_id!r} assigns arms by {assignment}, not turn by turn",
                    reason="NOT_INTERLEAVED",
                    metadata={"experiment_id": definition.experiment_id},
                )
            a, b = _compared(definition, request)
            numbers = [arm.number for arm in definition.active_arms]
            table = await read_turns(connection, definition.incarnation, numbers, _BAD_SIGNALS)
        # Off the event loop: of a million turns this takes a second.
        return await asyncio.to_thread(compared_turns, table, numbers, a, b)

    def _drafted(self, incarnation: int, arms: Sequence[Arm], request: pb.InterleaveRequest) -> Interleaving:
        """Deal the list. Its key names all that it is made from: a retry is the same list, any other request another."""
        key = self._key(incarnation, arms, request) if request.request_id else self._rng.getrandbits(128).to_bytes(16, "big")
        orders = keyed_orders(len(arms), self._codec.secret, "interleaving", key.hex())
        dealt = team_draft([list(r.item_ids) for r in request.rankings], orders, request.length or _DEFAULT_LENGTH)
        return Interleaving(
            key,
            incarnation,
            self._clock_us(),
            request.unit_id,
            tuple(arm.number for arm in arms),
            dealt.items,
            dealt.teams,
            dealt.even,
        )

    def _key(self, incarnation: int, arms: Sequence[Arm], request: pb.InterleaveRequest) -> bytes:
        state = blake2b(key=self._codec.secret, digest_size=16, person=b"interleaving key")
        state.update(struct.pack(f"!QB{len(arms)}H", incarnation, len(arms), *(arm.number for arm in arms)))
        state.update(request.SerializeToString(deterministic=True))
        return state.digest()


async def _read(connection: Connection, experiment_id: str) -> Definition:
    found = await experiments.read(connection, experiment_id)
    if found is None:
        raise NotFoundError.of_experiment(experiment_id)
    return found[0]


def _ranked_arms(policy: Policy, rankings: Sequence[pb.Ranking]) -> list[Arm]:
    positions = [position_of(policy, ranking.arm_id, f"rankings[{i}].arm_id") for i, ranking in enumerate(rankings)]
    for i, position in enumerate(positions):
        if position in positions[:i]:
            raise InvalidArgumentError.of_field(
                f"rankings[{i}].arm_id", f"another ranking is already that of {rankings[i].arm_id!r}"
            )
    return [policy.arms[position] for position in positions]


def _check_positions(positions: Sequence[int], length: int) -> None:
    for i, position in enumerate(positions):
        if position >= length:
            raise InvalidArgumentError.of_field(
                f"positions[{i}]", f"is {position}, the list has the positions 0 to {length - 1}"
            )


def _compared(definition: Definition, request: pb.CompareTurnsRequest) -> tuple[int, int]:
    """Return the indices of the two arms among the active ones."""
    arms = definition.active_arms
    index = {arm.arm_id: i for i, arm in enumerate(arms)}
    control = next((arm.arm_id for arm in arms if arm.is_control), "")
    other_arm_id = request.other_arm_id or control
    if not other_arm_id:
        raise InvalidArgumentError.of_field("other_arm_id", "is required: the experiment has no control")
    for field, arm_id in (("arm_id", request.arm_id), ("other_arm_id", other_arm_id)):
        if arm_id not in index:
            raise InvalidArgumentError(
                f"{field}: {arm_id!r} is not an active arm of experiment {definition.experiment_id!r}",
                reason="ARM_NOT_FOUND",
                metadata={"arm_id": arm_id},
            )
    if request.arm_id == other_arm_id:
        raise InvalidArgumentError.of_field("other_arm_id", f"{other_arm_id!r} is compared with itself")
    return index[request.arm_id], index[other_arm_id]
