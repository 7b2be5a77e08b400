"""ExperimentService: definitions, states and ramps, each change with who asked for it and why."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol

from bandit import ramp_state
from bandit.ramp import Ramp
from bandit.ramp_state import AUTOMATIC, Phase, RampState, Transition
from router.access.caller import current_caller
from router.errors import AbortedError, AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from router.experiment import Definition
from router.messages import experiment_message, new_definition, transition_message, without_retired_arms
from router.registry import Registry
from router.services import Context
from router.services.acts import audited
from router.services.pages import page_token, place_of
from router.shadow_rules import shadow_state_problems
from router.storage import experiments, ramps, transitions
from router.storage.database import Connection, Database, driver_of
from router.storage.errors import AlreadyExistsError as KeyTakenError
from router.storage.errors import ConcurrentChangeError, StorageError
from router.storage.transitions import Change, Kind
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

_DEFAULT_PAGE = 100
#: From which states each verb leads where.
_TRANSITIONS = {
    "shadow": (("draft", "running", "paused"), "shadow"),
    "start": (("draft", "shadow"), "running"),
    "pause": (("running",), "paused"),
    "resume": (("paused",), "running"),
    "conclude": (("draft", "shadow", "running", "paused"), "concluded"),
}
#: What each verb makes of a ramp in some state; ValueError says why it does not.
_RAMP_VERBS: dict[str, Callable[[Ramp, RampState, Change], Transition]] = {
    "approved": lambda ramp, state, by: ramp_state.approve(ramp, state, by.actor, by.at_us, by.reason),
    "advanced": lambda ramp, state, by: ramp_state.advance(ramp, state, by.actor, by.at_us, by.reason),
    "promoted": lambda ramp, state, by: ramp_state.promote(state, by.actor, by.at_us, by.reason),
    "rolled back": lambda ramp, state, by: ramp_state.roll_back(state, by.actor, by.at_us, by.reason),
    "aborted": lambda ramp, state, by: ramp_state.abort(state, by.actor, by.at_us, by.reason),
}


class _Asked(Protocol):
    """A request that changes something."""

    @property
    def actor(self) -> str:
        """Who asks."""

    @property
    def reason(self) -> str:
        """Why."""


class _Verb(_Asked, Protocol):
    """A request that names an experiment, and does one thing to it."""

    @property
    def experiment_id(self) -> str:
        """Which."""

    @property
    def etag(self) -> str:
        """If not empty, must be the current one."""


class ExperimentService(experiments_pb2_grpc.ExperimentServiceServicer):
    """Implements `router.v1.ExperimentService`."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        announce: Callable[[Iterable[int]], None],
        clock_us: Callable[[], int],
    ) -> None:
        """`clock_us` gives microseconds since the epoch."""
        self._database = database
        self._registry = registry
        self._announce = announce
        self._clock_us = clock_us

    async def CreateExperiment(self, request: pb.CreateExperimentRequest, context: Context) -> pb.CreateExperimentResponse:
        """See the proto."""
        change = self._change(request)
        new = new_definition(request.experiment)
        try:
            async with self._database.begin() as connection:
                incarnation = await experiments.create(connection, new)
                stored = await self._read(connection, new.experiment_id)
                await self._record(connection, stored[0], Kind.DEFINITION, "", stored[0].etag, change)
                await audited(connection, request, context, new.experiment_id)
        except KeyTakenError:
            raise AlreadyExistsError(
                f"experiment {new.experiment_id!r} exists: update it instead",
                metadata={"experiment_id": new.experiment_id},
            ) from None
        await self._changed(incarnation)
        return pb.CreateExperimentResponse(experiment=experiment_message(*stored))

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.GetExperimentResponse:
        """See the proto."""
        async with self._database.begin() as connection:
            stored = await self._read(connection, request.experiment_id)
        return pb.GetExperimentResponse(experiment=experiment_message(*stored))

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: Context) -> pb.ListExperimentsResponse:
        """See the proto."""
        limit = request.page_size or _DEFAULT_PAGE
        after = place_of(request.page_token, "after:", "ListExperiments")
        async with self._database.begin() as connection:
            page = await experiments.read_page(connection, after, limit + 1, current_caller().key.experiments)
        more = len(page) > limit
        return pb.ListExperimentsResponse(
            experiments=[experiment_message(*stored) for stored in page[:limit]],
            next_page_token=page_token(f"after:{page[limit - 1][0].experiment_id}") if more else "",
        )

    async def UpdateExperiment(self, request: pb.UpdateExperimentRequest, context: Context) -> pb.UpdateExperimentResponse:
        """See the proto."""
        change = self._change(request)
        new = new_definition(request.experiment)
        async with self._database.begin() as connection:
            current, policy_version = await self._read(connection, new.experiment_id, for_update=True)
            _check_etag(current, request.experiment.etag)
            if current.state == "concluded":
                raise _wrong_state(current, "updated")
            if current.state == "shadow":
                # Without a shadow rule nothing is mirrored: a definition may drop it before the experiment is started.
                _check_shadow_state(current, without_retired_arms(request.experiment), "arms")
            changed = await experiments.update(connection, current, new)
            stored = (current, policy_version)
            if changed:
                stored = await self._follow(connection, current, change)
                await self._record(connection, current, Kind.DEFINITION, current.etag, stored[0].etag, change)
            await audited(connection, request, context, new.experiment_id)
        if changed:
            await self._changed(current.incarnation)
        return pb.UpdateExperimentResponse(experiment=experiment_message(*stored))

    async def ShadowExperiment(self, request: pb.ShadowExperimentRequest, context: Context) -> pb.ShadowExperimentResponse:
        """See the proto."""
        return pb.ShadowExperimentResponse(experiment=await self._move(request, context, "shadow"))

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: Context) -> pb.StartExperimentResponse:
        """See the proto."""
        return pb.StartExperimentResponse(experiment=await self._move(request, context, "start"))

    async def PauseExperiment(self, request: pb.PauseExperimentRequest, context: Context) -> pb.PauseExperimentResponse:
        """See the proto."""
        return pb.PauseExperimentResponse(experiment=await self._move(request, context, "pause"))

    async def ResumeExperiment(self, request: pb.ResumeExperimentRequest, context: Context) -> pb.ResumeExperimentResponse:
        """See the proto."""
        return pb.ResumeExperimentResponse(experiment=await self._move(request, context, "resume"))

    async def ConcludeExperiment(
        self, request: pb.ConcludeExperimentRequest, context: Context
    ) -> pb.ConcludeExperimentResponse:
        """See the proto."""
        return pb.ConcludeExperimentResponse(experiment=await self._move(request, context, "conclude"))

    async def ApproveRamp(self, request: pb.ApproveRampRequest, context: Context) -> pb.ApproveRampResponse:
        """See the proto."""
        return pb.ApproveRampResponse(experiment=await self._move_ramp(request, context, "approved"))

    async def AdvanceRamp(self, request: pb.AdvanceRampRequest, context: Context) -> pb.AdvanceRampResponse:
        """See the proto."""
        return pb.AdvanceRampResponse(experiment=await self._move_ramp(request, context, "advanced"))

    async def PromoteRamp(self, request: pb.PromoteRampRequest, context: Context) -> pb.PromoteRampResponse:
        """See the proto."""
        return pb.PromoteRampResponse(experiment=await self._move_ramp(request, context, "promoted"))

    async def RollBackRamp(self, request: pb.RollBackRampRequest, context: Context) -> pb.RollBackRampResponse:
        """See the proto."""
        return pb.RollBackRampResponse(experiment=await self._move_ramp(request, context, "rolled back"))

    async def AbortRamp(self, request: pb.AbortRampRequest, context: Context) -> pb.AbortRampResponse:
        """See the proto."""
        return pb.AbortRampResponse(experiment=await self._move_ramp(request, context, "aborted"))

    async def ListTransitions(self, request: pb.ListTransitionsRequest, context: Context) -> pb.ListTransitionsResponse:
        """See the proto."""
        limit = request.page_size or _DEFAULT_PAGE
        before = place_of(request.page_token, "before:", "ListTransitions", number=True)
        async with self._database.begin() as connection:
            definition, _ = await self._read(connection, request.experiment_id)
            driver = await driver_of(connection)
            page = await transitions.read_page(driver, definition.incarnation, int(before) if before else None, limit + 1)
        more = len(page) > limit
        return pb.ListTransitionsResponse(
            transitions=[transition_message(definition.experiment_id, *row) for row in page[:limit]],
            next_page_token=page_token(f"before:{page[limit - 1].transition_id}") if more else "",
        )

    async def _move(self, request: _Verb, context: Context, verb: str) -> pb.Experiment:
        allowed, target = _TRANSITIONS[verb]
        change = self._change(request)
        async with self._database.begin() as connection:
            current, _ = await self._read(connection, request.experiment_id, for_update=True)
            _check_etag(current, request.etag)
            if current.state not in allowed:
                raise _wrong_state(current, f"{target} by {verb}")
            if target == "shadow":
                _check_shadow_state(current, without_retired_arms(experiment_message(current, 0)), "arms", "shadow")
            await experiments.set_state(connection, current, target)
            await self._record(connection, current, Kind.STATE, current.state, target, change)
            await audited(connection, request, context, current.experiment_id)
            stored = await self._follow(connection, current, change)
        await self._changed(current.incarnation)
        return experiment_message(*stored)

    async def _move_ramp(self, request: _Verb, context: Context, done: str) -> pb.Experiment:
        change = self._change(request)
        async with self._database.begin() as connection:
            seen, _ = await self._read(connection, request.experiment_id)
            current, _ = await self._read(connection, request.experiment_id, for_update=True)
            _check_etag(current, request.etag)
            if seen.ramp_state != current.ramp_state:
                raise _ramp_moved(current)
            transition = _ramp_transition(current, done, change)
            try:
                await ramps.move(await driver_of(connection), current, transition)
            except ConcurrentChangeError:
                raise _ramp_moved(current) from None
            await audited(connection, request, context, current.experiment_id)
            stored = await self._read(connection, request.experiment_id)
        await self._changed(current.incarnation)
        return experiment_message(*stored)

    async def _follow(self, connection: Connection, before: Definition, change: Change) -> tuple[Definition, int]:
        """Have the ramp follow a change that was written in this transaction; returns what is stored now."""
        stored = await self._read(connection, before.experiment_id)
        if await ramps.follow(await driver_of(connection), before, stored[0], change):
            stored = await self._read(connection, before.experiment_id)
        return stored

    async def _record(
        self, connection: Connection, definition: Definition, kind: Kind, from_value: str, to_value: str, change: Change
    ) -> None:
        driver = await driver_of(connection)
        await transitions.record(driver, definition.incarnation, kind, from_value, to_value, change)

    async def _read(self, connection: Connection, experiment_id: str, *, for_update: bool = False) -> tuple[Definition, int]:
        found = await experiments.read(connection, experiment_id, for_update=for_update)
        if found is None:
            raise NotFoundError.of_experiment(experiment_id)
        return found

    async def _changed(self, incarnation: int) -> None:
        """Let this replica know at once, and the others within milliseconds."""
        self._announce([incarnation])
        self._registry.wake([incarnation])
        # The change is stored: that this replica cannot read it back just now is no reason to call it failed.
        with contextlib.suppress(StorageError):
            await self._registry.refresh_now(incarnation)

    def _change(self, request: _Asked) -> Change:
        if request.actor.strip().lower() == AUTOMATIC:
            rule = f"{request.actor!r} is how the router signs what nobody asked for: use another name"
            raise InvalidArgumentError.of_field("actor", rule)
        return Change(self._clock_us(), request.actor, request.reason)


