"""What the client makes of arguments, replies and errors, without a network."""

import copy
import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2
from google.rpc import error_details_pb2, status_pb2

from router.client import (
    Arm,
    AsyncRouterClient,
    CallReport,
    Decision,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Reason,
    RewardEvent,
    RouterClient,
    RouteRequest,
    RouterError,
    Signal,
    Status,
    Unauthenticated,
    Unavailable,
    Violation,
    _errors,
    _messages,
    _requests,
)
from router.v1 import routing_pb2, types_pb2


def reply(**changes: object) -> routing_pb2.RouteResponse:
    config = struct_pb2.Struct()
    config.update({"max_tokens": 1024, "temperature": 0.7, "stop": ["a", 2, {"deep": 3}], "stream": True, "seed": None})
    message = routing_pb2.RouteResponse(
        decision_id="token",
        experiment_id="support",
        arm=routing_pb2.RoutedArm(arm_id="haiku", model="claude-haiku", config=config),
        propensity=0.75,
        allocation=[
            types_pb2.ArmProbability(arm_id="haiku", probability=0.75),
            types_pb2.ArmProbability(arm_id="sonnet", probability=0.25),
        ],
        policy_version=12,
        reason=routing_pb2.REASON_SAMPLED,
        stale_for=duration_pb2.Duration(seconds=2, nanos=500_000_000),
        shadow_arms=[routing_pb2.RoutedArm(arm_id="opus", model="claude-opus")],
    )
    message.MergeFrom(routing_pb2.RouteResponse(**changes))
    return message


def parsed(message: routing_pb2.RouteResponse, **request: str) -> Decision:
    return _messages.decision(message, RouteRequest("support", **request))


class TestDecision:
    def test_has_everything_the_reply_says(self):
        config = {"max_tokens": 1024, "temperature": 0.7, "stop": ["a", 2, {"deep": 3}], "stream": True, "seed": None}
        assert parsed(reply()) == Decision(
            decision_id="token",
            experiment_id="support",
            arm=Arm("haiku", "claude-haiku", config),
            propensity=0.75,
            allocation={"haiku": 0.75, "sonnet": 0.25},
            policy_version=12,
            reason=Reason.SAMPLED,
            stale_for=timedelta(seconds=2.5),
            shadow_arms=(Arm("opus", "claude-opus"),),
        )

    def test_whole_numbers_of_config_are_ints_at_every_depth_and_booleans_stay(self):
        config = parsed(reply()).arm.config
        assert type(config["max_tokens"]) is int
        assert type(config["stop"][1]) is int
        assert type(config["stop"][2]["deep"]) is int
        assert type(config["temperature"]) is float
        assert config["stream"] is True

    @pytest.mark.parametrize("number", [2.0**53, -(2.0**53), 0.0, -3.0])
    def test_exact_whole_numbers_become_ints(self, number):
        assert type(self.restored(number)) is int
        assert self.restored(number) == number

    @pytest.mark.parametrize("number", [2.0**53 + 2, 1e300, 0.5, math.inf, math.nan])
    def test_numbers_that_an_int_would_falsify_stay_floats(self, number):
        assert type(self.restored(number)) is float

    @staticmethod
    def restored(number: float) -> object:
        config = struct_pb2.Struct(fields={"x": struct_pb2.Value(number_value=number)})
        return _messages.arm(routing_pb2.RoutedArm(config=config)).config["x"]

    def test_unknown_reason_of_a_newer_router_is_unspecified(self):
        assert parsed(reply(reason=99)).reason is Reason.UNSPECIFIED

    def test_is_frozen_hashable_and_can_be_pickled_and_copied(self):
        decision = parsed(reply())
        with pytest.raises(FrozenInstanceError):
            decision.decision_id = "other"
        assert hash(decision) == hash(parsed(reply()))
        assert pickle.loads(pickle.dumps(decision)) == decision
        assert copy.deepcopy(decision) == decision

    def test_only_a_decision_without_id_is_a_fallback(self):
        assert not parsed(reply(reason=routing_pb2.REASON_FALLBACK)).is_fallback
        assert Decision("", "support", Arm("haiku"), 1.0, {"haiku": 1.0}, 0, Reason.FALLBACK).is_fallback


class TestLogFields:
    def test_join_an_answer_to_its_experiment_and_arm(self):
        assert parsed(reply(), session_id="s-1", turn_id="2").log_fields() == {
            "experiment_id": "support",
            "arm_id": "haiku",
            "model": "claude-haiku",
            "decision_id": "token",
            "policy_version": 12,
            "propensity": 0.75,
            "reason": "sampled",
            "is_fallback": False,
            "session_id": "s-1",
            "turn_id": "2",
        }

    def test_leave_out_session_and_turn_that_were_not_given_and_the_unit_always(self):
        names = set(parsed(reply(), unit_id="alice@example.com").log_fields())
        assert not names & {"session_id", "turn_id", "unit_id"}


