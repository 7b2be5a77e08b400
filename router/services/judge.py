"""JudgeService: judge runs over shadow comparisons."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from bandit.verdicts import report
from router.access.caller import check_scope, current_caller
from router.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from router.experiment import Arm, Definition
from router.services import Context
from router.services.acts import audited
from router.services.pages import page_token, place_of
from router.services.verdicts import report_message
from router.storage import experiments
from router.storage import judge as storage
from router.storage.database import Connection, Database
from router.v1 import judge_pb2 as pb
from router.v1 import judge_pb2_grpc
from router.v1.routing_pb2 import CallReport

_DEFAULT_PAGE = 100
#: What the kinds of place in a page token begin with.
_KIND = "judgment "
_OUTPUT_ONLY = ("create_time", "pairs", "judgments", "judged", "cost_usd")
_VERDICTS = {pb.VERDICT_A: "a", pb.VERDICT_B: "b", pb.VERDICT_TIE: "tie", pb.VERDICT_INVALID: "invalid"}
_LARGEST_NUMBER = 2**31 - 1


class JudgeService(judge_pb2_grpc.JudgeServiceServicer):
    """Implements `router.v1.JudgeService`."""

    def __init__(self, database: Database, clock_us: Callable[[], int]) -> None:
        """`clock_us` gives microseconds since the epoch."""
        self._database = database
        self._clock_us = clock_us

    async def CreateJudgeRun(self, request: pb.CreateJudgeRunRequest, context: Context) -> pb.CreateJudgeRunResponse:
        """See the proto."""
        wanted = _settings(request.run)
        async with self._database.begin() as connection:
            definition = await _read(connection, wanted.experiment_id)
            existing = await storage.read_run(connection, wanted.run_id)
            if existing is None:
                existing = await self._created(connection, definition, wanted)
            # Of this call, or of another one that came first.
            if existing.incarnation != definition.incarnation:
                raise _other_settings(wanted.run_id, ["experiment_id"])
            run = _message(existing, definition)
            _check_same(run, wanted)
            await audited(connection, request, context, wanted.experiment_id)
        return pb.CreateJudgeRunResponse(run=run)

    async def ListJudgeRuns(self, request: pb.ListJudgeRunsRequest, context: Context) -> pb.ListJudgeRunsResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            definition = await _read(connection, request.experiment_id)
            runs = await storage.read_runs(connection, definition.incarnation)
        return pb.ListJudgeRunsResponse(runs=[_message(run, definition) for run in runs])

    async def ListPendingJudgments(
        self, request: pb.ListPendingJudgmentsRequest, context: Context
    ) -> pb.ListPendingJudgmentsResponse:
        """See the proto."""
        place = place_of(request.page_token, _KIND, "ListPendingJudgments", number=True)
        after = min(int(place), _LARGEST_NUMBER) if place else -1
        async with self._database.snapshot() as connection:
            await _check_run(connection, request.run_id)
            found, more = await storage.read_pending(connection, request.run_id, after, request.page_size or _DEFAULT_PAGE)
        reply = pb.ListPendingJudgmentsResponse(judgments=[pb.PendingJudgment(**one._asdict()) for one in found])
        if more:
            reply.next_page_token = page_token(f"{_KIND}{found[-1].judgment}")
        return reply

    async def RecordVerdict(self, request: pb.RecordVerdictRequest, context: Context) -> pb.RecordVerdictResponse:
        """See the proto."""
        said = storage.Said(
            request.run_id,
            min(request.judgment, _LARGEST_NUMBER),
            _VERDICTS[request.verdict],
            request.reason,
            self._clock_us(),
            *_numbers(request.call),
        )
        async with self._database.begin() as connection:
            if not current_caller().unscoped:
                await _check_run(connection, request.run_id)
            stored = await storage.record(connection, said)
            if not stored:
                judgments = await storage.count_judgments(connection, request.run_id)
                if not judgments:
                    raise _no_run(request.run_id)
                if request.judgment >= judgments:
                    raise InvalidArgumentError.of_field(
                        "judgment", f"is {request.judgment}, the run has the numbers 0 to {judgments - 1}"
                    )
        return pb.RecordVerdictResponse(duplicate=not stored)

    async def GetJudgeReport(self, request: pb.GetJudgeReportRequest, context: Context) -> pb.GetJudgeReportResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            found = await storage.read_run(connection, request.run_id)
            if found is None:
                raise _no_run(request.run_id)
            check_scope(found.experiment_id)
            definition = await _read(connection, found.experiment_id)
            judgments = await storage.read_verdicts(connection, request.run_id)
        # Off the event loop: of 100,000 pairs this takes a while.
        return report_message(_message(found, definition), await asyncio.to_thread(report, judgments))

    async def _created(self, connection: Connection, definition: Definition, wanted: pb.JudgeRun) -> storage.Run:
        """Draw a run's sample; returns the run of this id, also if another call has made it meanwhile."""
        arm, other = await _arms(connection, definition, wanted)
        _check_families(wanted, arm, other)
        new = storage.NewRun(
            run_id=wanted.run_id,
            incarnation=definition.incarnation,
            created_at_us=self._clock_us(),
            arm=arm.number,
            other_arm=other.number,
            settings=MessageToDict(wanted, preserving_proto_field_name=True),
            seed=wanted.seed,
            sample=wanted.sample,
            both_orders=wanted.method == pb.JudgeRun.METHOD_BOTH_ORDERS,
            repeat_share=wanted.repeat_share,
        )
        if await storage.create(connection, new) == 0:
            raise await _nothing_to_judge(connection, definition, arm, other)
        run = await storage.read_run(connection, wanted.run_id)
        assert run is not None  # noqa: S101 - runs are never deleted
        return run


