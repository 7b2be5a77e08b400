"""Calls that several commands make."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from router.client import CHANNEL_OPTIONS
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc

TIMEOUT_S = 10.0

ExperimentStub = experiments_pb2_grpc.ExperimentServiceStub


@contextmanager
def connected(server: str) -> Iterator[grpc.Channel]:
    """Give a channel to a router."""
    with grpc.insecure_channel(server, options=CHANNEL_OPTIONS) as channel:
        yield channel


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
