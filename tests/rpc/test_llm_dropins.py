"""The drop-in clients over real HTTP and real gRPC, with the providers' own SDKs: answers, failures, fallbacks, reports."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import anthropic
import grpc
import openai
import pytest
from dropins import EACH_KIND, KINDS, QUESTION, Kit, kit
from running import until
from stub_router import StubRouter, serve_stub

from router.client import Arm, Unavailable
from router.llm import Price
from router.llm.dropin import settings_of
from router.llm.loopback import Loopback, serve_loopback

GOOD, OTHER = "qwen2.5-7b-instruct", "gemma-2-9b-it"
#: What fails before there is an answer, with the word for it; for streams too.
FAILURES = {
    "loopback-429": "rate_limit",
    "loopback-500": "server_error",
    "loopback-529": "overloaded",
    "loopback-cut-before": "connection",
    "loopback-malformed": "malformed",
    "loopback-no-answer": "malformed",
    "no-such-model": "not_found",
}


@pytest.fixture(scope="module")
def models() -> Iterator[Loopback]:
    with serve_loopback() as server:
        yield server


@pytest.fixture
def stub(models: Loopback) -> Iterator[StubRouter]:
    models.ledger.clear()
    with serve_stub() as stub:
        stub.arms = {"chosen": (GOOD, {}), "control": (OTHER, {})}
        stub.control = "control"
        yield stub


@pytest.fixture(params=EACH_KIND)
async def client(request: pytest.FixtureRequest, models: Loopback, stub: StubRouter) -> AsyncIterator[Kit]:
    async with kit(request.param, models, stub.target, prices={GOOD: Price(1.0, 10.0)}) as made:
        yield made


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
class TestAnswers:
    async def test_the_chosen_arm_answers(self, client: Kit, models: Loopback, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = (GOOD, {"temperature": 0.5, "max_tokens": 150})
        told = await client.ask(stream=stream, temperature=0.1, model="the-caller's", request_id="r-1", unit_id="u-1")
        assert told.error is None
        assert told.text.startswith(f"This is {GOOD}.")
        assert told.routed.arm.arm_id == told.routed.decision.arm.arm_id == "chosen"
        assert not told.routed.fallback
        (asked,) = models.ledger.entries()
        # The arm's config wins over the caller's parameter.
        assert asked.body["temperature"] == 0.5
        assert asked.body["model"] == GOOD
        assert asked.body.get("max_tokens", asked.body.get("max_completion_tokens")) == 150
        assert (stub.routed[0].request_id, stub.routed[0].unit_id) == ("r-1", "u-1")
        assert asked.body["messages"] == QUESTION

    async def test_the_call_is_reported(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        told = await client.ask(stream=stream, request_id="r-1")
        await client.close()
        ((decision_id, call),) = stub.calls().items()
        assert decision_id == told.routed.decision.decision_id == "chosen-r-1"
        assert (stub.rewards[0].event_id, call.error) == ("model-call", "")
        assert 0 < call.latency.ToTimedelta().total_seconds() < 10
        # Four characters a token, as the loopback server counts.
        assert (call.input_tokens, call.output_tokens) == (5, -(-len(told.text) // 4))
        assert call.cost_usd == pytest.approx((5 * 1.0 + call.output_tokens * 10.0) / 1e6)
        assert client.routed.stats().reports.sent == 1

    async def test_without_a_price_there_is_no_cost(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = (OTHER, {})
        await client.ask(stream=stream)
        await client.close()
        (call,) = stub.calls().values()
        assert not call.HasField("cost_usd")
        assert call.HasField("output_tokens")

    async def test_a_refusal_is_an_answer(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-refusal", {})
        told = await client.ask(stream=stream)
        assert told.error is None
        assert not told.routed.fallback
        await client.close()
        assert [call.error for call in stub.calls().values()] == [""]

    async def test_an_empty_answer_is_one(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-empty", {})
        told = await client.ask(stream=stream)
        assert (told.error, told.text, told.routed.fallback) == (None, "", False)

    @pytest.mark.parametrize("model", FAILURES)
    async def test_the_control_answers_for_an_arm_that_fails(
        self, client: Kit, stub: StubRouter, stream: bool, model: str
    ) -> None:
        stub.arms["chosen"] = (model, {})
        told = await client.ask(stream=stream, request_id="r-1")
        assert told.error is None
        assert told.text.startswith(f"This is {OTHER}.")
        assert told.routed.fallback
        assert told.routed.arm.arm_id == "control"
        assert told.routed.failed.decision_id == "chosen-r-1"
        assert [request.force_control for request in stub.routed] == [False, True]
        await client.close()
        calls = stub.calls()
        assert {key: call.error for key, call in calls.items()} == {
            "chosen-r-1": FAILURES[model],
            "control-r-1/control": "",
        }
        (failed,) = [reward for reward in stub.rewards if reward.call.error]
        assert dict(failed.metadata) == {"fallback_arm_id": "control"}

    async def test_the_sdk_retries_first(self, models: Loopback, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-500", {})
        async with kit("anthropic-async", models, stub.target, sdk_options={"max_retries": 1}) as client:
            told = await client.ask(stream=stream)
        assert told.routed.fallback
        assert models.ledger.count("loopback-500") == 2

    async def test_a_slow_arm_times_out(self, models: Loopback, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-slow", {})
        for kind in KINDS:
            async with kit(kind, models, stub.target, sdk_options={"timeout": 0.3}) as client:
                told = await client.ask(stream=stream, request_id=kind)
                assert told.routed.fallback, told.error
                await client.close()
            assert stub.calls()[f"chosen-{kind}"].error == "timeout"

    async def test_a_config_that_the_sdk_does_not_take_is_the_arms_failure(
        self, client: Kit, stub: StubRouter, stream: bool
    ) -> None:
        stub.arms["chosen"] = (GOOD, {"temprature": 1})
        told = await client.ask(stream=stream)
        assert told.text.startswith(f"This is {OTHER}.")
        assert told.routed.fallback

    @pytest.mark.parametrize("control", ["", "chosen"], ids=["no control", "is the control"])
    async def test_without_another_arm_the_sdks_error_is_raised(
        self, client: Kit, stub: StubRouter, stream: bool, control: str
    ) -> None:
        stub.arms["chosen"] = ("loopback-529", {})
        stub.control = control
        told = await client.ask(stream=stream)
        assert isinstance(told.error, anthropic.APIStatusError if client.anthropic else openai.APIStatusError)
        assert told.error.status_code == 529
        await client.close()
        assert [
            (call.error, dict(reward.metadata)) for reward, call in zip(stub.rewards, stub.calls().values(), strict=True)
        ] == [("overloaded", {})]

    async def test_if_the_control_fails_too_its_error_is_raised(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms |= {"chosen": ("loopback-429", {}), "control": ("loopback-500", {})}
        told = await client.ask(stream=stream)
        assert told.error.status_code == 500
        await client.close()
        assert sorted(call.error for call in stub.calls().values()) == ["rate_limit", "server_error"]

    async def test_a_malformed_answer_is_an_error_of_the_sdk(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-no-answer", {})
        stub.control = ""
        told = await client.ask(stream=stream)
        assert isinstance(told.error, anthropic.APIError if client.anthropic else openai.APIError)

    async def test_a_control_that_the_caller_excludes_does_not_answer(
        self, client: Kit, stub: StubRouter, stream: bool
    ) -> None:
        stub.arms["chosen"] = ("loopback-500", {})
        told = await client.ask(stream=stream, eligible_arm_ids=["chosen"])
        assert told.error.status_code == 500

    async def test_a_forced_arm_has_no_stand_in(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-500", {})
        told = await client.ask(stream=stream, force_arm_id="chosen")
        assert told.error.status_code == 500
        assert len(stub.routed) == 1

    async def test_every_call_has_a_line_with_the_arm(
        self, client: Kit, stub: StubRouter, stream: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG, "router.llm"):
            await client.ask(stream=stream)
        (line,) = [record for record in caplog.records if record.getMessage() == "routed call"]
        assert (line.experiment_id, line.arm_id, line.call_error) == ("support", "chosen", "")


class TestStreams:
    @pytest.mark.parametrize(
        ("model", "kind"), [("loopback-cut-mid", "connection"), ("loopback-error-mid", None)], ids=["cut", "error"]
    )
    async def test_a_stream_that_breaks_off_is_reported_and_raised(
        self, client: Kit, stub: StubRouter, model: str, kind: str | None
    ) -> None:
        stub.arms["chosen"] = (model, {})
        told = await client.ask(stream=True)
        assert told.error is not None
        assert told.events > 0
        assert not told.routed.fallback
        await client.close()
        (call,) = stub.calls().values()
        # Anthropic's event names the error; OpenAI's is taken for the server's.
        assert call.error == kind or call.error == ("overloaded" if client.anthropic else "server_error")
        assert len(stub.routed) == 1

    @pytest.mark.parametrize("take", [0, 1, 3])
    async def test_closing_early_is_no_error(self, client: Kit, stub: StubRouter, take: int) -> None:
        told = await client.ask(stream=True, take=take)
        assert (told.error, told.events) == (None, take)
        await client.close()
        ((reward, call),) = zip(stub.rewards, stub.calls().values(), strict=True)
        assert call.error == ""
        assert dict(reward.metadata) == {"ended": "by the caller"}

    async def test_reading_to_the_end_and_closing_reports_once(self, client: Kit, stub: StubRouter) -> None:
        told = await client.ask(stream=True)
        closing = told.routed.close()
        if client.asynchronous:
            await closing
        await client.close()
        assert len(stub.rewards) == 1
        assert dict(stub.rewards[0].metadata) == {}

    async def test_a_stream_that_is_dropped_unread_is_reported(self, client: Kit, stub: StubRouter) -> None:
        told = await client.ask(stream=True, take=0)
        told.routed = None
        await client.close()
        assert [call.error for call in stub.calls().values()] == [""]

    async def test_usage_is_asked_for_and_kept_from_who_did_not(self, models: Loopback, stub: StubRouter) -> None:
        async with kit("openai-sync", models, stub.target) as client:
            await client.ask(stream=True)
            assert models.ledger.entries()[-1].body["stream_options"] == {"include_usage": True}
            chunks = list(
                client.create()(
                    experiment_id="support", messages=QUESTION, stream=True, stream_options={"include_usage": True}
                )
            )
            assert chunks[-1].usage.completion_tokens > 0
        async with kit("openai-sync", models, stub.target, stream_usage=False) as client:
            await client.ask(stream=True)
            assert "stream_options" not in models.ledger.entries()[-1].body

    async def test_a_cancelled_task_fails_nobody(self, models: Loopback, stub: StubRouter) -> None:
        stub.arms["chosen"] = ("loopback-slow", {})
        async with kit("anthropic-async", models, stub.target) as client:
            asking = asyncio.create_task(client.ask())
            await until(lambda: models.ledger.in_flight("loopback-slow"), "the call is under way")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await client.close()
        assert len(stub.routed) == 1
        assert [(call.error, call.HasField("output_tokens")) for call in stub.calls().values()] == [("", False)]


class TestWithoutARouter:
    async def test_the_fallback_arm_answers_and_nothing_is_told(self, models: Loopback, stub: StubRouter) -> None:
        arms = {"support": Arm("home", GOOD, {"max_tokens": 50})}
        for kind in KINDS:
            async with kit(kind, models, "127.0.0.1:1", fallback_arms=arms) as client:
                told = await client.ask()
                assert told.text.startswith(f"This is {GOOD}.")
                assert (told.routed.arm.arm_id, told.routed.decision.is_fallback) == ("home", True)
                await client.close()
                assert client.routed.stats().reports.sent == client.routed.stats().reports.dropped == 0

    async def test_without_one_the_routers_error_is_raised(self, models: Loopback) -> None:
        for kind in KINDS:
            async with kit(kind, models, "127.0.0.1:1") as client:
                assert isinstance((await client.ask()).error, Unavailable)


class TestReports:
    async def test_reports_wait_for_the_router_to_come_back(self, client: Kit, stub: StubRouter) -> None:
        # More than the client's own retries.
        stub.failing["BatchReward"] = [grpc.StatusCode.UNAVAILABLE] * 7
        await client.ask(request_id="r-1")
        await until(lambda: client.routed.stats().reports.sent == 1, "reported")
        assert list(stub.calls()) == ["chosen-r-1"]

    async def test_the_queue_is_bounded(self, models: Loopback, stub: StubRouter) -> None:
        stub.open.clear()
        for kind in KINDS:
            async with kit(kind, models, stub.target, report_queue=2) as client:
                for _ in range(5):
                    assert (await client.ask()).error is None
                assert client.routed.stats().reports.dropped == 3

    async def test_close_gives_up_at_its_deadline(self, client: Kit, stub: StubRouter) -> None:
        stub.open.clear()
        await client.ask()
        started = asyncio.get_running_loop().time()
        await client.close(0.3)
        assert asyncio.get_running_loop().time() - started < 5
        assert client.routed.stats().reports.dropped == 1

    async def test_after_close_calls_still_answer_and_are_counted_as_dropped(self, client: Kit, stub: StubRouter) -> None:
        await client.close()
        assert (await client.ask()).error is None
        assert client.routed.stats().reports.dropped == 1


class TestPassingThrough:
    async def test_what_is_not_routed_goes_to_the_sdk(self, client: Kit, models: Loopback) -> None:
        listing = client.routed.models.list()
        names = [model.id async for model in listing] if client.asynchronous else [model.id for model in listing]
        assert GOOD in names

    @pytest.mark.parametrize("name", ["stream", "parse", "with_raw_response"])
    async def test_ways_past_the_router_are_closed(self, client: Kit, name: str) -> None:
        target = client.routed.messages if client.anthropic else client.routed.chat.completions
        with pytest.raises(AttributeError, match="not routed"):
            getattr(target, name)
        with pytest.raises(AttributeError, match="not routed"):
            _ = client.routed.with_options

    def test_settings_are_checked(self) -> None:
        with pytest.raises(ValueError, match="shadow_queue must be positive, not 0"):
            settings_of({"shadow_queue": 0})