class TestEnums:
    @pytest.mark.parametrize(
        ("ours", "theirs", "prefix"),
        [
            (Signal, types_pb2.Signal, "SIGNAL_"),
            (Reason, routing_pb2.Reason, "REASON_"),
            (Status, routing_pb2.Status, "STATUS_"),
        ],
    )
    def test_numbers_are_those_of_the_proto(self, ours, theirs, prefix):
        proto = {name.removeprefix(prefix): number for name, number in theirs.items()}
        mirrored = {name: int(value) for name, value in ours.__members__.items() if value >= 0}
        if ours is Signal:  # its 0 is refused, so the client has no name for it
            del proto["UNSPECIFIED"]
        assert mirrored == proto

    @pytest.mark.parametrize(
        "value",
        [Signal.TASK_COMPLETED, types_pb2.SIGNAL_TASK_COMPLETED, "task_completed", "SIGNAL_TASK_COMPLETED"],
    )
    def test_signal_is_given_as_member_number_or_name(self, value):
        assert Signal.parse(value) is Signal.TASK_COMPLETED

    @pytest.mark.parametrize("value", ["completed", "", 0, 99])
    def test_unknown_signal_is_refused_with_the_names_there_are(self, value):
        with pytest.raises(ValueError, match="thumbs_up"):
            Signal.parse(value)


class TestRouteRequest:
    def test_options_are_the_fields_of_the_request(self):
        names = {field.name for field in fields(RouteRequest)} - {"experiment_id"}
        assert names == set(_requests.RouteOptions.__annotations__)

    def test_message_carries_every_argument(self):
        request = RouteRequest(
            "support",
            unit_id="u",
            session_id="s",
            turn_id="t",
            request_id="r",
            eligible_arm_ids=(arm for arm in ("a", "b")),
            segment="mobile",
            force_arm_id="a",
            prompt_fingerprint="f00",
            prompt_similarity=0.0,
        )
        assert _messages.route_request(request) == routing_pb2.RouteRequest(
            experiment_id="support",
            unit_id="u",
            session_id="s",
            turn_id="t",
            request_id="r",
            eligible_arm_ids=["a", "b"],
            segment="mobile",
            force_arm_id="a",
            prompt_fingerprint="f00",
            prompt_similarity=0.0,
        )

    def test_absent_similarity_stays_absent(self):
        assert not _messages.route_request(RouteRequest("support")).HasField("prompt_similarity")

    @pytest.mark.parametrize("given", [None, ""])
    def test_request_id_is_fresh_for_each_request_and_stays(self, given):
        first, second = RouteRequest("support", request_id=given), RouteRequest("support", request_id=given)
        assert first.request_id
        assert first.request_id != second.request_id
        assert _messages.route_request(first).request_id == first.request_id

    def test_one_string_in_place_of_several_arm_ids_is_refused(self):
        with pytest.raises(TypeError, match="'haiku'"):
            RouteRequest("support", eligible_arm_ids="haiku")

    @pytest.mark.parametrize("limit", [{"eligible_arm_ids": ["b"]}, {"force_arm_id": "b"}])
    def test_fallback_that_the_request_rules_out_is_refused_before_it_is_needed(self, limit):
        with pytest.raises(ValueError, match="fallback 'a'"):
            RouteRequest("support", fallback="a", **limit)


