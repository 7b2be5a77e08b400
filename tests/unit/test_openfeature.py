"""The OpenFeature provider below OpenFeature's own SDK, with the router of `router.testing` behind it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, GeneralError
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from openfeature.provider import ProviderStatus
from openfeature.track import TrackingEventDetails

from router.client import Arm, Decision, Signal, Status, Unauthenticated
from router.openfeature import BanditRouterProvider, TrackingStats
from router.openfeature._condition import Condition, Observer
from router.openfeature._memory import AmbiguousDecisionError, Memory, Subject, UnknownDecisionError
from router.testing import FakeExperiment, FakeRouter

ARMS = (Arm("a", "model-a", {"max_tokens": 1024, "stop": [1, 0.5]}), Arm("b", "model-b"))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANN = EvaluationContext("ann", {"session_id": "s-1"})
BOB = EvaluationContext("bob")


class Clock:
    """Monotonic seconds, as told."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture(autouse=True)
def _sdk() -> Iterator[None]:
    """The SDK's state is global."""
    yield
    api.shutdown()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter(
        {
            "support": FakeExperiment(ARMS, choose=["a", "b"]),
            "sticky": FakeExperiment(ARMS, sticky=True),
            "paused": FakeExperiment(ARMS, running=False),
            "search": FakeExperiment(ARMS),
        }
    )


@pytest.fixture
def provider(router: FakeRouter, clock: Clock) -> BanditRouterProvider:
    return BanditRouterProvider(router, events={"purchase": "task_completed", "rating": "reward"}, monotonic=clock)


@pytest.fixture
def flags(provider: BanditRouterProvider) -> OpenFeatureClient:
    api.set_provider_and_wait(provider)
    return api.get_client()


