"""What all drop-in clients share: the parts behind them, what they count, and how they end."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypedDict

from router.client import AsyncRouterClient, RewardEvent, RewardResult, RouterClient, RouterError, ShadowRecord
from router.llm.arguments import listed
from router.llm.background import Background, in_thread
from router.llm.call_reports import Reports, ReportStats
from router.llm.dialect import Dialect
from router.llm.flow import AsyncSteps, Flow, Question, Steps, SyncSteps
from router.llm.mirrors import Mirrors, MirrorStats
from router.llm.models import Model, Price
from router.llm.recording import Recording, RecordStats, Redact

#: The arguments that go to the router; everything else goes to the SDK.
ROUTE_OPTIONS: Final = (
    "experiment_id",
    "unit_id",
    "session_id",
    "turn_id",
    "request_id",
    "segment",
    "eligible_arm_ids",
    "force_arm_id",
    "prompt_fingerprint",
    "prompt_similarity",
    "fallback",
)
_DEADLINE_S: Final = 10.0
#: Attributes of an SDK's client that make another client, which would not be routed.
_UNROUTED: Final = {"with_options": "change the client that this one was made of", "copy": "copy the client it was made of"}


@dataclass(frozen=True, slots=True)
class RoutedStats:
    """What a drop-in client did in the background since it was made."""

    reports: ReportStats
    mirrors: MirrorStats
    records: RecordStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a drop-in client works: the arguments of its constructor after the first two."""

    #: By model: what a call costs. An arm whose model is not here is reported without cost.
    prices: Mapping[str, Price] = field(default_factory=dict)
    #: By arm id: what asks a shadow arm that is not a model of this provider. Used, and closed, by the drop-in client alone.
    mirrors: Mapping[str, Model] = field(default_factory=dict)
    #: Applied to prompt and answers before they are recorded.
    redact: Redact | None = None
    #: A client for mirrored calls; needed where the first client has an http_client of its own.
    shadow_client: Any | None = None
    #: From a mirrored call's beginning to its answer.
    shadow_timeout_s: float = 60.0
    #: Mirrored calls at a time.
    shadow_concurrency: int = 32
    #: Mirrored calls that are under way or wait; more are dropped.
    shadow_queue: int = 256
    #: Reports that wait; more are dropped.
    report_queue: int = 10_000


class Options(TypedDict, total=False):
    """The options of a drop-in client's constructor; `Settings` says what they mean."""

    prices: Mapping[str, Price]
    mirrors: Mapping[str, Model]
    redact: Redact | None
    shadow_client: Any | None
    shadow_timeout_s: float
    shadow_concurrency: int
    shadow_queue: int
    report_queue: int


class _Parts:
    """The parts of one drop-in client."""

    def __init__(
        self, dialect: Dialect, client: Any, router: RouterClient | AsyncRouterClient, settings: Settings, steps: Steps
    ) -> None:
        #: What is not routed goes to it as ever.
        self.client = client
        self._background = Background("router-llm")
        self._reports = Reports(self._background, functools.partial(_batch_reward, router, steps), settings.report_queue)
        self._recording = Recording(dialect, functools.partial(_record, router, steps), settings.redact)
        self._mirrors = Mirrors(
            self._background,
            dialect,
            _shadow_client(dialect, client, settings),
            self._recording.record,
            models=settings.mirrors,
            prices=settings.prices,
            timeout_s=settings.shadow_timeout_s,
            concurrency=settings.shadow_concurrency,
            queue=settings.shadow_queue,
            asynchronous=isinstance(steps, AsyncSteps),
        )
        self.flow = Flow(dialect, client, steps, self._reports, self._mirrors, settings.prices)

    def __getattr__(self, name: str) -> Any:
        if name == "client":
            raise AttributeError(name)
        return passed_through(self.client, name, _UNROUTED)

    def stats(self) -> RoutedStats:
        """Return what was done in the background so far."""
        return RoutedStats(self._reports.stats(), self._mirrors.stats(), self._recording.stats())

    def _end(self, timeout_s: float) -> None:
        self._background.close(timeout_s, self._mirrors.close)
        self._reports.abandon()


class DropIn(_Parts):
    """A drop-in client for threads."""

    def __init__(self, dialect: Dialect, client: Any, router: RouterClient, settings: Settings) -> None:
        super().__init__(dialect, client, router, settings, SyncSteps(dialect, client, router))

    def close(self, timeout_s: float = _DEADLINE_S) -> None:
        """Finish what is under way in the background, for at most so long; the rest is dropped and counted.

        The two clients that it was made of stay open.
        """
        self._end(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncDropIn(_Parts):
    """A drop-in client for asyncio."""

    def __init__(self, dialect: Dialect, client: Any, router: AsyncRouterClient, settings: Settings) -> None:
        super().__init__(dialect, client, router, settings, AsyncSteps(dialect, client, router))

    async def close(self, timeout_s: float = _DEADLINE_S) -> None:
        """Finish what is under way in the background, as `DropIn.close`, in the event loop of the calls."""
        await in_thread(functools.partial(self._end, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def passed_through(target: Any, name: str, unrouted: Mapping[str, str]) -> Any:
    """Return an attribute of the SDK's object. Raises AttributeError for those that would call a model past the router."""
    if name in unrouted or name.startswith("_"):
        hint = unrouted.get(name, "")
        raise AttributeError(f"{name!r} is not routed{hint and ': ' + hint}")
    return getattr(target, name)


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Return the settings of a constructor's keywords. Raises ValueError, naming what is wrong with them."""
    settings = Settings(**options)
    for name in ("shadow_timeout_s", "shadow_concurrency", "shadow_queue", "report_queue"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must be positive, not {getattr(settings, name)!r}")
    return settings


def question_of(parameters: Mapping[str, Any]) -> Question:
    """Return what `create` was called with."""
    route = {name: parameters[name] for name in ROUTE_OPTIONS if parameters.get(name) is not None}
    rest = {name: value for name, value in parameters.items() if name not in ROUTE_OPTIONS and name != "stream"}
    return Question(route, listed(rest), stream=parameters.get("stream") is True)


def _shadow_client(dialect: Dialect, client: Any, settings: Settings) -> Callable[[], Any] | None:
    given = settings.shadow_client
    if given is not None:
        return lambda: given.with_options(max_retries=0, timeout=settings.shadow_timeout_s)
    return dialect.mirror_client(client, settings.shadow_timeout_s)


async def _batch_reward(router: Any, steps: Steps, events: Sequence[RewardEvent]) -> Sequence[RewardResult | RouterError]:
    results: Sequence[RewardResult | RouterError] = await _call(steps, functools.partial(router.batch_reward, events))
    return results


async def _record(router: Any, steps: Steps, record: ShadowRecord) -> None:
    call = functools.partial(
        router.record_shadow,
        record.decision,
        record.arm,
        serving=record.serving,
        shadow=record.shadow,
        prompt=record.prompt,
        request_id=record.request_id,
    )
    await _call(steps, call)


async def _call(steps: Steps, method: Callable[[], Any]) -> Any:
    """Call the router's client: in a thread where that blocks, and else in the event loop that its channel belongs to."""
    if not isinstance(steps, AsyncSteps):
        return await in_thread(method)
    loop = steps.loop
    if loop is None or loop.is_closed():
        raise RuntimeError("the event loop of the router's client is closed")

    async def awaited() -> Any:
        return await method()

    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(awaited(), loop))