class TestRewardEvent:
    def test_options_are_the_fields_of_the_event(self):
        names = {field.name for field in fields(RewardEvent)} - {"decision"}
        assert names == set(_requests.RewardOptions.__annotations__)

    def test_message_carries_every_argument(self):
        event = RewardEvent(
            "token",
            event_id="e",
            signal="thumbs_up",
            occurred_at=datetime(2026, 1, 2, 13, 4, 5, tzinfo=timezone(timedelta(hours=1))),
            metadata={"k": "v"},
        )
        expected = routing_pb2.RewardRequest(
            decision_id="token", event_id="e", signal=types_pb2.SIGNAL_THUMBS_UP, metadata={"k": "v"}
        )
        expected.occurred_at.FromDatetime(datetime(2026, 1, 2, 12, 4, 5, tzinfo=UTC))
        assert _messages.reward_request(event) == expected

    @pytest.mark.parametrize("reward", [0, 0.0, 1, 0.25])
    def test_zero_is_a_reward(self, reward):
        message = _messages.reward_request(RewardEvent("token", reward=reward))
        assert message.WhichOneof("feedback") == "reward"
        assert message.reward == reward

    def test_call_report_distinguishes_unknown_from_zero(self):
        report = CallReport(latency=timedelta(milliseconds=1500), input_tokens=0, cost_usd=0.0, error="timeout")
        call = _messages.reward_request(RewardEvent("token", call=report)).call
        assert call.latency.ToMilliseconds() == 1500
        assert call.HasField("input_tokens")
        assert not call.HasField("output_tokens")
        assert call.HasField("cost_usd")
        assert call.error == "timeout"

    def test_an_empty_call_report_is_still_the_feedback(self):
        assert _messages.reward_request(RewardEvent("token", call=CallReport())).WhichOneof("feedback") == "call"

    @pytest.mark.parametrize(
        ("feedback", "named"),
        [
            ({}, "none"),
            ({"signal": "thumbs_up", "reward": 0.0}, "signal and reward"),
            ({"signal": 6, "reward": 1.0, "call": CallReport()}, "signal and reward and call"),
        ],
    )
    def test_anything_but_one_kind_of_feedback_is_refused(self, feedback, named):
        with pytest.raises(ValueError, match=f"exactly one of signal, reward and call is needed, not {named}$"):
            RewardEvent("token", **feedback)

    def test_time_without_a_zone_is_refused(self):
        with pytest.raises(ValueError, match="time zone"):
            RewardEvent("token", reward=1, occurred_at=datetime(2026, 1, 2))

    def test_event_id_is_fresh_for_each_event_and_stays(self):
        first, second = RewardEvent("token", reward=1), RewardEvent("token", reward=1)
        assert first.event_id
        assert first.event_id != second.event_id
        assert _messages.reward_request(first).event_id == first.event_id

    def test_an_empty_event_id_is_a_producers_mistake_and_left_to_the_router_to_refuse(self):
        assert RewardEvent("token", reward=1, event_id="").event_id == ""


def status(code: grpc.StatusCode, *details: object) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message="no", details=packed)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
            (grpc.StatusCode.NOT_FOUND, NotFound),
            (grpc.StatusCode.FAILED_PRECONDITION, FailedPrecondition),
            (grpc.StatusCode.UNAVAILABLE, Unavailable),
            (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, Unavailable),
            (grpc.StatusCode.INTERNAL, RouterError),
            (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
            (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
            (grpc.StatusCode.DATA_LOSS, RouterError),
        ],
    )
    def test_code_decides_the_class(self, code, kind):
        error = _errors.from_status(status(code))
        assert type(error) is kind
        assert error.code is code

    def test_details_are_read(self):
        error = _errors.from_status(
            status(
                grpc.StatusCode.INVALID_ARGUMENT,
                error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="bandit-router", metadata={"a": "b"}),
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field="reward", description="must be at most 1", reason="double.lte"
                        )
                    ]
                ),
                error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1)),
            )
        )
        assert error.reason == "INVALID_FIELD"
        assert error.metadata == {"a": "b"}
        assert error.violations == (Violation("reward", "must be at most 1", "double.lte"),)
        assert error.retry_after == timedelta(seconds=1)
        assert str(error) == "INVALID_ARGUMENT INVALID_FIELD: no; reward: must be at most 1"

    def test_violations_that_the_message_names_are_not_said_twice(self):
        error = InvalidArgument(
            grpc.StatusCode.INVALID_ARGUMENT, "reward: too large", "INVALID_FIELD", (Violation("reward", "too large"),)
        )
        assert str(error) == "INVALID_ARGUMENT INVALID_FIELD: reward: too large"

    def test_reasons_of_another_domain_are_not_the_routers(self):
        info = error_details_pb2.ErrorInfo(reason="EXPERIMENT_NOT_RUNNING", domain="proxy.example")
        assert _errors.from_status(status(grpc.StatusCode.UNAVAILABLE, info)).reason == ""

    def test_unreadable_details_and_codes_do_not_hide_the_error(self):
        broken = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
        error = _errors.from_status(status_pb2.Status(code=77, message="odd", details=[broken]))
        assert (type(error), error.code, error.message) == (RouterError, grpc.StatusCode.UNKNOWN, "odd")

    def test_can_be_pickled(self):
        error = NotFound(grpc.StatusCode.NOT_FOUND, "no", "EXPERIMENT_NOT_FOUND", (), timedelta(1), {"a": "b"})
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is NotFound
        assert (str(again), again.retry_after, again.metadata) == (str(error), timedelta(1), {"a": "b"})


class TestConstruction:
    @pytest.mark.parametrize("client", [RouterClient, AsyncRouterClient])
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"target": ""},
            {"target": "localhost:1", "channel": object()},
            {"channel": object(), "credentials": grpc.local_channel_credentials()},
        ],
    )
    def test_takes_a_target_or_a_channel(self, client, arguments):
        with pytest.raises(ValueError, match=r"channel"):
            client(**arguments)


def test_importing_the_client_imports_none_of_the_servers_weight():
    heavy = ("numpy", "scipy", "sqlalchemy", "psycopg", "alembic", "pydantic", "protovalidate", "bandit")
    script = f"import sys, router.client; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
