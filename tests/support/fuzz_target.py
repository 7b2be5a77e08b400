"""The router that fuzz tests call: a process of its own, watched for crashes, faults in its log, leaks and growth."""

from __future__ import annotations

import itertools
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fuzzing
import grpc
from fuzzing import Known
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_status import rpc_status
from processes import Service, alive, serving
from running import arm, event, experiment

from router.v1 import (
    experiments_pb2,
    experiments_pb2_grpc,
    interleave_pb2,
    interleave_pb2_grpc,
    judge_pb2,
    judge_pb2_grpc,
    routing_pb2,
    routing_pb2_grpc,
    shadow_pb2,
    shadow_pb2_grpc,
    types_pb2,
)

#: No call may take this long: a busy machine is allowed for.
DEADLINE_S = 30.0
_numbers = itertools.count(1)


class FuzzTarget:
    """A running `serve` of one worker, and a channel to it."""

    def __init__(self, service: Service, url: str) -> None:
        self.service = service
        self.url = url
        self.port = service.port
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(service.target, options=options)
        (self._worker,) = service.workers()
        self._read = 0
        self._known: Known | None = None
        self._routing = routing_pb2_grpc.RouterServiceStub(self.channel)
        #: How often each call ended how, by method.
        self.codes: dict[str, Counter[str]] = {}

    def ask(self, method: MethodDescriptor, request: bytes) -> list[Message]:
        """Send bytes; returns the replies, or none if the call was refused as documented. Anything else fails the test."""
        reply_class = GetMessageClass(method.output_type)
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = make(fuzzing.path_of(method), request_serializer=bytes, response_deserializer=reply_class.FromString)
        counted = self.codes.setdefault(method.full_name, Counter())
        try:
            if method.server_streaming:
                stream = call(request, timeout=DEADLINE_S)
                replies = [next(iter(stream))]
                stream.cancel()
            else:
                replies = [call(request, timeout=DEADLINE_S)]
        except grpc.RpcError as error:
            found: Any = error
            status = rpc_status.from_call(found)
            assert status is not None, f"{method.name}: {found.code()} without details: {found.details()}"
            counted[found.code().name] += 1
            self._refused(method, status)
            return []
        counted["OK"] += 1
        for reply in replies:
            for status in fuzzing.statuses_in(reply):
                self._refused(_single(method), status)
        return replies

    def _refused(self, method: MethodDescriptor, status: status_pb2.Status) -> None:
        name = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
        # Postgres is there and idle: nothing that a client sends may make it otherwise.
        allowed = fuzzing.documented_codes(method) - {"UNAVAILABLE"}
        assert name in allowed, f"{method.name}: {name}, documented are {sorted(allowed)}: {status.message}"
        assert status.message
        text = status.message + "".join(repr(detail.value) for detail in status.details)
        assert not fuzzing.leaks_in(text), f"{method.name} tells {fuzzing.leaks_in(text)}: {text}"

    def assert_well(self) -> None:
        """The same worker runs, answers, and has logged no fault since the last look."""
        assert alive(self._worker), self.service.log[-3000:]
        stub = experiments_pb2_grpc.ExperimentServiceStub(self.channel)
        stub.ListExperiments(experiments_pb2.ListExperimentsRequest(page_size=1), timeout=DEADLINE_S)
        log = self.service.log
        said, self._read = log[self._read :], len(log)
        for sign in ("Traceback", "error id", "Task exception", "never retrieved", "never awaited"):
            assert sign not in said, said[max(0, said.index(sign) - 1000) :][:5000]

    def resident(self) -> int:
        """Bytes of memory of the worker."""
        return int(Path(f"/proc/{self._worker}/statm").read_text().split()[1]) * resource.getpagesize()

    def peak(self) -> int:
        """The most that it ever was."""
        status = Path(f"/proc/{self._worker}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def known(self) -> Known:
        """What was made last, as long as its experiments still route; otherwise new ones."""
        if self._known is not None:
            requests = [routing_pb2.RouteRequest(experiment_id=id, session_id="s") for id in self._known.running]
            reply = self._routing.BatchRoute(routing_pb2.BatchRouteRequest(requests=requests))
            if not any(result.HasField("error") for result in reply.results):
                return self._known
        return self.made_anew()

    def made_anew(self) -> Known:
        """Experiments of every kind under new names, with decisions, feedback, comparisons and a judge run."""
        suffix = next(_numbers)
        known = Known()
        control, challenger = arm("a", role="ROLE_CONTROL", family="anthropic"), arm("b", family="mistral")
        mirrored = experiment(f"mirrored-{suffix}", [control, challenger, arm("s", role="ROLE_SHADOW", family="qwen")])
        mirrored.shadow.CopyFrom(experiments_pb2.ShadowRule(rate=1.0, text=types_pb2.TEXT_MODE_FULL))
        turns = experiment(f"turns-{suffix}", kind="UNIFORM", assignment="INTERLEAVED", unit="SESSION")
        ramp = experiments_pb2.RampRule(approval=True)
        running = [
            experiment(f"plain-{suffix}"),
            experiment(f"sticky-{suffix}", assignment="STICKY_STORED", ttl_s=3600),
            experiment(
                f"hashed-{suffix}", kind="FIXED", weights={"a": 0.5, "b": 0.5}, assignment="STICKY_HASH", unit="REQUEST"
            ),
            experiment(f"ramped-{suffix}", [control, challenger], ramp=ramp),
            turns,
            mirrored,
        ]
        for definition in running:
            self._create(known, definition, start=True)
        self._create(known, experiment(f"draft-{suffix}"), start=False)
        ids = [definition.experiment_id for definition in running]
        paused = experiment(f"paused-{suffix}")
        self._create(known, paused, start=True)
        stub = experiments_pb2_grpc.ExperimentServiceStub(self.channel)
        stub.PauseExperiment(experiments_pb2.PauseExperimentRequest(experiment_id=paused.experiment_id))
        known.running = ids
        known.add("experiment_id", values=[*ids, ids[0], f"draft-{suffix}", f"paused-{suffix}"])
        known.add("arm_id", "other_arm_id", "force_arm_id", "challenger_arm_id", "eligible_arm_ids", values=["a", "b", "s"])

        routed = [
            self._routing.Route(
                routing_pb2.RouteRequest(
                    experiment_id=id,
                    unit_id="u",
                    session_id="s",
                    turn_id=f"{turn}",
                    eligible_arm_ids=["a"] * (id == ids[-1]),
                )
            )
            for id in ids
            for turn in range(2)
        ]
        tokens = [reply.decision_id for reply in routed]
        known.add("decision_id", values=tokens)
        for token in tokens[::2]:
            self._routing.Reward(event(token, 1.0))
        self._add_mirrored(known, mirrored.experiment_id, tokens[-1])
        self._add_interleaving(known, ids[0])
        self._add_pages(known, ids)
        self._known = known
        return known

    def _create(self, known: Known, definition: experiments_pb2.Experiment, *, start: bool) -> None:
        stub = experiments_pb2_grpc.ExperimentServiceStub(self.channel)
        made = stub.CreateExperiment(experiments_pb2.CreateExperimentRequest(experiment=definition)).experiment
        if start:
            request = experiments_pb2.StartExperimentRequest(experiment_id=definition.experiment_id)
            made = stub.StartExperiment(request).experiment
        known.add("etag", values=[made.etag, ""])
        known.add_sample(made)

    def _add_mirrored(self, known: Known, experiment_id: str, token: str) -> None:
        shadowing = shadow_pb2_grpc.ShadowServiceStub(self.channel)
        judging = judge_pb2_grpc.JudgeServiceStub(self.channel)
        answers = {side: shadow_pb2.ModelAnswer(text=side, call=routing_pb2.CallReport()) for side in ("serving", "shadow")}
        shadowing.RecordShadow(shadow_pb2.RecordShadowRequest(decision_id=token, arm_id="s", prompt="why?", **answers))
        run = judge_pb2.JudgeRun(
            run_id=f"run-of-{experiment_id}",
            experiment_id=experiment_id,
            arm_id="s",
            judge="openai:judge",
            judge_family="openai",
            rubric="Which helps more?",
            sample=10,
        )
        judging.CreateJudgeRun(judge_pb2.CreateJudgeRunRequest(run=run))
        known.add("run_id", values=[run.run_id])
        known.add_sample(run)
        other = judge_pb2.JudgeRun()
        other.CopyFrom(run)
        other.run_id, other.arm_id = f"other-{run.run_id}", ""
        known.add_sample(other)

    def _add_interleaving(self, known: Known, experiment_id: str) -> None:
        stub = interleave_pb2_grpc.InterleaveServiceStub(self.channel)
        rankings = [interleave_pb2.Ranking(arm_id=a, item_ids=["x", "y", "z"]) for a in "ab"]
        request = interleave_pb2.InterleaveRequest(experiment_id=experiment_id, rankings=rankings, unit_id="u")
        known.add_sample(request)
        known.add("interleaving_id", values=[stub.Interleave(request).interleaving_id])
        known.add("positions", values=[0, 1])

    def _add_pages(self, known: Known, ids: list[str]) -> None:
        stub = experiments_pb2_grpc.ExperimentServiceStub(self.channel)
        page = stub.ListExperiments(experiments_pb2.ListExperimentsRequest(page_size=1))
        changes = stub.ListTransitions(experiments_pb2.ListTransitionsRequest(experiment_id=ids[3], page_size=1))
        known.add("page_token", values=["", page.next_page_token, changes.next_page_token])


def _single(method: MethodDescriptor) -> MethodDescriptor:
    """The method whose errors the items of a batch may have."""
    found: MethodDescriptor = method.containing_service.methods_by_name[method.name.removeprefix("Batch")]
    return found


@contextmanager
def fuzz_target(directory: Path, url: str) -> Iterator[FuzzTarget]:
    """Start the router; at the end it must drain and exit with 0."""
    with serving(directory, "--database-url", url) as service:
        target = FuzzTarget(service, url)
        yield target
        target.channel.close()
        assert service.stop() == 0, service.log[-3000:]