def _ramp_transition(current: Definition, done: str, change: Change) -> Transition:
    """Return what a verb makes of the ramp; FailedPreconditionError where it may not."""
    ramp, state = current.rules.ramp, current.ramp_state
    if current.state == "concluded":
        raise _wrong_state(current, f"{done}: its ramp has ended")
    if ramp is None:
        raise _wrong_ramp(current, f"it has no ramp that could be {done}")
    if state is None:
        raise _wrong_ramp(current, f"its ramp has not begun: it does when the experiment runs, which is {current.state}")
    try:
        transition = _RAMP_VERBS[done](ramp, state, change)
    except ValueError as error:
        raise _wrong_ramp(current, str(error)) from None
    if transition.to_phase is Phase.PROMOTED and current.state != "running":
        how = "resume" if current.state == "paused" else "start"
        raise _wrong_ramp(current, f"it is {current.state}: {how} it before its challenger is promoted")
    return transition


def _check_shadow_state(current: Definition, experiment: pb.Experiment, *parts: str) -> None:
    """Refuse to have a definition in state shadow that cannot be; of the rules that are about these parts of it."""
    problems = [problem for problem in shadow_state_problems(experiment) if problem.steps[0] in parts]
    if problems:
        told = "; ".join(f"{problem.path}: {problem.message} ({problem.hint})" for problem in problems)
        raise FailedPreconditionError(
            f"experiment {current.experiment_id!r} cannot be in state shadow so: {told}",
            metadata={"experiment_id": current.experiment_id, "state": current.state},
        )


def _check_etag(current: Definition, etag: str) -> None:
    if etag and etag != current.etag:
        raise AbortedError(
            f"etag {etag!r} is stale: experiment {current.experiment_id!r} changed since; read it again, then update",
            metadata={"experiment_id": current.experiment_id},
        )


def _ramp_moved(current: Definition) -> AbortedError:
    return AbortedError(
        f"the ramp of experiment {current.experiment_id!r} changed meanwhile: read it again, then decide",
        metadata={"experiment_id": current.experiment_id},
    )


def _wrong_state(current: Definition, action: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"experiment {current.experiment_id!r} is {current.state} and cannot be {action}",
        metadata={"experiment_id": current.experiment_id, "state": current.state},
    )


def _wrong_ramp(current: Definition, rule: str) -> FailedPreconditionError:
    phase = current.ramp_state.phase.value if current.ramp_state is not None else ""
    return FailedPreconditionError(
        f"experiment {current.experiment_id!r}: {rule}",
        metadata={"experiment_id": current.experiment_id, "state": current.state, "phase": phase},
    )