async def _read(connection: Connection, experiment_id: str) -> Definition:
    found = await experiments.read(connection, experiment_id)
    if found is None:
        raise NotFoundError.of_experiment(experiment_id)
    return found[0]


async def _check_run(connection: Connection, run_id: str) -> None:
    """Refuse a run that there is not, or whose experiment the caller's key is not for."""
    found = await storage.read_run(connection, run_id)
    if found is None:
        raise _no_run(run_id)
    check_scope(found.experiment_id)


def _settings(run: pb.JudgeRun) -> pb.JudgeRun:
    """Return a run as it is asked for, with one way to say each thing."""
    wanted = pb.JudgeRun()
    wanted.CopyFrom(run)
    for name in _OUTPUT_ONLY:
        wanted.ClearField(name)
    wanted.method = wanted.method or pb.JudgeRun.METHOD_BOTH_ORDERS
    return wanted


def _message(run: storage.Run, definition: Definition) -> pb.JudgeRun:
    message = pb.JudgeRun()
    # Settings that another version has stored may have fields that this one does not know.
    ParseDict(dict(run.settings), message, ignore_unknown_fields=True)
    message.arm_id, message.other_arm_id = definition.arm_ids[run.arm], definition.arm_ids[run.other_arm]
    message.create_time.FromDatetime(run.created_at)
    orders = 2 if message.method == pb.JudgeRun.METHOD_BOTH_ORDERS else 1
    message.pairs, message.judgments, message.judged = run.asked // orders, run.judgments, run.judged
    message.cost_usd = run.cost_usd
    return message


def _check_same(stored: pb.JudgeRun, wanted: pb.JudgeRun) -> None:
    """Compare settings. Arms that a request leaves open are those of the run."""
    mine, theirs = _settings(stored), _settings(wanted)
    theirs.arm_id, theirs.other_arm_id = theirs.arm_id or mine.arm_id, theirs.other_arm_id or mine.other_arm_id
    names = [
        field.name for field in pb.JudgeRun.DESCRIPTOR.fields if getattr(mine, field.name) != getattr(theirs, field.name)
    ]
    if names:
        raise _other_settings(wanted.run_id, names)


async def _arms(connection: Connection, definition: Definition, wanted: pb.JudgeRun) -> tuple[Arm, Arm]:
    """Return the arm in question and the serving one: the active version of each, or the last one of a retired arm."""
    arm = _latest(definition, wanted.arm_id) if wanted.arm_id else await _only_compared(connection, definition)
    if wanted.other_arm_id:
        other = _latest(definition, wanted.other_arm_id)
    else:
        control = next((one for one in definition.arms if one.is_control and one.active), None)
        if control is None:
            raise InvalidArgumentError.of_field("other_arm_id", "is required: the experiment has no control")
        other = control
    if arm.arm_id == other.arm_id:
        raise InvalidArgumentError.of_field("other_arm_id", f"{other.arm_id!r} is compared with itself")
    return arm, other


