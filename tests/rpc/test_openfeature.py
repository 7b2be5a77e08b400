"""OpenFeature's SDK on a real router: what is decided, what is learned from tracked events, and outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus
from openfeature.track import TrackingEventDetails
from running import Router, StoppableCluster, arm, experiment, scalar, until

from router.client import AsyncRouterClient, RouterClient
from router.openfeature import BanditRouterProvider, TrackingStats

TWO = (arm("a", config={"max_tokens": 1024, "temperature": 0.5}), arm("b", config={"max_tokens": 1024, "temperature": 0.5}))


@pytest.fixture(autouse=True)
def _sdk() -> Iterator[None]:
    """The SDK's state is global."""
    yield
    api.shutdown()


@asynccontextmanager
async def flags_of(router: Router, **options: object) -> AsyncIterator[tuple[OpenFeatureClient, BanditRouterProvider]]:
    """The SDK's client of a provider of this router. What blocks must be called in a thread: the router is in this loop."""
    target = f"127.0.0.1:{router.server.port}"
    with RouterClient(target) as client:
        async with AsyncRouterClient(target) as aio:
            provider = BanditRouterProvider(client, aio=aio, **options)  # type: ignore[arg-type]
            await asyncio.to_thread(api.set_provider_and_wait, provider)
            yield api.get_client(), provider
            await asyncio.to_thread(api.shutdown)


async def test_evaluations_are_decisions(router: Router) -> None:
    await router.run(experiment(arms=TWO))
    async with flags_of(router) as (flags, _):
        assert flags.get_provider_status() is ProviderStatus.READY
        blocking = await asyncio.to_thread(
            flags.get_object_details, "support", {}, EvaluationContext("ann", {"session_id": "s-1", "turn_id": "1"})
        )
        asynchronous = await flags.get_string_details_async("support", "default", EvaluationContext("bob"))
        assert blocking.value == {
            "arm_id": blocking.variant,
            "model": f"model-{blocking.variant}",
            "config": {"max_tokens": 1024, "temperature": 0.5},
        }
        assert asynchronous.value == asynchronous.variant
        for found in (blocking, asynchronous):
            assert found.reason == Reason.SPLIT
            assert found.flag_metadata["propensity"] == pytest.approx(0.5, abs=1e-9)
            reply = await router.reward(str(found.flag_metadata["decision_id"]), 1.0)
            assert reply.arm_id == found.variant
        logged = (
            f"SELECT count(*) FROM decision_log WHERE unit_id = 'ann' AND arm_id = '{blocking.variant}' AND turn_id = '1'"
        )

        async def in_the_log() -> bool:
            return await scalar(router.url, logged) == 1

        await until(in_the_log, "the decision is logged with its context")


async def test_tracked_events_are_learned_from(router: Router) -> None:
    await router.run(experiment(arms=TWO))
    async with flags_of(router, events={"resolved": "task_completed", "stars": "reward"}) as (flags, provider):
        evidence = {"a": [0.0, 0.0], "b": [0.0, 0.0]}
        for n in range(12):
            user = EvaluationContext(f"user-{n}", {"session_id": f"s-{n}"})
            arm_id = await flags.get_string_value_async("support", "default", user)
            if n % 3 == 0:
                flags.track("resolved", user)
                evidence[arm_id][0] += 1
            elif n % 3 == 1:
                flags.track("stars", user, TrackingEventDetails(0.25))
                evidence[arm_id][0] += 0.25
                evidence[arm_id][1] += 0.75
            else:
                flags.track("session_abandoned", user)
                evidence[arm_id][1] += 1
        await until(lambda: provider.stats() == TrackingStats(sent=12), "all events are taken")
        arms = await router.arms()
        assert {arm_id: [found.alpha - 1, found.beta - 1] for arm_id, found in arms.items()} == evidence


