"""The drop-in clients on a real router: what is learned from a fallback, and where mirrored calls end up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from dropins import KINDS, QUESTION, kit
from running import Router, arm, experiment, until, until_scalar

from router.client import Status
from router.llm.loopback import Loopback, serve_loopback
from router.v1 import experiments_pb2 as pb
from router.v1 import shadow_pb2, shadow_pb2_grpc

GOOD, SHADOW = "qwen2.5-7b-instruct", "mistral-7b-instruct-v0.3"
BROKEN = "loopback-529"


@pytest.fixture(scope="module")
def models() -> Iterator[Loopback]:
    with serve_loopback() as server:
        yield server


def target(router: Router) -> str:
    return f"127.0.0.1:{router.server.port}"


def mirroring(serving: str = GOOD, text: str = "FULL") -> pb.Experiment:
    """The control "home", a challenger "away" with this model, and the shadow arm "beside"."""
    arms = (
        arm("home", role="ROLE_CONTROL", model=GOOD, config={"max_tokens": 100}),
        arm("away", model=serving, config={"max_tokens": 100}),
        arm("beside", role="ROLE_SHADOW", model=SHADOW, config={"max_tokens": 100}),
    )
    definition = experiment(arms=arms)
    definition.shadow.CopyFrom(pb.ShadowRule(rate=1.0, text=f"TEXT_MODE_{text}"))
    return definition


async def comparisons(router: Router) -> list[Any]:
    stub = shadow_pb2_grpc.ShadowServiceStub(router.channel)
    return list((await stub.ListComparisons(shadow_pb2.ListComparisonsRequest(experiment_id="support"))).comparisons)


@pytest.mark.parametrize("kind", KINDS)
async def test_feedback_on_a_fallback_credits_nobody(kind: str, router: Router, models: Loopback) -> None:
    await router.run(experiment(arms=(arm("home", role="ROLE_CONTROL", model=GOOD), arm("away", model=BROKEN))))
    async with kit(kind, models, target(router)) as client:
        fallbacks = 0
        while fallbacks < 3:
            told = await client.ask()
            assert told.error is None
            if not told.routed.fallback:
                continue
            fallbacks += 1
            before = {arm_id: (arm.alpha, arm.beta) for arm_id, arm in (await router.arms()).items()}
            assert (told.routed.arm.arm_id, told.routed.failed.arm.arm_id) == ("home", "away")
            event = {"event_id": f"thumbs-{fallbacks}", "signal": "thumbs_up"}
            if client.asynchronous:
                result = await client.router.reward(told.routed.decision, **event)
            else:
                result = await asyncio.to_thread(client.router.reward, told.routed.decision, **event)
            assert result.status in (Status.NEUTRAL, Status.APPLIED)
            assert {arm_id: (arm.alpha, arm.beta) for arm_id, arm in (await router.arms()).items()} == before
        await client.close()
        reports = client.routed.stats().reports
        assert (reports.dropped, reports.sent >= 2 * fallbacks) == (0, True)
    # The failure is the arm's in the numbers that guardrails read.
    await until_scalar(router.url, "SELECT count(*) FROM events WHERE details->>'error' = 'overloaded'", fallbacks)
    await until_scalar(
        router.url, "SELECT count(*) FROM events WHERE details->'metadata'->>'fallback_arm_id' = 'home'", fallbacks
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_mirrored_calls_are_kept_once(kind: str, stream: bool, router: Router, models: Loopback) -> None:
    await router.run(mirroring())
    async with kit(kind, models, target(router)) as client:
        told = await client.ask(stream=stream, request_id="r-1")
        again = await client.ask(stream=stream, request_id="r-1")
        assert told.routed.decision.decision_id == again.routed.decision.decision_id
        await client.close()
        assert client.routed.stats().records.recorded == 2
    (kept,) = await comparisons(router)
    assert (kept.shadow_arm_id, kept.request_id) == ("beside", "r-1")
    assert json.loads(kept.prompt) == QUESTION
    assert kept.serving.text == told.text
    assert kept.shadow.text.startswith(f"This is {SHADOW}.")


async def test_without_text_none_reaches_the_router(router: Router, models: Loopback) -> None:
    await router.run(mirroring(text="OFF"))
    async with kit("anthropic-async", models, target(router)) as client:
        await client.ask()
        await until(lambda: client.routed.stats().records.recorded == 1, "recorded")
    (kept,) = await comparisons(router)
    assert (kept.prompt, kept.serving.text, kept.shadow.text) == ("", "", "")
    assert kept.shadow.call.output_tokens > 0


async def test_a_failed_arm_is_compared_as_failed(router: Router, models: Loopback) -> None:
    await router.run(mirroring(serving=BROKEN))
    async with kit("openai-async", models, target(router)) as client:
        told = await client.ask()
        while not told.routed.fallback:
            told = await client.ask()
        await client.close()
    kept = [one for one in await comparisons(router) if one.serving_arm_id == "away"]
    assert [one.serving.call.error for one in kept] == ["overloaded"]
    assert kept[0].shadow.text.startswith(f"This is {SHADOW}.")
