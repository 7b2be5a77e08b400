"""Calls that several commands make."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict

from router.cli.options import reaching
from router.client import CHANNEL_OPTIONS, Tls
from router.client._access import Access, access
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

TIMEOUT_S = 10.0

ExperimentStub = experiments_pb2_grpc.ExperimentServiceStub


@contextmanager
def connected(server: str) -> Iterator[grpc.Channel]:
    """Give a channel to a router, with the key and over the TLS that the command was given."""
    found = reach(server)
    if found.credentials is None:
        channel = grpc.insecure_channel(server, options=CHANNEL_OPTIONS)
    else:
        channel = grpc.secure_channel(server, found.credentials, options=CHANNEL_OPTIONS)
    with channel:
        yield grpc.intercept_channel(channel, _Bearer(found.metadata)) if found.metadata else channel


def connected_aio(server: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
    """Return such a channel for asyncio."""
    found = reach(server)
    interceptors = [_AioBearer(found.metadata)] if found.metadata else []
    if found.credentials is None:
        return grpc.aio.insecure_channel(server, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(server, found.credentials, options=options, interceptors=interceptors)


def reach(server: str) -> Access:
    """Return how to reach a router. Raises UsageError if a key would travel in plain text."""
    given = reaching()
    key_file, (ca, cert, key) = given.get("api_key_file"), (given.get(n) for n in ("tls_ca", "client_cert", "client_key"))
    try:
        return access(
            server,
            api_key=Path(key_file).read_text() if key_file else None,
            tls=Tls(ca, cert, key) if ca or cert or key else None,
            insecure=bool(given.get("insecure")),
        )
    except ValueError as error:
        told = str(error).replace("give tls=Tls(ca=…)", "give --tls-ca").replace("insecure=True", "--insecure")
        raise click.UsageError(told) from None


class _Bearer(grpc.UnaryUnaryClientInterceptor):
    """Sends metadata with every call: no command opens a stream."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add the metadata."""
        return continuation(_Details(client_call_details, self._metadata), request)


class _Details(grpc.ClientCallDetails):
    """A call's details with more metadata: the library's own are replaced, not changed."""

    def __init__(self, details: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        for name in ("method", "timeout", "credentials", "wait_for_ready", "compression"):
            setattr(self, name, getattr(details, name, None))
        self.metadata = (*(details.metadata or ()), *metadata)


class _AioBearer(grpc.aio.UnaryUnaryClientInterceptor):
    """The same for asyncio."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add the metadata."""
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), *self._metadata)
        return await continuation(client_call_details._replace(metadata=metadata), request)


def read(stub: ExperimentStub, experiment_id: str) -> pb.Experiment:
    """Return an experiment."""
    request = pb.GetExperimentRequest(experiment_id=experiment_id)
    found: pb.Experiment = stub.GetExperiment(request, timeout=TIMEOUT_S).experiment
    return found


def read_if_there(stub: ExperimentStub, experiment_id: str) -> pb.Experiment | None:
    """Return an experiment, or None if there is none of this id."""
    try:
        return read(stub, experiment_id)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


def read_several(stub: ExperimentStub, experiment_ids: Iterable[str]) -> list[pb.Experiment]:
    """Return these experiments, or every one if none is named."""
    found = [read(stub, experiment_id) for experiment_id in experiment_ids]
    if found:
        return found
    token = ""
    while True:
        page = stub.ListExperiments(pb.ListExperimentsRequest(page_token=token), timeout=TIMEOUT_S)
        found.extend(page.experiments)
        token = page.next_page_token
        if not token:
            return found


def last_transitions(stub: ExperimentStub, experiment_id: str, most: int) -> list[pb.Transition]:
    """Return the latest transitions, newest first."""
    found: list[pb.Transition] = []
    token = ""
    while len(found) < most:
        request = pb.ListTransitionsRequest(
            experiment_id=experiment_id, page_size=min(most - len(found), 1000), page_token=token
        )
        page = stub.ListTransitions(request, timeout=TIMEOUT_S)
        found.extend(page.transitions)
        token = page.next_page_token
        if not token:
            break
    return found


def state_name(state: pb.State) -> str:
    """Return a state as files and people write it."""
    return pb.State.Name(state).removeprefix("STATE_").lower()


def as_dict(message: Any) -> Any:
    """Return a message as JSON, in the names of the proto."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
