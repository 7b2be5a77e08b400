"""Both clients against a gRPC server that does what each test scripts: retries, deadlines, fallbacks and batches."""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from grpc_status import rpc_status

from router.client import (
    CHANNEL_OPTIONS,
    Arm,
    AsyncRouterClient,
    CallReport,
    ClientStats,
    Decision,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    RewardEvent,
    RewardResult,
    RouterClient,
    RouteRequest,
    RouterError,
    Status,
    Unavailable,
    Violation,
    _channel,
)
from router.errors import (
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from router.v1 import routing_pb2, routing_pb2_grpc, types_pb2

HAIKU = Arm("haiku", "claude-haiku", {"max_tokens": 1024})
FALLBACK = {"support": HAIKU}
METHODS = ("Route", "BatchRoute", "Reward", "BatchReward")
Step = Callable[[object, grpc.ServicerContext], object]


def fails(error: ServiceError, *, pushback_ms: int | None = None) -> Step:
    """A step that ends the call as the router's interceptor does."""

    def step(request: object, context: grpc.ServicerContext) -> None:
        status = rpc_status.to_status(error.to_status())
        if pushback_ms is not None:
            trailers = (*status.trailing_metadata, ("grpc-retry-pushback-ms", str(pushback_ms)))
            status = status._replace(trailing_metadata=trailers)
        context.abort_with_status(status)

    return step


def aborts(code: grpc.StatusCode) -> Step:
    """A step that ends the call without details, as proxies do."""
    return lambda request, context: context.abort(code, "no details")


def replies(message: object) -> Step:
    """A step that answers with this message."""
    return lambda request, context: message


def routed(arm_id: str = "haiku", index: int = 0) -> routing_pb2.RouteResponse:
    return routing_pb2.RouteResponse(
        decision_id=f"token-{arm_id}",
        experiment_id="support",
        arm=routing_pb2.RoutedArm(arm_id=arm_id),
        propensity=0.5,
        reason=routing_pb2.REASON_SAMPLED,
        allocation_index=index,
    )


class ScriptedRouter(routing_pb2_grpc.RouterServiceServicer):
    """Takes one step of the script per attempt; after the last, decides for haiku and takes every event."""

    def __init__(self) -> None:
        self.script: deque[Step] = deque()
        #: Every request in the order of arrival, attempts that a step fails included.
        self.requests: list[object] = []
        #: Seconds that each attempt had left when it arrived.
        self.remaining: list[float] = []
        #: Set when the test ends, so that no handler outlives it.
        self.over = threading.Event()

    def _answer(self, request: object, context: grpc.ServicerContext, default: Callable[[], object]) -> object:
        self.requests.append(request)
        self.remaining.append(context.time_remaining())
        return self.script.popleft()(request, context) if self.script else default()

    def hang(self, request: object, context: grpc.ServicerContext) -> None:
        """A step that does not answer before the test is over."""
        self.over.wait()

    def Route(self, request, context):
        return self._answer(request, context, routed)

    def BatchRoute(self, request, context):
        def default():
            results = [routing_pb2.BatchRouteResult(response=routed()) for _ in request.requests]
            return routing_pb2.BatchRouteResponse(results=results)

        return self._answer(request, context, default)

    def Reward(self, request, context):
        applied = routing_pb2.RewardResponse(status=routing_pb2.STATUS_APPLIED, arm_id="haiku")
        return self._answer(request, context, lambda: applied)

    def BatchReward(self, request, context):
        def default():
            applied = routing_pb2.RewardResponse(status=routing_pb2.STATUS_APPLIED, arm_id="haiku")
            results = [routing_pb2.BatchRewardResult(response=applied) for _ in request.requests]
            return routing_pb2.BatchRewardResponse(results=results)

        return self._answer(request, context, default)


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    """Longer deadlines, of the same proportions: what a test does must not depend on how busy the machine is."""
    for method, seconds in _channel.DEADLINE_S.items():
        monkeypatch.setitem(_channel.DEADLINE_S, method, seconds * 30)


@pytest.fixture
def router() -> Iterator[ScriptedRouter]:
    servicer = ScriptedRouter()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        routing_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
        servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield servicer
        servicer.over.set()
        server.stop(None).wait()


@pytest.fixture
def dead_target() -> Iterator[str]:
    """An address that refuses connections, and stays taken for as long as the test runs."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


class Threaded:
    """A RouterClient whose calls are awaited, each in a thread."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._client = RouterClient(*args, **kwargs)
        self.stats = self._client.stats

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *args, **kwargs: asyncio.to_thread(getattr(self._client, name), *args, **kwargs)


@pytest.fixture(params=[Threaded, AsyncRouterClient], ids=["sync", "aio"])
async def connect(request) -> AsyncIterator[Callable[..., AsyncRouterClient]]:
    """Make clients of either kind, to be used alike."""
    clients = []

    def make(*args, **kwargs):
        clients.append(request.param(*args, **kwargs))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


def call(client: AsyncRouterClient, method: str, **options: float) -> object:
    """Call a method with whatever it needs."""
    match method:
        case "Route":
            return client.route("support", **options)
        case "BatchRoute":
            return client.batch_route([RouteRequest("support")], **options)
        case "Reward":
            return client.reward("token", reward=1, **options)
        case _:
            return client.batch_reward([RewardEvent("token", reward=1)], **options)


class TestRoundTrip:
    async def test_route_then_reward(self, connect, router):
        client = connect(router.target)
        decision = await client.route("support", unit_id="u", session_id="s", turn_id="t", segment="mobile")
        assert decision == Decision(
            "token-haiku", "support", Arm("haiku"), 0.5, {}, 0, Reason.SAMPLED, session_id="s", turn_id="t"
        )
        result = await client.reward(decision, event_id="e", signal="task_completed", metadata={"k": "v"})
        assert result == RewardResult(Status.APPLIED, "haiku", "e")
        route, reward = router.requests
        assert (route.unit_id, route.session_id, route.turn_id, route.segment) == ("u", "s", "t", "mobile")
        assert reward == routing_pb2.RewardRequest(
            decision_id="token-haiku", event_id="e", signal=types_pb2.SIGNAL_TASK_COMPLETED, metadata={"k": "v"}
        )
        assert client.stats() == ClientStats(0, 0)

    async def test_a_kept_decision_id_is_as_good_as_the_decision(self, connect, router):
        result = await connect(router.target).reward("token-haiku", call=CallReport(latency=timedelta(seconds=1)))
        assert result.status is Status.APPLIED
        assert router.requests[0].decision_id == "token-haiku"

    async def test_a_status_of_a_newer_router_is_still_a_success(self, connect, router):
        router.script.append(replies(routing_pb2.RewardResponse(status=99, arm_id="haiku")))
        assert (await connect(router.target).reward("token", reward=1)).status is Status.UNSPECIFIED

    async def test_wrong_arguments_are_refused_before_anything_is_sent(self, connect, router):
        with pytest.raises(ValueError, match="exactly one of"):
            await connect(router.target).reward("token", signal="thumbs_up", reward=1.0)
        assert router.requests == []

    async def test_a_shared_channel_stays_open(self, router):
        with grpc.insecure_channel(router.target, options=CHANNEL_OPTIONS) as channel:
            with RouterClient(channel=channel) as client:
                client.route("support")
            assert RouterClient(channel=channel).route("support").arm.arm_id == "haiku"

    async def test_a_shared_aio_channel_stays_open(self, router):
        async with grpc.aio.insecure_channel(router.target, options=CHANNEL_OPTIONS) as channel:
            async with AsyncRouterClient(channel=channel) as client:
                await client.route("support")
            assert (await AsyncRouterClient(channel=channel).route("support")).arm.arm_id == "haiku"


class TestRetries:
    async def test_route_repeats_the_same_request(self, connect, router):
        router.script.extend([aborts(grpc.StatusCode.UNAVAILABLE)] * 3)
        decision = await connect(router.target).route("support")
        assert decision.decision_id
        assert len(router.requests) == 4
        assert router.requests[0].request_id
        assert all(request == router.requests[0] for request in router.requests)

    async def test_reward_repeats_the_same_event(self, connect, router):
        router.script.extend([fails(UnavailableError("stopping", retry_after_ms=1), pushback_ms=1)] * 4)
        result = await connect(router.target).reward("token", signal="thumbs_up")
        assert result.status is Status.APPLIED
        assert [request.event_id for request in router.requests] == [result.event_id] * 5

    async def test_two_calls_are_two_requests_and_two_events(self, connect, router):
        client = connect(router.target)
        await client.route("support")
        await client.route("support")
        await client.reward("token", reward=1)
        await client.reward("token", reward=1)
        first, second, one, other = router.requests
        assert first.request_id != second.request_id
        assert one.event_id != other.event_id

    async def test_retries_end(self, connect, router):
        router.script.extend([aborts(grpc.StatusCode.UNAVAILABLE)] * 9)
        with pytest.raises(Unavailable) as raised:
            await connect(router.target).route("support")
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        assert len(router.requests) == 4

    async def test_an_overloaded_router_is_not_asked_for_an_arm_again(self, connect, router):
        router.script.append(fails(ResourceExhaustedError("full", retry_after_ms=700), pushback_ms=1))
        with pytest.raises(Unavailable) as raised:
            await connect(router.target).route("support")
        assert (raised.value.reason, raised.value.retry_after) == ("OVERLOADED", timedelta(milliseconds=700))
        assert len(router.requests) == 1

    async def test_an_overloaded_router_is_told_feedback_again(self, connect, router):
        router.script.append(fails(ResourceExhaustedError("full", retry_after_ms=1), pushback_ms=1))
        assert (await connect(router.target).reward("token", reward=1)).status is Status.APPLIED
        assert len(router.requests) == 2

    async def test_a_router_that_pushes_back_for_good_is_left_alone(self, connect, router):
        router.script.append(fails(ResourceExhaustedError("full"), pushback_ms=-1))
        with pytest.raises(Unavailable):
            await connect(router.target).reward("token", reward=1)
        assert len(router.requests) == 1

    async def test_a_batch_beyond_grpcs_usual_retry_buffer_is_repeated(self, connect, router):
        router.script.append(aborts(grpc.StatusCode.UNAVAILABLE))
        events = [RewardEvent("token", reward=1, metadata={"note": "x" * 1000}) for _ in range(2000)]
        results = await connect(router.target).batch_reward(events)
        assert [result.event_id for result in results] == [event.event_id for event in events]
        first, second = router.requests
        assert first.ByteSize() > 1_000_000
        assert first == second

    async def test_an_outage_is_not_amplified(self, connect, router):
        router.script.extend([fails(UnavailableError("down"), pushback_ms=1)] * 1000)
        client = connect(router.target, fallback_arms=FALLBACK)
        for _ in range(20):
            await client.route("support")
        attempts = len(router.requests)
        assert (await client.route("support")).is_fallback
        assert len(router.requests) == attempts + 1

    @pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT])
    @pytest.mark.parametrize("method", METHODS)
    async def test_nothing_else_is_repeated(self, connect, router, method, code):
        router.script.append(aborts(code))
        with pytest.raises(RouterError):
            await call(connect(router.target), method)
        assert len(router.requests) == 1


