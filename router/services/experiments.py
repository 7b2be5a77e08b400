"""ExperimentService: definitions and states."""

import binascii
import contextlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable

from router.errors import AbortedError, AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from router.experiment import Definition
from router.messages import experiment_message, new_definition
from router.registry import Registry
from router.services import Context
from router.storage import experiments
from router.storage.database import Connection, Database
from router.storage.errors import AlreadyExistsError as KeyTakenError
from router.storage.errors import StorageError
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

_DEFAULT_PAGE = 100
#: From which states each verb leads where.
_TRANSITIONS = {
    "start": (("draft",), "running"),
    "pause": (("running",), "paused"),
    "resume": (("paused",), "running"),
    "conclude": (("draft", "running", "paused"), "concluded"),
}


class ExperimentService(experiments_pb2_grpc.ExperimentServiceServicer):
    """Implements `router.v1.ExperimentService`."""

    def __init__(self, database: Database, registry: Registry, announce: Callable[[Iterable[int]], None]) -> None:
        self._database = database
        self._registry = registry
        self._announce = announce

    async def CreateExperiment(self, request: pb.CreateExperimentRequest, context: Context) -> pb.CreateExperimentResponse:
        """See the proto."""
        new = new_definition(request.experiment)
        try:
            async with self._database.begin() as connection:
                incarnation = await experiments.create(connection, new)
                stored = await self._read(connection, new.experiment_id)
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
        async with self._database.begin() as connection:
            page = await experiments.read_page(connection, _after(request.page_token), limit + 1)
        more = len(page) > limit
        return pb.ListExperimentsResponse(
            experiments=[experiment_message(*stored) for stored in page[:limit]],
            next_page_token=_page_token(page[limit - 1][0].experiment_id) if more else "",
        )

    async def UpdateExperiment(self, request: pb.UpdateExperimentRequest, context: Context) -> pb.UpdateExperimentResponse:
        """See the proto."""
        new = new_definition(request.experiment)
        async with self._database.begin() as connection:
            current, policy_version = await self._read(connection, new.experiment_id, for_update=True)
            _check_etag(current, request.experiment.etag)
            if current.state == "concluded":
                raise _wrong_state(current, "updated")
            changed = await experiments.update(connection, current, new)
            stored = await self._read(connection, new.experiment_id) if changed else (current, policy_version)
        if changed:
            await self._changed(current.incarnation)
        return pb.UpdateExperimentResponse(experiment=experiment_message(*stored))

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: Context) -> pb.StartExperimentResponse:
        """See the proto."""
        return pb.StartExperimentResponse(experiment=await self._move(request.experiment_id, request.etag, "start"))

    async def PauseExperiment(self, request: pb.PauseExperimentRequest, context: Context) -> pb.PauseExperimentResponse:
        """See the proto."""
        return pb.PauseExperimentResponse(experiment=await self._move(request.experiment_id, request.etag, "pause"))

    async def ResumeExperiment(self, request: pb.ResumeExperimentRequest, context: Context) -> pb.ResumeExperimentResponse:
        """See the proto."""
        return pb.ResumeExperimentResponse(experiment=await self._move(request.experiment_id, request.etag, "resume"))

    async def ConcludeExperiment(
        self, request: pb.ConcludeExperimentRequest, context: Context
    ) -> pb.ConcludeExperimentResponse:
        """See the proto."""
        return pb.ConcludeExperimentResponse(experiment=await self._move(request.experiment_id, request.etag, "conclude"))

    async def _move(self, experiment_id: str, etag: str, verb: str) -> pb.Experiment:
        allowed, target = _TRANSITIONS[verb]
        async with self._database.begin() as connection:
            current, _ = await self._read(connection, experiment_id, for_update=True)
            _check_etag(current, etag)
            if current.state not in allowed:
                raise _wrong_state(current, f"{target} by {verb}")
            await experiments.set_state(connection, current, target)
            stored = await self._read(connection, experiment_id)
        await self._changed(current.incarnation)
        return experiment_message(*stored)

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


def _check_etag(current: Definition, etag: str) -> None:
    if etag and etag != current.etag:
        raise AbortedError(
            f"etag {etag!r} is stale: experiment {current.experiment_id!r} changed since; read it again, then update",
            metadata={"experiment_id": current.experiment_id},
        )


def _wrong_state(current: Definition, action: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"experiment {current.experiment_id!r} is {current.state} and cannot be {action}",
        metadata={"experiment_id": current.experiment_id, "state": current.state},
    )


def _page_token(experiment_id: str) -> str:
    return urlsafe_b64encode(f"after:{experiment_id}".encode()).decode()


def _after(page_token: str) -> str:
    if not page_token:
        return ""
    try:
        text = urlsafe_b64decode(page_token.encode()).decode()
    except (binascii.Error, UnicodeError, ValueError):
        text = ""
    if not text.startswith("after:") or "\x00" in text:
        raise InvalidArgumentError.of_field(
            "page_token", "is not a token that ListExperiments returned", reason="INVALID_PAGE_TOKEN"
        )
    return text.removeprefix("after:")