def until(condition: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up, f"not within 10 s: {what}"
        time.sleep(0.002)


def settled(provider: BanditRouterProvider) -> TrackingStats:
    """The counts, once all that waits was sent."""
    provider.shutdown()
    return provider.stats()


def about(**attributes: object) -> TrackingEventDetails:
    return TrackingEventDetails(attributes=attributes)


def test_without_the_sdk_the_import_says_what_is_missing() -> None:
    script = (
        "import sys; sys.modules['openfeature'] = None\ntry:\n import router.openfeature\nexcept ImportError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "bandit-router[openfeature]"' in done.stdout


class TestEvaluation:
    def test_a_string_is_the_arm(self, flags: OpenFeatureClient, router: FakeRouter) -> None:
        found = flags.get_string_details("support", "default", ANN)
        (decision,) = router.decisions
        assert (found.value, found.variant, found.reason, found.error_code) == ("a", "a", Reason.SPLIT, None)
        assert found.flag_metadata == {
            "decision_id": decision.decision_id,
            "model": "model-a",
            "propensity": 0.5,
            "policy_version": 1,
            "router_reason": "sampled",
            "stale_for_s": 0.0,
        }

    def test_an_object_is_what_to_call(self, flags: OpenFeatureClient) -> None:
        found = flags.get_object_details("support", {}, ANN)
        assert found.value == {"arm_id": "a", "model": "model-a", "config": {"max_tokens": 1024, "stop": [1, 0.5]}}
        assert found.variant == "a"

    async def test_without_a_loops_client_the_loop_is_not_blocked(self, provider: BanditRouterProvider) -> None:
        loops_thread, asked_in = threading.get_ident(), []
        real = provider._client.route

        def route(*arguments: object, **options: object) -> Decision:
            asked_in.append(threading.get_ident())
            return real(*arguments, **options)  # type: ignore[arg-type]

        provider._client.route = route  # type: ignore[method-assign]
        found = await provider.resolve_string_details_async("support", "default", ANN)
        assert found.value == "a"
        assert asked_in != [loops_thread]

    async def test_a_loops_client_serves_asynchronous_evaluations(self, router: FakeRouter) -> None:
        provider = BanditRouterProvider(FakeRouter(), aio=router.aio)
        assert (await provider.resolve_string_details_async("support", "default", ANN)).value == "a"
        found = await provider.resolve_object_details_async("support", {}, ANN)
        assert found.value == {"arm_id": "b", "model": "model-b", "config": {}}
        assert (await provider.resolve_string_details_async("paused", "default", ANN)).reason == Reason.DISABLED

    def test_the_context_is_the_request(self, flags: OpenFeatureClient, router: FakeRouter) -> None:
        said = {"session_id": "s-9", "turn_id": 3, "eligible_arm_ids": ["a"], "request_id": "r-1", "colour": "red"}
        context = EvaluationContext("ann", said)  # type: ignore[arg-type]
        first = flags.get_string_details("search", "default", context)
        again = flags.get_string_details("search", "default", context)
        (decision,) = router.decisions
        assert (decision.session_id, decision.turn_id) == ("s-9", "3")
        assert (first.value, first.flag_metadata["propensity"]) == ("a", 1.0)
        # The same request id is the same decision.
        assert again.flag_metadata["decision_id"] == first.flag_metadata["decision_id"]

    def test_the_targeting_key_is_the_unit(self, flags: OpenFeatureClient) -> None:
        people = [EvaluationContext(f"person-{n}") for n in range(40)]
        first = [flags.get_string_value("sticky", "default", person) for person in people]
        again = [flags.get_string_details("sticky", "default", person) for person in people]
        assert [found.value for found in again] == first
        assert {found.flag_metadata["router_reason"] for found in again} == {"sticky"}
        # One of 2 ** 39 runs of a router that forgets its units has one arm alone.
        assert set(first) == {"a", "b"}

    def test_a_forced_arm_is_static(self, flags: OpenFeatureClient) -> None:
        found = flags.get_string_details("support", "default", EvaluationContext("ann", {"force_arm_id": "b"}))
        assert (found.value, found.reason, found.flag_metadata["router_reason"]) == ("b", Reason.STATIC, "forced")

    def test_the_clients_fallback_arm_is_a_default(self, router: FakeRouter) -> None:
        client = FakeRouter({}, fallback_arms={"support": ARMS[1]})
        client.unreachable = True
        found = BanditRouterProvider(client).resolve_string_details("support", "default", ANN)
        assert (found.value, found.reason, found.error_code) == ("b", Reason.DEFAULT, None)
        assert "decision_id" not in found.flag_metadata


class TestErrors:
    @pytest.mark.parametrize(
        ("flag_key", "context", "code", "says"),
        [
            ("missing", ANN, ErrorCode.FLAG_NOT_FOUND, "missing"),
            ("no id!", ANN, ErrorCode.FLAG_NOT_FOUND, "experiment_id"),
            ("sticky", EvaluationContext(), ErrorCode.TARGETING_KEY_MISSING, "unit_id"),
            ("sticky", EvaluationContext("k" * 257), ErrorCode.INVALID_CONTEXT, "unit_id"),
            ("support", EvaluationContext("ann", {"eligible_arm_ids": ["z"]}), ErrorCode.INVALID_CONTEXT, "'z'"),
            (
                "support",
                EvaluationContext("ann", {"eligible_arm_ids": "a"}),
                ErrorCode.INVALID_CONTEXT,
                "eligible_arm_ids 'a'",
            ),
            ("support", EvaluationContext("ann", {"session_id": 1.5}), ErrorCode.INVALID_CONTEXT, "session_id 1.5"),
            ("support", EvaluationContext("ann", {"turn_id": True}), ErrorCode.INVALID_CONTEXT, "turn_id True"),
            (
                "support",
                EvaluationContext("ann", {"prompt_similarity": "x"}),
                ErrorCode.INVALID_CONTEXT,
                "prompt_similarity 'x'",
            ),
            ("support", EvaluationContext("ann", {"prompt_similarity": 2}), ErrorCode.INVALID_CONTEXT, "prompt_similarity"),
        ],
    )
    def test_say_what_is_wrong_and_give_the_default(
        self, flags: OpenFeatureClient, flag_key: str, context: EvaluationContext, code: ErrorCode, says: str
    ) -> None:
        found = flags.get_string_details(flag_key, "default", context)
        assert (found.value, found.reason, found.error_code) == ("default", Reason.ERROR, code)
        assert says in (found.error_message or "")

    async def test_are_the_same_for_asyncio(
        self, flags: OpenFeatureClient, provider: BanditRouterProvider, router: FakeRouter
    ):
        for aio in (None, router.aio):
            provider._aio = aio
            found = await flags.get_object_details_async("missing", {"model": "m"}, ANN)
            assert (found.value, found.error_code) == ({"model": "m"}, ErrorCode.FLAG_NOT_FOUND)
            found = await flags.get_object_details_async("support", {"model": "m"}, EvaluationContext("k" * 257))
            assert (found.value, found.error_code) == ({"model": "m"}, ErrorCode.INVALID_CONTEXT)

    def test_a_paused_experiment_is_disabled_and_no_error(self, flags: OpenFeatureClient) -> None:
        found = flags.get_string_details("paused", "default", ANN)
        assert (found.value, found.reason, found.error_code) == ("default", Reason.DISABLED, None)
        assert found.flag_metadata == {"state": "paused"}

    async def test_an_arm_is_neither_number_nor_boolean(self, flags: OpenFeatureClient, router: FakeRouter) -> None:
        found: list[FlagEvaluationDetails] = [
            flags.get_boolean_details("support", True, ANN),
            flags.get_integer_details("support", 7, ANN),
            flags.get_float_details("support", 0.5, ANN),
            await flags.get_boolean_details_async("support", True, ANN),
        ]
        assert [details.value for details in found] == [True, 7, 0.5, True]
        assert {details.error_code for details in found} == {ErrorCode.TYPE_MISMATCH}
        assert router.decisions == ()

    @pytest.mark.parametrize(
        "arguments", [{"remember": 0}, {"queue": 0}, {"remember_for": timedelta(0)}, {"stale_after": -timedelta(1)}]
    )
    def test_sizes_and_times_are_positive(self, router: FakeRouter, arguments: dict) -> None:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            BanditRouterProvider(router, **arguments)

    def test_events_mean_what_there_is(self, router: FakeRouter) -> None:
        with pytest.raises(
            ValueError, match=r"events\['purchase'\]: signal must be one of rephrased_query, .* or \"reward\""
        ):
            BanditRouterProvider(router, events={"purchase": "bought"})


class TestTracking:
    def test_an_event_is_about_the_last_decision_of_its_context(
        self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        flags.get_string_value("support", "default", BOB)
        flags.get_string_value("support", "default", ANN)
        flags.track("task_completed", ANN)
        assert settled(provider) == TrackingStats(sent=1)
        (reward,) = router.rewards
        assert reward.decision == router.decisions[2]
        assert (reward.signal, reward.status) == (Signal.TASK_COMPLETED, Status.APPLIED)

    def test_another_session_is_another_subject(
        self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        flags.track("task_completed", EvaluationContext("ann", {"session_id": "s-2"}))
        flags.track("task_completed", EvaluationContext("ann"))
        assert settled(provider) == TrackingStats(unknown=2)
        assert router.rewards == ()

    def test_of_several_flags_the_event_names_one(
        self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider, caplog: pytest.LogCaptureFixture
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        flags.get_string_value("search", "default", ANN)
        flags.track("thumbs_down", ANN)
        assert "'thumbs_down' is not sent: decisions of search, support are remembered" in caplog.text
        flags.track("thumbs_up", ANN, about(flag_key="support"))
        flags.track("thumbs_up", ANN, about(flag_key="elsewhere"))
        assert settled(provider) == TrackingStats(sent=1, ambiguous=1, unknown=1)
        assert [reward.decision.experiment_id for reward in router.rewards] == ["support"]

    def test_the_decision_id_wins(
        self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider
    ) -> None:
        first = flags.get_string_details("support", "default", ANN).flag_metadata["decision_id"]
        flags.get_string_value("support", "default", ANN)
        flags.track("task_completed", ANN, about(decision_id=first))
        flags.track("thumbs_up", None, about(decision_id=first))
        assert settled(provider) == TrackingStats(sent=2)
        assert {reward.decision.decision_id for reward in router.rewards} == {first}

    def test_numbers_names_and_notes(self, router: FakeRouter) -> None:
        provider = BanditRouterProvider(router, events={"purchase": "task_completed", "rating": "reward"}, now=lambda: NOON)
        provider.resolve_string_details("support", "default", ANN)
        provider.track("purchase", ANN, TrackingEventDetails(99.0, {"event_id": "order-1", "metadata": {"shop": "x"}}))
        provider.track("rating", ANN, TrackingEventDetails(0.75))
        provider.track("reward", ANN, TrackingEventDetails(1))
        assert settled(provider) == TrackingStats(sent=3)
        purchase, rating, reward = router.rewards
        assert (purchase.signal, purchase.event_id, purchase.metadata) == (Signal.TASK_COMPLETED, "order-1", {"shop": "x"})
        assert (rating.reward, reward.reward) == (0.75, 1.0)
        assert {event.occurred_at for event in router.rewards} == {NOON}

    def test_what_others_track_is_left_alone(
        self, flags: OpenFeatureClient, provider: BanditRouterProvider, caplog: pytest.LogCaptureFixture
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        flags.track("page_viewed", ANN)
        assert settled(provider) == TrackingStats(unmapped=1)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    @pytest.mark.parametrize(
        ("name", "details"),
        [
            ("reward", None),
            ("reward", TrackingEventDetails(1.5)),
            ("reward", TrackingEventDetails(float("nan"))),
            ("rating", TrackingEventDetails(True)),
            ("thumbs_up", about(event_id=7)),
            ("thumbs_up", about(decision_id=["d"])),
            ("thumbs_up", about(metadata={"n": 1})),
        ],
    )
    def test_what_cannot_be_sent_is_counted_and_said(
        self,
        flags: OpenFeatureClient,
        provider: BanditRouterProvider,
        caplog: pytest.LogCaptureFixture,
        name: str,
        details: TrackingEventDetails | None,
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        flags.track(name, ANN, details)
        assert settled(provider) == TrackingStats(invalid=1)
        assert f"tracked event {name!r} is not sent" in caplog.text

    def test_never_raises(self, provider: BanditRouterProvider, caplog: pytest.LogCaptureFixture) -> None:
        provider.track("task_completed", ANN, TrackingEventDetails(attributes=7))  # type: ignore[arg-type]
        provider.track(["task_completed"], ANN)  # type: ignore[arg-type]
        provider.track("task_completed")
        provider.track("task_completed", EvaluationContext(""))
        assert provider.stats() == TrackingStats(failed=2, unknown=2)
        assert "fault of the provider" in caplog.text

    def test_feedback_after_a_default_is_not_about_the_decision_before(
        self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider
    ) -> None:
        for spoil in ("unreachable", "paused", "fallback"):
            flags.get_string_value("support", "default", ANN)
            if spoil == "unreachable":
                router.unreachable = True
            elif spoil == "paused":
                router.experiments["support"].running = False
            else:
                provider._client = FakeRouter({}, fallback_arms={"support": "a"})
                provider._client.unreachable = True
            flags.get_string_value("support", "default", ANN)
            router.unreachable, router.experiments["support"].running, provider._client = False, True, router
            flags.track("task_completed", ANN)
        assert settled(provider) == TrackingStats(unknown=3)

    def test_decisions_are_forgotten_in_time(
        self, flags: OpenFeatureClient, provider: BanditRouterProvider, clock: Clock
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        clock.s += 30 * 60 - 1
        flags.track("task_completed", ANN)
        clock.s += 1
        flags.track("task_completed", ANN)
        assert settled(provider) == TrackingStats(sent=1, unknown=1)
        assert len(provider._memory) == 0

    def test_events_wait_for_a_router_that_is_away(
        self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        asked = []
        real = provider._outbox._send

        def send(events):
            asked.append(len(events))
            return real(events)

        provider._outbox._send = send
        router.unreachable = True
        for _ in range(3):
            flags.track("thumbs_up", ANN)
        until(lambda: len(asked) >= 2, "two attempts")
        assert provider.stats() == TrackingStats()
        router.unreachable = False
        until(lambda: provider.stats() == TrackingStats(sent=3), "the events arrive")
        assert len({reward.event_id for reward in router.rewards}) == 3

    def test_the_queue_is_bounded_and_shutdown_is_too(self, router: FakeRouter, caplog: pytest.LogCaptureFixture) -> None:
        provider = BanditRouterProvider(router, queue=3, flush=timedelta(seconds=0.2))
        provider.resolve_string_details("support", "default", ANN)
        router.unreachable = True
        for _ in range(5):
            provider.track("thumbs_up", ANN)
        assert provider.stats() == TrackingStats(dropped=2)
        assert "dropped, because the queue is full or closed" in caplog.text
        started = time.monotonic()
        provider.shutdown()
        assert time.monotonic() - started < 5
        assert provider.stats() == TrackingStats(dropped=5)
        router.unreachable = False
        provider.track("thumbs_up", ANN)
        assert provider.stats() == TrackingStats(dropped=6)
        assert router.rewards == ()

    def test_shutdown_does_not_wait_for_a_call_that_hangs(self, router: FakeRouter) -> None:
        provider = BanditRouterProvider(router, flush=timedelta(seconds=0.1))
        provider.resolve_string_details("support", "default", ANN)
        real, asked, go_on = provider._outbox._send, threading.Event(), threading.Event()

        def send(events):
            asked.set()
            assert go_on.wait(10)
            return real(events)

        provider._outbox._send = send
        provider.track("thumbs_up", ANN)
        assert asked.wait(10)
        provider.shutdown()
        assert provider.stats() == TrackingStats(dropped=1)
        # What it comes back with is of the past: new events are others.
        provider._outbox.open()
        provider.track("thumbs_down", ANN)
        go_on.set()
        until(lambda: provider.stats() == TrackingStats(dropped=1, sent=1), "the new event is sent")
        assert [reward.signal for reward in router.rewards] == [Signal.THUMBS_UP, Signal.THUMBS_DOWN]

    def test_what_the_router_refuses_is_not_sent_again(
        self, flags: OpenFeatureClient, provider: BanditRouterProvider, caplog: pytest.LogCaptureFixture
    ) -> None:
        flags.get_string_value("support", "default", ANN)
        flags.track("thumbs_up", ANN, about(decision_id="forged"))
        flags.track("thumbs_up", ANN)
        assert settled(provider) == TrackingStats(sent=1, refused=1)
        assert "was refused: INVALID_ARGUMENT DECISION_ID_MALFORMED" in caplog.text

    def test_a_provider_starts_again(self, router: FakeRouter, provider: BanditRouterProvider) -> None:
        for round_ in (1, 2):
            api.set_provider_and_wait(provider)
            flags = api.get_client()
            flags.get_string_value("support", "default", ANN)
            flags.track("thumbs_up", ANN)
            api.shutdown()
            assert provider.stats() == TrackingStats(sent=round_)

    def test_from_many_threads(self, flags: OpenFeatureClient, router: FakeRouter, provider: BanditRouterProvider) -> None:
        def use(n: int) -> None:
            who = EvaluationContext(f"user-{n}")
            flags.get_string_value("search", "default", who)
            flags.track("task_completed", who, about(event_id=f"e-{n}"))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(400)))
        assert settled(provider) == TrackingStats(sent=400)
        assert len({reward.decision.decision_id for reward in router.rewards}) == 400
        assert {reward.status for reward in router.rewards} == {Status.APPLIED}


class TestCondition:
    def test_no_router_at_the_start(self, router: FakeRouter, provider: BanditRouterProvider, clock: Clock) -> None:
        router.unreachable = True
        with pytest.raises(GeneralError, match="no router answers"):
            api.set_provider_and_wait(provider)
        flags = api.get_client()
        assert flags.get_provider_status() is ProviderStatus.ERROR
        # Evaluations try all the same, and one that succeeds says so.
        assert flags.get_string_details("support", "default", ANN).error_code is ErrorCode.GENERAL
        router.unreachable = False
        clock.s += 1.1
        assert flags.get_string_value("support", "default", ANN) == "a"
        assert flags.get_provider_status() is ProviderStatus.READY

    def test_a_key_that_is_not_taken(
        self, flags: OpenFeatureClient, provider: BanditRouterProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def route(*_: object, **__: object) -> Decision:
            raise Unauthenticated(grpc.StatusCode.UNAUTHENTICATED, "there is no such key")

        with monkeypatch.context() as patched:
            patched.setattr(provider._client, "route", route)
            found = flags.get_string_details("support", "default", ANN)
        assert (found.value, found.error_code) == ("default", ErrorCode.GENERAL)
        assert flags.get_provider_status() is ProviderStatus.ERROR

    def test_changes_are_told_once(self, flags: OpenFeatureClient, router: FakeRouter, clock: Clock) -> None:
        told: list[tuple[str, str]] = []
        lock = threading.Lock()

        def listen(kind: str) -> Callable[[EventDetails], None]:
            def heard(details: EventDetails) -> None:
                with lock:
                    told.append((kind, details.message or ""))

            return heard

        flags.add_handler(ProviderEvent.PROVIDER_ERROR, listen("error"))
        router.unreachable = True
        for _ in range(3):
            flags.get_string_value("support", "default", ANN)
        assert flags.get_provider_status() is ProviderStatus.ERROR
        until(lambda: told, "an event")
        flags.add_handler(ProviderEvent.PROVIDER_READY, listen("ready"))
        router.unreachable = False
        flags.get_string_value("support", "default", ANN)
        assert flags.get_provider_status() is ProviderStatus.ERROR, "one good answer is not yet calm"
        clock.s += 1.1
        flags.get_string_value("support", "default", ANN)
        assert flags.get_provider_status() is ProviderStatus.READY
        until(lambda: len(told) >= 2, "the other event")
        assert [kind for kind, _ in told] == ["error", "ready"]
        assert "unreachable" in told[0][1]

    def test_worse_news_at_once_and_better_news_after_a_calm(self, clock: Clock) -> None:
        told: list[Condition] = []
        observer = Observer(lambda condition, _: told.append(condition), clock)
        for after_s, seen in [(0, 1), (0, 0), (0.9, 0), (0.05, 1), (0.9, 0), (0, 2), (0.9, 1), (0.2, 1), (0.9, 0), (0.2, 0)]:
            clock.s += after_s
            observer.saw(Condition(seen))
        assert told == [Condition.STALE, Condition.ERROR, Condition.STALE, Condition.READY]


class TestMemory:
    ANN, BOB, CY = (Subject(name, "") for name in ("ann", "bob", "cy"))

    def test_the_quietest_subject_goes_first(self, clock: Clock) -> None:
        memory = Memory(3, 60, clock)
        memory.remember(self.ANN, "x", "1")
        memory.remember(self.BOB, "x", "2")
        memory.remember(self.ANN, "y", "3")
        memory.remember(self.ANN, "x", "4")
        memory.remember(self.CY, "x", "5")
        assert len(memory) == 3
        with pytest.raises(UnknownDecisionError):
            memory.last(self.BOB, "x")
        assert [memory.last(self.ANN, "x"), memory.last(self.ANN, "y"), memory.last(self.CY, "")] == ["4", "3", "5"]

    def test_one_subject_alone_stays_within_bounds(self, clock: Clock) -> None:
        memory = Memory(5, 60, clock)
        for n in range(100):
            memory.remember(self.ANN, f"flag-{n}", str(n))
            assert len(memory) <= 5

    def test_what_expired_is_not_ambiguous(self, clock: Clock) -> None:
        memory = Memory(5, 60, clock)
        memory.remember(self.ANN, "x", "1")
        clock.s += 30
        memory.remember(self.ANN, "y", "2")
        with pytest.raises(AmbiguousDecisionError, match="x, y"):
            memory.last(self.ANN, "")
        clock.s += 30
        assert memory.last(self.ANN, "") == "2"
        assert len(memory) == 1
        memory.forget(self.ANN, "y")
        memory.forget(self.ANN, "never")
        assert len(memory) == 0