class TestDeadlines:
    @pytest.mark.parametrize("method", METHODS)
    async def test_every_method_has_one(self, connect, router, method):
        await call(connect(router.target), method)
        assert _channel.DEADLINE_S[method] * 0.5 < router.remaining[0] <= _channel.DEADLINE_S[method]

    @pytest.mark.parametrize("method", METHODS)
    async def test_the_caller_may_wait_longer(self, connect, router, method):
        await call(connect(router.target), method, timeout=5000)
        assert router.remaining[0] > 2500

    async def test_a_router_that_hangs_is_unavailable(self, connect, router):
        router.script.append(router.hang)
        with pytest.raises(Unavailable) as raised:
            await connect(router.target).route("support", timeout=0.05)
        assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_a_router_that_hangs_is_fallen_back_from(self, connect, router):
        router.script.append(router.hang)
        client = connect(router.target, fallback_arms=FALLBACK)
        assert (await client.route("support", timeout=0.05)).is_fallback
        assert client.stats().fallbacks == 1

    async def test_a_cancelled_task_cancels_its_call(self, router):
        arrived, ended = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def step(request: object, context: grpc.ServicerContext) -> None:
            context.add_callback(lambda: loop.call_soon_threadsafe(ended.set))
            loop.call_soon_threadsafe(arrived.set)
            router.over.wait()

        router.script.append(step)
        async with AsyncRouterClient(router.target, fallback_arms=FALLBACK) as client:
            task = asyncio.create_task(client.route("support", timeout=5000))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await ended.wait()
            assert client.stats().fallbacks == 0


