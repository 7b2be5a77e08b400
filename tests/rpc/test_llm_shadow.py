"""Mirrored calls over real HTTP: what production gets never depends on them, and what is recorded is what was agreed."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import httpx2
import pytest
from dropins import EACH_KIND, QUESTION, Kit, Told, kit
from running import until
from stub_router import StubRouter, serve_stub

from router.llm import Price, model_of
from router.llm.loopback import Loopback, serve_loopback

GOOD, SHADOW, OTHER = "qwen2.5-7b-instruct", "mistral-7b-instruct-v0.3", "gemma-2-9b-it"
FAULTS = {
    "loopback-429": "rate_limit",
    "loopback-500": "server_error",
    "loopback-529": "overloaded",
    "loopback-cut-before": "connection",
    "loopback-cut-mid": "connection",
    "loopback-malformed": "malformed",
    "loopback-no-answer": "malformed",
    "no-such-model": "not_found",
    "loopback-slow": "timeout",
}

MakeKit = Callable[..., Any]


@pytest.fixture(scope="module")
def models() -> Iterator[Loopback]:
    with serve_loopback() as server:
        yield server


@pytest.fixture
def stub(models: Loopback) -> Iterator[StubRouter]:
    models.ledger.clear()
    with serve_stub() as stub:
        stub.arms = {"chosen": (GOOD, {}), "control": (OTHER, {}), "shadow": (SHADOW, {"max_tokens": 99})}
        stub.control = "control"
        stub.shadows = ["shadow"]
        yield stub


@pytest.fixture(params=EACH_KIND)
def make(request: pytest.FixtureRequest, models: Loopback, stub: StubRouter) -> MakeKit:
    """Make a drop-in client of each kind."""
    return lambda **options: kit(request.param, models, stub.target, **options)


@pytest.fixture
async def client(make: MakeKit) -> AsyncIterator[Kit]:
    async with make(prices={SHADOW: Price(2.0, 4.0)}, shadow_timeout_s=2.0) as made:
        yield made


async def recorded(client: Kit, stub: StubRouter, count: int = 1) -> list[Any]:
    """The records, once there are so many."""
    await until(lambda: len(stub.records) >= count, f"{count} records of {client.routed.stats()}")
    assert len(stub.records) == count
    return stub.records


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
class TestRecords:
    async def test_both_answers_are_recorded(self, client: Kit, models: Loopback, stub: StubRouter, stream: bool) -> None:
        told = await client.ask(stream=stream, request_id="r-1", temperature=0.5)
        assert told.text.startswith(f"This is {GOOD}.")
        (record,) = await recorded(client, stub)
        assert (record.decision_id, record.arm_id, record.request_id) == ("chosen-r-1", "shadow", "r-1")
        assert json.loads(record.prompt) == QUESTION
        assert record.serving.text == told.text
        assert record.shadow.text.startswith(f"This is {SHADOW}.")
        assert (record.serving.model, record.shadow.model) == (GOOD, SHADOW)
        assert {record.serving.stop_reason, record.shadow.stop_reason} == {"end_turn" if client.anthropic else "stop"}
        assert record.serving.provider_request_id.startswith("req_")
        assert record.shadow.provider_request_id.startswith("req_")
        written = record.shadow.call.output_tokens
        assert written == -(-len(record.shadow.text) // 4)
        assert record.shadow.call.cost_usd == pytest.approx((5 * 2.0 + written * 4.0) / 1e6)
        assert not record.serving.call.HasField("cost_usd")
        (mirrored,) = models.ledger.entries(SHADOW)
        limit = mirrored.body.get("max_tokens") or mirrored.body["max_completion_tokens"]
        assert (limit, mirrored.body["temperature"], mirrored.body.get("stream", False)) == (99, 0.5, False)

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_production_does_not_feel_a_failing_shadow(
        self, client: Kit, stub: StubRouter, stream: bool, fault: str
    ) -> None:
        stub.arms["shadow"] = (fault, {})
        started = time.perf_counter()
        told = await client.ask(stream=stream)
        assert time.perf_counter() - started < 1.5, "production waited for the shadow"
        assert (told.error, told.routed.fallback) == (None, False)
        assert told.text.startswith(f"This is {GOOD}.")
        (record,) = await recorded(client, stub)
        assert (record.shadow.call.error, record.shadow.text) == (FAULTS[fault], "")
        assert record.serving.text == told.text
        assert client.routed.stats().mirrors.failed == 1
        # The shadow's failure is no event of the decision.
        await client.close()
        assert [call.error for call in stub.calls().values()] == [""]

    async def test_shadows_are_asked_once(self, client: Kit, models: Loopback, stub: StubRouter, stream: bool) -> None:
        stub.arms["shadow"] = ("loopback-500", {})
        await client.ask(stream=stream)
        await recorded(client, stub)
        assert models.ledger.count("loopback-500") == 1

    async def test_a_failing_production_is_recorded_as_such(self, client: Kit, stub: StubRouter, stream: bool) -> None:
        stub.arms["chosen"] = ("loopback-529", {})
        told = await client.ask(stream=stream, request_id="r-1")
        # What the control said in its place belongs to another decision.
        assert told.text.startswith(f"This is {OTHER}.")
        (record,) = await recorded(client, stub)
        assert (record.decision_id, record.serving.call.error, record.serving.text) == ("chosen-r-1", "overloaded", "")
        assert record.shadow.text.startswith(f"This is {SHADOW}.")

    async def test_truncated_text_is_cut_before_it_is_sent(self, make: MakeKit, stub: StubRouter, stream: bool) -> None:
        stub.text, stub.limit = "TRUNCATED", 12
        async with make(redact=lambda text: text.replace("This", "[gone]")) as client:
            told = await client.ask(stream=stream)
            (record,) = await recorded(client, stub)
        # Cut after the redaction, not before.
        assert record.serving.text == told.text.replace("This", "[gone]")[:12] == "[gone] is qw"
        assert [len(record.prompt), len(record.serving.text), len(record.shadow.text)] == [12, 12, 12]

    @pytest.mark.parametrize("text", ["OFF", "UNSPECIFIED"])
    async def test_without_text_only_numbers_are_sent(
        self, make: MakeKit, stub: StubRouter, stream: bool, text: str
    ) -> None:
        stub.text = text
        seen: list[str] = []
        async with make(redact=lambda text: seen.append(text) or text) as client:
            await client.ask(stream=stream)
            (record,) = await recorded(client, stub)
        assert (record.prompt, record.serving.text, record.shadow.text) == ("", "", "")
        assert record.shadow.call.output_tokens > 0
        assert seen == []


class TestRedaction:
    async def test_everything_passes_through_it(self, make: MakeKit, stub: StubRouter) -> None:
        async with make(
            redact=lambda text: text.replace("sky", "[x]").replace(SHADOW, "[y]").replace(GOOD, "[z]")
        ) as client:
            await client.ask()
            (record,) = await recorded(client, stub)
        sent = (record.prompt, record.serving.text, record.shadow.text)
        assert not any(secret in text for secret in ("sky", SHADOW, GOOD) for text in sent)
        assert [mark in text for mark, text in zip(("[x]", "[z]", "[y]"), sent, strict=True)] == [True] * 3

    @pytest.mark.parametrize(
        "broken", [lambda text: 1 / 0, lambda text: None, lambda text: text.missing], ids=["raises", "none", "attribute"]
    )
    async def test_a_broken_one_records_no_text(self, make: MakeKit, stub: StubRouter, broken: Any) -> None:
        async with make(redact=broken) as client:
            told = await client.ask()
            assert told.error is None
            (record,) = await recorded(client, stub)
            assert client.routed.stats().records.unredacted == 1
        assert (record.prompt, record.serving.text, record.shadow.text) == ("", "", "")
        assert record.serving.call.output_tokens > 0


class TestIsolation:
    async def test_the_answer_comes_before_a_slow_shadow(self, client: Kit, models: Loopback, stub: StubRouter) -> None:
        stub.arms["shadow"] = (f"{SHADOW}@700ms", {})
        told = await client.ask()
        assert told.error is None
        await until(lambda: models.ledger.in_flight(f"{SHADOW}@700ms") == 1, "the shadow is still being asked")
        assert stub.records == []
        await recorded(client, stub)

    async def test_production_and_shadow_are_asked_at_the_same_time(
        self, client: Kit, models: Loopback, stub: StubRouter
    ) -> None:
        stub.arms |= {"chosen": (f"{GOOD}@400ms", {}), "shadow": (f"{SHADOW}@400ms", {})}
        asking = asyncio.create_task(client.ask())
        await until(lambda: models.ledger.in_flight() == 2, "both are under way")
        await asking

    async def test_concurrency_and_queue_are_bounded(self, make: MakeKit, models: Loopback, stub: StubRouter) -> None:
        slow = f"{SHADOW}@300ms"
        stub.arms["shadow"] = (slow, {})
        async with make(shadow_concurrency=2, shadow_queue=5) as client:
            told = await asyncio.gather(*(client.ask(request_id=f"r-{n}") for n in range(12)))
            assert [answer.error for answer in told] == [None] * 12
            await recorded(client, stub, 12 - client.routed.stats().mirrors.dropped)
            stats = client.routed.stats().mirrors
        assert models.ledger.peak(slow) <= 2
        assert stats.dropped >= 1
        assert (stats.asked, stats.failed) == (12 - stats.dropped, 0)

    @pytest.mark.parametrize("fault", ["loopback-429", "loopback-529"])
    async def test_a_shadow_that_asks_for_rest_gets_it(
        self, make: MakeKit, models: Loopback, stub: StubRouter, fault: str
    ) -> None:
        # The server says one second.
        stub.arms |= {"shadow": (fault, {}), "other": (SHADOW, {})}
        stub.shadows = ["shadow", "other"]
        async with make() as client:
            await client.ask()
            await recorded(client, stub, 2)
            for _ in range(3):
                await client.ask()
            # Other models go on.
            await until(lambda: len(stub.records) == 5, "recorded")
            assert models.ledger.count(fault) == 1
            assert client.routed.stats().mirrors.rested == 3

            async def asked_again() -> bool:
                # With a pause: mirrored calls are held back while the process is busy.
                await client.ask()
                await asyncio.sleep(0.1)
                return models.ledger.count(fault) == 2

            assert await until(asked_again, "the rest is over") < 5

    async def test_production_does_not_rest(self, client: Kit, models: Loopback, stub: StubRouter) -> None:
        stub.arms |= {"shadow": ("loopback-429", {}), "chosen": ("loopback-429", {})}
        for _ in range(3):
            assert (await client.ask()).routed.fallback
        await until(lambda: models.ledger.count("loopback-429") >= 4, "the shadow was asked too")

    async def test_later_changes_of_the_callers_lists_reach_no_shadow(
        self, make: MakeKit, models: Loopback, stub: StubRouter
    ) -> None:
        stub.arms["shadow"] = (f"{SHADOW}@50ms", {})
        async with make(shadow_concurrency=1) as client:
            messages = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
            await client.ask(messages=messages)
            await client.ask(messages=messages)
            messages[0]["content"][0]["text"] = "changed"
            messages.append({"role": "assistant", "content": "because"})
            await recorded(client, stub, 2)
        for entry in models.ledger.entries(f"{SHADOW}@50ms"):
            assert entry.body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]

    async def test_messages_may_be_an_iterator(self, client: Kit, models: Loopback, stub: StubRouter) -> None:
        stub.arms["chosen"] = ("loopback-500", {})
        told = await client.ask(messages=iter(QUESTION))
        assert told.text.startswith(f"This is {OTHER}.")
        await recorded(client, stub)
        assert {json.dumps(entry.body["messages"]) for entry in models.ledger.entries()} == {json.dumps(QUESTION)}
        assert models.ledger.count() == 3

    async def test_a_client_with_connections_of_the_callers_is_not_copied(
        self, make: MakeKit, models: Loopback, stub: StubRouter
    ) -> None:
        given: dict[str, Any] = {}
        async with make() as plain:
            given["http_client"] = httpx2.AsyncClient() if plain.asynchronous else httpx2.Client()
            async with make(sdk_options=given) as client:
                assert (await client.ask()).error is None
                assert client.routed.stats().mirrors.unaddressed == 1
            async with make(
                sdk_options=given | {"http_client": type(given["http_client"])()}, shadow_client=plain.sdk
            ) as client:
                assert (await client.ask()).error is None
                await recorded(client, stub)
        assert models.ledger.count(SHADOW) == 1


class TestRecording:
    async def test_a_record_waits_for_the_router_to_come_back(self, client: Kit, stub: StubRouter) -> None:
        # More than the client's own retries.
        stub.failing["RecordShadow"] = [grpc.StatusCode.UNAVAILABLE] * 6
        await client.ask()
        await recorded(client, stub)
        await until(lambda: client.routed.stats().records.recorded == 1, "counted")

    async def test_what_the_router_refuses_is_lost_and_counted(self, client: Kit, stub: StubRouter) -> None:
        stub.failing["RecordShadow"] = [grpc.StatusCode.INVALID_ARGUMENT]
        await client.ask()
        await until(lambda: client.routed.stats().records.lost == 1, "counted")
        assert stub.records == []

    async def test_the_same_request_again_is_the_same_record(self, client: Kit, stub: StubRouter) -> None:
        await client.ask(request_id="r-1")
        await client.ask(request_id="r-1")
        first, second = await recorded(client, stub, 2)
        assert (first.decision_id, first.arm_id) == (second.decision_id, second.arm_id)

    async def test_close_waits_for_what_is_under_way(self, client: Kit, models: Loopback, stub: StubRouter) -> None:
        stub.arms["shadow"] = (f"{SHADOW}@500ms", {})
        await client.ask()
        await client.close()
        assert len(stub.records) == 1
        assert models.ledger.in_flight() == 0

    async def test_close_cuts_off_at_its_deadline(self, make: MakeKit, models: Loopback, stub: StubRouter) -> None:
        stub.arms["shadow"] = ("loopback-slow", {})
        async with make(shadow_timeout_s=25.0) as client:
            await client.ask()
            await until(lambda: models.ledger.count("loopback-slow") == 1, "under way")
            started = time.perf_counter()
            await client.close(0.2)
            assert time.perf_counter() - started < 10
        assert stub.records == []

    async def test_an_early_closed_stream_is_recorded_with_what_was_read(self, client: Kit, stub: StubRouter) -> None:
        told = await client.ask(stream=True, take=4)
        (record,) = await recorded(client, stub)
        assert record.serving.text == told.text != ""
        assert record.serving.call.error == ""

    async def test_text_that_no_message_can_hold_is_mended(self, make: MakeKit, stub: StubRouter) -> None:
        async with make(redact=lambda text: "a\x00b\ud800c" + "x" * 1_000_001) as client:
            await client.ask()
            (record,) = await recorded(client, stub)
        assert record.shadow.text.startswith("ab?cx")
        assert len(record.shadow.text) == 1_000_000


class TestOtherProviders:
    @pytest.mark.parametrize("kind", EACH_KIND)
    async def test_a_shadow_arm_of_another_provider(self, kind: str, models: Loopback, stub: StubRouter) -> None:
        stub.arms["shadow"] = ("named-otherwise", {"temperature": 0.3})
        if kind.startswith("anthropic"):
            mirror = model_of(f"openai:{SHADOW}", models.openai_url, api_key="any")
            parameters: dict[str, Any] = {"system": [{"type": "text", "text": "Be brief."}]}
            head: list[Any] = []
        else:
            mirror = model_of(f"anthropic:{SHADOW}", models.anthropic_url, api_key="any")
            parameters = {}
            head = [{"role": "system", "content": "Be brief."}]
        async with kit(kind, models, stub.target, mirrors={"shadow": mirror}) as client:
            told: Told = await client.ask(
                messages=[*head, {"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "image_url"}]}],
                **parameters,
            )
            assert told.error is None
            (record,) = await recorded(client, stub)
        assert record.shadow.text.startswith(f"This is {SHADOW}.")
        (asked,) = models.ledger.entries(SHADOW)
        assert asked.path == ("/v1/chat/completions" if kind.startswith("anthropic") else "/v1/messages")
        texts = [message["content"] for message in asked.body["messages"] if message["role"] == "user"]
        assert texts == ["Why?\n[image_url]"]
        system = asked.body["messages"][0]["content"] if kind.startswith("anthropic") else asked.body["system"]
        assert (system, asked.body["temperature"]) == ("Be brief.", 0.3)

    async def test_a_model_that_rests_is_known_by_its_own_name(self, models: Loopback, stub: StubRouter) -> None:
        mirror = model_of("openai:loopback-429", models.openai_url, api_key="any")
        async with kit("anthropic-async", models, stub.target, mirrors={"shadow": mirror}) as client:
            for _ in range(3):
                await client.ask()
                await until(lambda: client.routed.stats().mirrors.failed == 1, "asked once")
            assert client.routed.stats().mirrors.rested == 2


async def test_a_busy_process_mirrors_nothing(make: MakeKit, stub: StubRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the interpreter, production's calls come first; once it is free again, so is mirroring."""
    async with make() as client:
        await client.ask(request_id="before")
        await recorded(client, stub)
        done = threading.Event()

        def spin() -> None:
            while not done.is_set():
                sum(range(1000))

        spinning = [threading.Thread(target=spin, daemon=True) for _ in range(6)]
        for thread in spinning:
            thread.start()
        try:
            with monkeypatch.context() as patched:
                patched.setattr("router.llm.mirrors._BUSY_S", 0.2)
                told = await client.ask(request_id="busy")
                assert told.text.startswith(f"This is {GOOD}.")
                await until(lambda: client.routed.stats().mirrors.busy == 1, "the mirrored call is given up")
        finally:
            done.set()
            for thread in spinning:
                thread.join()
        await client.ask(request_id="after")
        await recorded(client, stub, 2)
        assert [record.request_id for record in stub.records] == ["before", "after"]