async def _only_compared(connection: Connection, definition: Definition) -> Arm:
    """Return the one arm that has comparisons."""
    numbers = await storage.compared_arms(connection, definition.incarnation)
    ids = sorted({definition.arm_ids[number] for number in numbers})
    if len(ids) > 1:
        raise InvalidArgumentError.of_field("arm_id", f"is required: {', '.join(ids)} have comparisons")
    if ids:
        return _latest(definition, ids[0])
    if _text_of(definition) in ("off", "truncated"):
        raise _no_text(definition, _text_of(definition))
    raise _nothing(definition, "no shadow answer was recorded")


def _latest(definition: Definition, arm_id: str) -> Arm:
    versions = [arm for arm in definition.arms if arm.arm_id == arm_id]
    if not versions:
        raise InvalidArgumentError(
            f"{arm_id!r} is not an arm of experiment {definition.experiment_id!r}",
            reason="ARM_NOT_FOUND",
            metadata={"arm_id": arm_id},
        )
    return max(versions, key=lambda arm: (arm.active, arm.version))


def _check_families(wanted: pb.JudgeRun, *arms: Arm) -> None:
    """Refuse a judge of an arm's own family: judges favour answers of their own kind."""
    if wanted.allow_same_family:
        return
    for arm in arms:
        family = arm.family.strip()
        if family and family.casefold() != wanted.judge_family.strip().casefold():
            continue
        what = f"is of the judge's family {family!r}" if family else "has no family"
        raise FailedPreconditionError(
            f"arm {arm.arm_id!r} {what}, and a judge may favour its own kind: take another judge, name the arm's family, or"
            " allow it",
            reason="JUDGE_FAMILY",
            metadata={"arm_id": arm.arm_id, "family": family},
        )


async def _nothing_to_judge(connection: Connection, definition: Definition, arm: Arm, other: Arm) -> FailedPreconditionError:
    """Return why no pair of two arms can be judged."""
    modes = await storage.text_modes(connection, definition.incarnation, arm.number, other.number)
    unrecorded: Sequence[str] = [mode for mode in modes if mode != "full"]
    rule = _text_of(definition)
    if rule in ("off", "truncated") and "full" not in modes:
        return _no_text(definition, rule)
    if unrecorded:
        return _no_text(definition, unrecorded[0])
    return _nothing(definition, f"no call of {arm.arm_id!r} beside {other.arm_id!r} has both answers and no error")


def _text_of(definition: Definition) -> str:
    """Return how much text the experiment's rule lets be recorded now; empty without a rule."""
    return definition.rules.shadow.text if definition.rules.shadow is not None else ""


def _no_text(definition: Definition, value: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"a judge needs the texts in full, and those of experiment {definition.experiment_id!r} are not recorded so:"
        f" shadow.text is {value}",
        reason="TEXT_NOT_RECORDED",
        metadata={"setting": "shadow.text", "value": value},
    )


def _nothing(definition: Definition, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"experiment {definition.experiment_id!r} has no pair to judge: {why}", reason="NO_COMPARABLE_PAIRS"
    )


def _no_run(run_id: str) -> NotFoundError:
    return NotFoundError(
        f"judge run {run_id!r} does not exist: `bandit-router judge runs` lists those of an experiment",
        reason="JUDGE_RUN_NOT_FOUND",
        metadata={"run_id": run_id},
    )


def _other_settings(run_id: str, names: Sequence[str]) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"judge run {run_id!r} exists with another {', '.join(names)}: give another id, or the same settings",
        reason="JUDGE_RUN_EXISTS",
        metadata={"run_id": run_id},
    )


def _numbers(call: CallReport) -> tuple[Any, ...]:
    """Return latency in microseconds, tokens and cost; None where they were not reported."""
    latency_us = call.latency.ToMicroseconds() if call.HasField("latency") else None
    optional = ("input_tokens", "output_tokens", "cost_usd")
    return (latency_us, *(getattr(call, name) if call.HasField(name) else None for name in optional))