class TestFallback:
    async def test_a_router_that_is_not_there(self, connect, dead_target):
        client = connect(dead_target, fallback_arms=FALLBACK)
        decision = await client.route("support", session_id="s", turn_id="t")
        assert decision == Decision(
            "", "support", HAIKU, 1.0, {"haiku": 1.0}, 0, Reason.FALLBACK, session_id="s", turn_id="t"
        )
        assert decision.is_fallback
        assert decision.log_fields()["is_fallback"] is True
        assert client.stats() == ClientStats(fallbacks=1, skipped_rewards=0)

    async def test_without_an_arm_the_error_raises(self, connect, dead_target):
        with pytest.raises(Unavailable) as raised:
            await connect(dead_target, fallback_arms={"other": "haiku"}).route("support")
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        assert isinstance(raised.value.__context__, grpc.RpcError)

    async def test_an_arm_of_the_call_goes_before_that_of_the_client(self, connect, dead_target):
        client = connect(dead_target, fallback_arms=FALLBACK)
        assert (await client.route("support", fallback="sonnet")).arm == Arm("sonnet")
        assert (await client.route("other", fallback=HAIKU)).arm == HAIKU

    @pytest.mark.parametrize("limit", [{"eligible_arm_ids": ["sonnet"]}, {"force_arm_id": "sonnet"}])
    async def test_never_an_arm_that_the_request_rules_out(self, connect, dead_target, limit):
        client = connect(dead_target, fallback_arms=FALLBACK)
        with pytest.raises(Unavailable):
            await client.route("support", **limit)
        assert client.stats().fallbacks == 0

    @pytest.mark.parametrize(
        "step",
        [
            fails(InternalError("error 17")),
            fails(ResourceExhaustedError("full")),
            fails(UnavailableError("stopping", reason="SHUTTING_DOWN"), pushback_ms=-1),
            fails(FailedPreconditionError("paused", reason="EXPERIMENT_NOT_RUNNING", metadata={"state": "paused"})),
            aborts(grpc.StatusCode.UNKNOWN),
        ],
        ids=["internal", "overloaded", "stopping", "paused", "unknown"],
    )
    async def test_from_a_router_that_cannot_decide(self, connect, router, step):
        router.script.append(step)
        client = connect(router.target, fallback_arms=FALLBACK)
        assert (await client.route("support")).is_fallback
        assert (await client.route("support")).decision_id
        assert client.stats().fallbacks == 1

    @pytest.mark.parametrize(
        ("step", "kind"),
        [
            (fails(InvalidArgumentError.of_field("unit_id", "too long")), InvalidArgument),
            (fails(NotFoundError.of_experiment("support")), NotFound),
            (fails(FailedPreconditionError("weight 0", reason="NO_ELIGIBLE_ARM")), FailedPrecondition),
            (aborts(grpc.StatusCode.UNAUTHENTICATED), RouterError),
            (aborts(grpc.StatusCode.PERMISSION_DENIED), RouterError),
            (aborts(grpc.StatusCode.UNIMPLEMENTED), RouterError),
        ],
        ids=["invalid", "not-found", "no-eligible-arm", "unauthenticated", "denied", "unimplemented"],
    )
    async def test_never_from_what_somebody_must_correct(self, connect, router, step, kind):
        router.script.append(step)
        client = connect(router.target, fallback_arms=FALLBACK)
        with pytest.raises(kind):
            await client.route("support")
        assert client.stats().fallbacks == 0

    async def test_rewarding_one_is_counted_and_sends_nothing(self, connect, router):
        router.script.append(aborts(grpc.StatusCode.INTERNAL))
        client = connect(router.target, fallback_arms=FALLBACK)
        decision = await client.route("support")
        result = await client.reward(decision, event_id="e", signal="thumbs_up")
        assert result == RewardResult(Status.NOT_SENT, "haiku", "e")
        assert (await client.reward("", reward=1)).status is Status.NOT_SENT
        assert client.stats() == ClientStats(fallbacks=1, skipped_rewards=2)
        assert len(router.requests) == 1

    async def test_feedback_that_cannot_be_delivered_raises(self, connect, dead_target):
        with pytest.raises(Unavailable):
            await connect(dead_target, fallback_arms=FALLBACK).reward("token", reward=1)

    def test_counts_are_exact_from_many_threads(self, dead_target):
        with RouterClient(dead_target, fallback_arms=FALLBACK) as client, ThreadPoolExecutor(8) as pool:
            decisions = list(pool.map(lambda _: client.route("support", timeout=0.1), range(100)))
            list(pool.map(lambda decision: client.reward(decision, reward=1), decisions))
            assert client.stats() == ClientStats(100, 100)


