"""PosteriorService: what the router believes about each arm, now and in the past."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from bandit.posterior import credible_interval
from router.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from router.experiment import Definition
from router.pricing import expected_cost
from router.services import Context
from router.services.diagnostics import diagnostics_of
from router.services.metrics import metrics_of, rule_rewards, span_of, warnings_of, with_held_out
from router.services.pages import page_token, place_of
from router.services.watchers import Watchers
from router.standing import Standing, standing_of
from router.storage import experiments, snapshots
from router.storage.database import Connection, Database
from router.storage.diagnostics import read_feedback, read_histories
from router.storage.metrics import read_counts, read_held_out, read_recorded
from router.storage.policies import EvidenceReading, read_evidence
from router.storage.snapshots import Snapshot
from router.v1 import posteriors_pb2 as pb
from router.v1 import posteriors_pb2_grpc, types_pb2

_DEFAULT_PAGE = 100
_LARGEST_PAGE_BYTES = 4 * 1024 * 1024


class PosteriorService(posteriors_pb2_grpc.PosteriorServiceServicer):
    """Implements `router.v1.PosteriorService`."""

    def __init__(self, database: Database, watchers: Watchers, clock_us: Callable[[], int]) -> None:
        """`clock_us` gives microseconds since the epoch."""
        self._database = database
        self._watchers = watchers
        self._clock_us = clock_us

    async def GetPosterior(self, request: pb.GetPosteriorRequest, context: Context) -> pb.GetPosteriorResponse:
        """See the proto."""
        if request.diagnostics:
            return await self._with_diagnostics(request)
        if request.HasField("as_of"):
            return await self._as_of(request)
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            _check_segment(definition, request.segment)
            (reading,) = await read_evidence(connection, [definition.incarnation])
        # Off the event loop: for many arms this takes longer than a Route call may wait.
        return await asyncio.to_thread(posterior_message, definition, reading, request.segment)

    async def _with_diagnostics(self, request: pb.GetPosteriorRequest) -> pb.GetPosteriorResponse:
        if request.HasField("as_of") or request.segment:
            other = "as_of" if request.HasField("as_of") else "segment"
            rule = f"diagnostics are of all traffic and of now: leave out {other}, or ask for it without diagnostics"
            raise InvalidArgumentError.of_field("diagnostics", rule)
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            (reading,) = await read_evidence(connection, [definition.incarnation])
            histories = await read_histories(connection, definition.incarnation)
            now_us = self._clock_us()
            windows = {version: now_us - rule.window_us for version, rule in definition.reward_rules.items()}
            feedback = await read_feedback(connection, definition.incarnation, windows)

        def answered() -> pb.GetPosteriorResponse:
            message = posterior_message(definition, reading)
            arms = {(arm.arm_id, arm.version): arm for arm in definition.arms}
            for entry in message.arms:
                arm = arms[entry.arm_id, entry.version]
                entry.diagnostics.CopyFrom(diagnostics_of(definition, arm, feedback, histories, now_us))
            return message

        return await asyncio.to_thread(answered)

    async def _as_of(self, request: pb.GetPosteriorRequest) -> pb.GetPosteriorResponse:
        time_us = _microseconds(request.as_of, "as_of")
        if time_us > self._clock_us():
            raise InvalidArgumentError.of_field("as_of", f"{_shown(time_us)} lies in the future")
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            _check_segment(definition, request.segment)
            created_us = int(definition.created_at.timestamp() * 1e6)
            if time_us < created_us:
                rule = f"{_shown(time_us)} is before the experiment, which was created at {_shown(created_us)}"
                raise InvalidArgumentError.of_field("as_of", rule)
            segment = request.segment
            found = await snapshots.read_until(connection, definition, time_us, segment)
            first = await snapshots.read_first(connection, definition.incarnation, segment) if found is None else None
        if found is None:
            when = "there is none yet" if first is None else f"the first one is of {first.isoformat()}"
            of = f"experiment {definition.experiment_id!r}" + (f", segment {segment!r}," if segment else "")
            raise FailedPreconditionError(
                f"{of} has no snapshot until {_shown(time_us)}: {when}",
                reason="NO_SNAPSHOT",
                metadata={"first_snapshot": "" if first is None else first.isoformat()},
            )
        message = pb.GetPosteriorResponse(
            experiment_id=definition.experiment_id,
            policy_version=found.standing.policy_version,
            arms=arm_messages(found.standing),
            segment=segment,
        )
        message.as_of.FromDatetime(found.taken_at)
        return message

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        """See the proto."""
        after = place_of(request.page_token, "after:", "ListSnapshots", number=True)
        start_us = _microseconds(request.start_time, "start_time") if request.HasField("start_time") else None
        end_us = _microseconds(request.end_time, "end_time") if request.HasField("end_time") else None
        if start_us is not None and end_us is not None and start_us >= end_us:
            raise InvalidArgumentError.of_field("end_time", "must be after start_time: the range is empty")
        limit = request.page_size or _DEFAULT_PAGE
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            _check_segment(definition, request.segment)
            found = await snapshots.read_page(
                connection, definition, int(after or 0), start_us, end_us, limit + 1, request.segment
            )
        return await asyncio.to_thread(_page, found, limit)

    async def WatchPosterior(
        self, request: pb.WatchPosteriorRequest, context: Context
    ) -> AsyncIterator[pb.WatchPosteriorResponse]:
        """See the proto."""
        async with self._database.begin() as connection:
            definition = await _read(connection, request.experiment_id)
            _check_segment(definition, request.segment)
        asked, sent = pb.GetPosteriorRequest(experiment_id=request.experiment_id, segment=request.segment), 0
        async with contextlib.aclosing(self._watchers.changes(definition.incarnation)) as changes:
            async for _ in changes:
                posterior = await self.GetPosterior(asked, context)
                if posterior.policy_version != sent:
                    sent = posterior.policy_version
                    yield pb.WatchPosteriorResponse(posterior=posterior)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Context) -> pb.GetMetricsResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            recorded = await read_recorded(connection, definition.incarnation)
            now_us = self._clock_us()
            span = span_of(request, recorded, now_us)
            counts = [] if span is None else await read_counts(connection, definition.incarnation, span)
            held_out = []
            if span is not None and any(row.holdout for row in counts):
                rules = rule_rewards(definition)
                held_out = await read_held_out(connection, definition.incarnation, span, rules, now_us)
        counts = with_held_out(counts, held_out)
        reply = pb.GetMetricsResponse(
            experiment_id=definition.experiment_id,
            metrics=metrics_of(definition, span, counts) if span is not None else [],
            warnings=warnings_of(definition, counts, held_out),
        )
        reply.as_of.FromDatetime(recorded.as_of)
        return reply


def posterior_message(definition: Definition, reading: EvidenceReading, segment: str = "") -> pb.GetPosteriorResponse:
    """Return the posterior of every arm, and what follows from it for the active ones: of all traffic, or of a segment."""
    standing = standing_of(definition, reading.policy_version, reading.by_segment, reading.hours, segment)
    message = pb.GetPosteriorResponse(
        experiment_id=definition.experiment_id,
        policy_version=reading.policy_version,
        arms=arm_messages(standing),
        segment=segment,
        expected_cost_usd=_expected_cost(standing),
        reward_per_usd=None if standing.price is None else standing.price.reward_per_usd,
    )
    message.as_of.FromDatetime(reading.as_of)
    return message


def _expected_cost(standing: Standing) -> float | None:
    active = [i for i, arm in enumerate(standing.arms) if arm.active]
    return expected_cost([standing.arms[i] for i in active], standing.allocation[active])


def arm_messages(standing: Standing) -> list[pb.ArmPosterior]:
    """Return what is believed of each arm, as the API shows it."""
    lower, upper = credible_interval(standing.alpha, standing.beta)
    return [
        pb.ArmPosterior(
            arm_id=arm.arm_id,
            alpha=standing.alpha[i],
            beta=standing.beta[i],
            n=standing.evidence[i].n,
            mean=standing.alpha[i] / (standing.alpha[i] + standing.beta[i]),
            lower=lower[i],
            upper=upper[i],
            version=arm.version,
            state=types_pb2.ARM_STATE_ACTIVE if arm.active else types_pb2.ARM_STATE_RETIRED,
            probability_best=standing.probability_best[i],
            expected_loss=standing.expected_loss[i],
            allocation=standing.allocation[i],
        )
        for i, arm in enumerate(standing.arms)
    ]


async def _read(connection: Connection, experiment_id: str) -> Definition:
    found = await experiments.read(connection, experiment_id)
    if found is None:
        raise NotFoundError.of_experiment(experiment_id)
    return found[0]


def _check_segment(definition: Definition, segment: str) -> None:
    """Refuse a segment that has no posterior of its own."""
    if segment != definition.rules.named_segment(segment):
        rule = definition.rules.segments
        named = "which has none" if rule is None else f"which has {', '.join(map(repr, rule.names))}"
        raise InvalidArgumentError.of_field(
            "segment", f"{segment!r} is not among the segments of experiment {definition.experiment_id!r}, {named}"
        )


def _page(found: Sequence[Snapshot], limit: int) -> pb.ListSnapshotsResponse:
    """Return the snapshots that fit, and where the next page begins if they are not all."""
    reply, size = pb.ListSnapshotsResponse(), 0
    for snapshot in found[:limit]:
        message = pb.Snapshot(policy_version=snapshot.standing.policy_version, arms=arm_messages(snapshot.standing))
        message.snapshot_time.FromDatetime(snapshot.taken_at)
        if snapshot.matured_to is not None:
            message.matured_to.FromDatetime(snapshot.matured_to)
        size += message.ByteSize()
        if reply.snapshots and size > _LARGEST_PAGE_BYTES:
            break
        reply.snapshots.append(message)
    if len(reply.snapshots) < len(found):
        reply.next_page_token = page_token(f"after:{reply.snapshots[-1].policy_version}")
    return reply


def _microseconds(time: Timestamp, field: str) -> int:
    try:
        return time.ToMicroseconds() if time.ToDatetime() else 0
    except (ValueError, OverflowError):
        raise InvalidArgumentError.of_field(field, "must be a time between the years 1 and 9999") from None


def _shown(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()