async def test_a_late_event_finds_its_decision_by_id(router: Router) -> None:
    await router.run(experiment(arms=TWO))
    async with flags_of(router) as (flags, provider):
        ann = EvaluationContext("ann", {"eligible_arm_ids": ["a"]})
        first = await flags.get_string_details_async("support", "default", ann)
        await flags.get_string_details_async("support", "default", EvaluationContext("ann", {"eligible_arm_ids": ["b"]}))
        details = TrackingEventDetails(
            attributes={
                "decision_id": first.flag_metadata["decision_id"],
                "event_id": "ticket-7",
                "metadata": {"via": "mail"},
            }
        )
        flags.track("thumbs_up", ann, details)
        flags.track("thumbs_up", ann, details)
        await until(lambda: provider.stats() == TrackingStats(sent=2), "both are taken")
        assert {arm_id: found.n for arm_id, found in (await router.arms()).items()} == {"a": 1, "b": 0}
        stored = "SELECT count(*) FROM events WHERE event_id = 'ticket-7' AND details->'metadata'->>'via' = 'mail'"
        assert await scalar(router.url, stored) == 1


async def test_errors_have_openfeatures_codes(router: Router) -> None:
    await router.run(experiment(arms=TWO))
    await router.run(experiment("sticky", arms=TWO, assignment="STICKY_STORED"))
    await router.create(experiment("draft", arms=TWO))
    forced = EvaluationContext("ann", {"force_arm_id": "nobody"})
    ann, nobody = EvaluationContext("ann"), EvaluationContext()
    async with flags_of(router) as (flags, _):
        for flag_key, context, reason, code in (
            ("missing", ann, Reason.ERROR, ErrorCode.FLAG_NOT_FOUND),
            ("not an id", ann, Reason.ERROR, ErrorCode.FLAG_NOT_FOUND),
            ("sticky", nobody, Reason.ERROR, ErrorCode.TARGETING_KEY_MISSING),
            ("support", forced, Reason.ERROR, ErrorCode.INVALID_CONTEXT),
            ("support", EvaluationContext("a\x00b"), Reason.ERROR, ErrorCode.INVALID_CONTEXT),
            ("draft", ann, Reason.DISABLED, None),
            ("support", nobody, Reason.SPLIT, None),
            ("sticky", ann, Reason.SPLIT, None),
        ):
            found = await flags.get_string_details_async(flag_key, "default", context)
            assert (found.reason, found.error_code) == (reason, code), (flag_key, found)
            assert (found.value == "default") == (reason != Reason.SPLIT)


async def test_a_router_that_goes_away(router: Router) -> None:
    await router.run(experiment(arms=TWO))
    async with flags_of(router, flush=timedelta(milliseconds=100)) as (flags, provider):
        ann = EvaluationContext("ann")
        first = await flags.get_string_details_async("support", "default", ann)
        events: list[str] = []
        flags.add_handler(ProviderEvent.PROVIDER_ERROR, lambda details: events.append(details.message or ""))
        await router.close()
        found = await flags.get_string_details_async("support", "default", ann)
        assert (found.value, found.error_code) == ("default", ErrorCode.GENERAL)
        assert flags.get_provider_status() is ProviderStatus.ERROR
        await until(lambda: events, "the error is told")
        assert "UNAVAILABLE" in events[0]
        # Feedback is kept for as long, and the application does not notice.
        flags.track("thumbs_up", None, TrackingEventDetails(attributes={"decision_id": first.flag_metadata["decision_id"]}))
        assert provider.stats() == TrackingStats()


async def test_stale_policies_make_the_provider_stale(stoppable: StoppableCluster, stoppable_url: str, start_router) -> None:
    router = await start_router(stoppable_url)
    await router.run(experiment(arms=TWO))
    async with flags_of(router, stale_after=timedelta(milliseconds=1)) as (flags, _):
        ann = EvaluationContext("ann")

        async def status() -> ProviderStatus:
            details = await flags.get_string_details_async("support", "default", ann)
            assert details.reason == Reason.SPLIT
            return flags.get_provider_status()

        async def stale() -> bool:
            return await status() is ProviderStatus.STALE

        async def ready() -> bool:
            return await status() is ProviderStatus.READY

        assert await ready()
        await asyncio.to_thread(stoppable.stop)
        await until(stale, "the provider is stale")
        await asyncio.to_thread(stoppable.start)
        await until(ready, "the provider is ready again")