class TestErrorDetails:
    async def test_are_those_of_the_router(self, connect, router):
        router.script.append(
            fails(
                InvalidArgumentError(
                    "segment: too long",
                    violations=[FieldViolation("segment", "too long"), FieldViolation("turn_id", "has a NUL")],
                    metadata={"hint": "shorter"},
                    retry_after_ms=1500,
                )
            )
        )
        with pytest.raises(InvalidArgument) as raised:
            await connect(router.target).route("support")
        error = raised.value
        assert (error.code, error.reason, error.message) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            "segment: too long",
        )
        assert error.violations == (Violation("segment", "too long"), Violation("turn_id", "has a NUL"))
        assert error.retry_after == timedelta(seconds=1.5)
        assert error.metadata == {"hint": "shorter"}

    async def test_that_cannot_be_read_leave_code_and_message(self, connect, router):
        def step(request: object, context: grpc.ServicerContext) -> None:
            context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")

        router.script.append(step)
        with pytest.raises(NotFound, match="gone"):
            await connect(router.target).route("support")


class TestBatchRoute:
    async def test_results_and_allocations_find_their_requests(self, connect, router):
        not_found = NotFoundError.of_experiment("nope").to_status()
        entries = [types_pb2.ArmProbability(arm_id=arm_id, probability=0.5) for arm_id in ("haiku", "sonnet")]
        results = [
            routing_pb2.BatchRouteResult(response=routed("haiku", index=1)),
            routing_pb2.BatchRouteResult(error=not_found),
            routing_pb2.BatchRouteResult(response=routed("sonnet", index=0)),
            routing_pb2.BatchRouteResult(response=routed("opus", index=7)),
        ]
        allocations = [routing_pb2.Allocation(entries=entries), routing_pb2.Allocation(entries=entries[:1])]
        router.script.append(replies(routing_pb2.BatchRouteResponse(results=results, allocations=allocations)))
        requests = [
            RouteRequest("support", turn_id="1"),
            RouteRequest("nope", turn_id="2"),
            RouteRequest("support", turn_id="3"),
            RouteRequest("support", turn_id="4"),
        ]
        haiku, missing, sonnet, opus = await connect(router.target).batch_route(iter(requests))
        assert (haiku.arm.arm_id, haiku.turn_id, haiku.allocation) == ("haiku", "1", {"haiku": 0.5})
        assert isinstance(missing, NotFound)
        assert missing.reason == "EXPERIMENT_NOT_FOUND"
        assert (sonnet.arm.arm_id, sonnet.turn_id) == ("sonnet", "3")
        assert sonnet.allocation == {"haiku": 0.5, "sonnet": 0.5}
        assert (opus.arm.arm_id, opus.allocation) == ("opus", {})
        assert [request.turn_id for request in router.requests[0].requests] == ["1", "2", "3", "4"]

    async def test_each_request_falls_back_on_its_own(self, connect, router):
        paused = FailedPreconditionError("paused", reason="EXPERIMENT_NOT_RUNNING").to_status()
        results = [routing_pb2.BatchRouteResult(error=paused)] * 2 + [routing_pb2.BatchRouteResult(response=routed())]
        router.script.append(replies(routing_pb2.BatchRouteResponse(results=results)))
        client = connect(router.target, fallback_arms=FALLBACK)
        requests = [RouteRequest("support"), RouteRequest("other"), RouteRequest("support")]
        support, other, decided = await client.batch_route(requests)
        assert support.is_fallback
        assert isinstance(other, FailedPrecondition)
        assert decided.decision_id == "token-haiku"
        assert client.stats().fallbacks == 1

    async def test_of_an_unreachable_router_each_request_falls_back_or_has_the_error(self, connect, dead_target):
        client = connect(dead_target, fallback_arms=FALLBACK)
        support, other = await client.batch_route([RouteRequest("support"), RouteRequest("other")])
        assert support.is_fallback
        assert isinstance(other, Unavailable)

    async def test_of_an_unreachable_router_without_any_fallback_the_call_raises(self, connect, dead_target):
        with pytest.raises(Unavailable):
            await connect(dead_target, fallback_arms=FALLBACK).batch_route([RouteRequest("other")])

    async def test_a_refused_batch_raises(self, connect, router):
        router.script.append(fails(InvalidArgumentError.of_field("requests", "at most 1000")))
        with pytest.raises(InvalidArgument):
            await connect(router.target, fallback_arms=FALLBACK).batch_route([RouteRequest("support")] * 1001)

    async def test_an_empty_batch_is_not_sent(self, connect, router):
        client = connect(router.target)
        assert await client.batch_route([]) == []
        assert await client.batch_reward([]) == []
        assert router.requests == []

    @pytest.mark.parametrize("results", [[], [routing_pb2.BatchRouteResult(response=routed())] * 2])
    async def test_results_that_do_not_match_are_not_guessed_at(self, connect, router, results):
        router.script.append(replies(routing_pb2.BatchRouteResponse(results=results)))
        with pytest.raises(RouterError, match="for a batch of 1"):
            await connect(router.target).batch_route([RouteRequest("support")])

    async def test_an_empty_result_is_an_error(self, connect, router):
        router.script.append(replies(routing_pb2.BatchRouteResponse(results=[routing_pb2.BatchRouteResult()])))
        (result,) = await connect(router.target).batch_route([RouteRequest("support")])
        assert isinstance(result, RouterError)


class TestBatchReward:
    async def test_results_find_their_events_around_those_not_sent(self, connect, router, dead_target):
        fallback = await connect(dead_target, fallback_arms=FALLBACK).route("support")
        malformed = InvalidArgumentError.of_field("decision_id", "malformed", reason="DECISION_ID_MALFORMED")
        results = [
            routing_pb2.BatchRewardResult(error=malformed.to_status()),
            routing_pb2.BatchRewardResult(
                response=routing_pb2.RewardResponse(status=routing_pb2.STATUS_DUPLICATE, arm_id="sonnet")
            ),
        ]
        router.script.append(replies(routing_pb2.BatchRewardResponse(results=results)))
        client = connect(router.target)
        first, second, third, fourth = await client.batch_reward(
            [
                RewardEvent(fallback, event_id="1", reward=1),
                RewardEvent("bad", event_id="2", reward=1),
                RewardEvent("", event_id="3", reward=1),
                RewardEvent("token", event_id="4", signal="thumbs_down"),
            ]
        )
        assert first == RewardResult(Status.NOT_SENT, "haiku", "1")
        assert isinstance(second, InvalidArgument)
        assert second.reason == "DECISION_ID_MALFORMED"
        assert third == RewardResult(Status.NOT_SENT, "", "3")
        assert fourth == RewardResult(Status.DUPLICATE, "sonnet", "4")
        assert [event.event_id for event in router.requests[0].requests] == ["2", "4"]
        assert client.stats() == ClientStats(fallbacks=0, skipped_rewards=2)

    async def test_of_fallbacks_alone_sends_nothing(self, connect, router):
        (result,) = await connect(router.target).batch_reward([RewardEvent("", reward=1)])
        assert result.status is Status.NOT_SENT
        assert router.requests == []

    async def test_of_an_unreachable_router_raises(self, connect, dead_target):
        client = connect(dead_target)
        with pytest.raises(Unavailable):
            await client.batch_reward([RewardEvent("token", reward=1), RewardEvent("", reward=1)])
        assert client.stats().skipped_rewards == 0
