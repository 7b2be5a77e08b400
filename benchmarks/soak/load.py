"""The load: threads that route and reward as clients do, with the client's own retries, and enter it all in a ledger.

Each thread has a connection of its own, which it makes anew now and then, so that calls spread over all workers even after
some were replaced. Of the events some are sent again, some come as batches, some map to no reward and some are late.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import grpc

from benchmarks.load import MeasurementError
from benchmarks.soak.ledger import Call, Ledger
from router.client import (
    CHANNEL_OPTIONS,
    CallReport,
    Decision,
    RewardEvent,
    RouterClient,
    RouteRequest,
    RouterError,
    Status,
)

_SIGNALS = ("task_completed", "task_completed", "thumbs_up", "thumbs_down", "rephrased_query", "follow_up_question")
#: A thread makes a new connection after this many steps.
_STEPS_A_CONNECTION = 100
_BATCH = 20


def connection(target: str) -> grpc.Channel:
    """A channel with a connection of its own: clients of one process would share one, and with it a worker."""
    return grpc.insecure_channel(target, options=(*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)))


class Load:
    """Runs for as long as the block does. Raises at its end what broke a thread."""

    def __init__(
        self, target: str, experiment_ids: Sequence[str], *, threads: int = 4, pause_s: float = 0.002, seed: int = 0
    ) -> None:
        """`pause_s`: what a thread waits after each step; it bounds the load."""
        self.ledger = Ledger()
        self._target = target
        self._experiment_ids = experiment_ids
        self._pause_s = pause_s
        self._seed = seed
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), name=f"load-{n}") for n in range(threads)]
        self._broken: list[BaseException] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; calls under way end first."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._broken:
            raise self._broken[0]

    def wait(self, condition: Callable[[Ledger], object], what: str, timeout_s: float = 30.0) -> None:
        """Wait until a condition holds. Raises MeasurementError if it does not in time."""
        give_up = time.monotonic() + timeout_s
        while not condition(self.ledger):
            if self._broken:
                raise self._broken[0]
            if time.monotonic() > give_up:
                raise MeasurementError(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.02)  # between two looks at a condition

    def wait_for_acknowledged(self, more: int) -> None:
        """Wait until this many more events are acknowledged."""
        goal = self.ledger.acknowledged + more
        self.wait(lambda ledger: ledger.acknowledged >= goal, f"{more} events are acknowledged")

    def _run(self, number: int) -> None:
        try:
            while not self._stop.is_set():
                with connection(self._target) as channel, RouterClient(channel=channel) as client:
                    caller = _Caller(
                        client, self.ledger, self._experiment_ids, f"{self._seed}-{number}-{time.monotonic_ns()}"
                    )
                    for _ in range(_STEPS_A_CONNECTION):
                        if self._stop.is_set():
                            return
                        caller.step()
                        time.sleep(self._pause_s)  # the load's own pace
        except BaseException as error:
            self._broken.append(error)


class _Caller:
    """What one connection is used for."""

    def __init__(self, client: RouterClient, ledger: Ledger, experiment_ids: Sequence[str], name: str) -> None:
        self._client = client
        self._ledger = ledger
        self._experiment_ids = experiment_ids
        self._name = name
        self._rng = random.Random(name)  # noqa: S311 - a load
        self._number = 0
        #: Told before: some of them are told again.
        self._told: deque[RewardEvent] = deque(maxlen=200)
        #: Not told anything about yet.
        self._untold: deque[Decision] = deque(maxlen=500)

    def step(self) -> None:
        """Decide and tell, once or as a batch."""
        self._number += 1
        if self._rng.random() < 0.03:
            self._batch()
            return
        decision = self._route()
        if decision is None:
            if not self._untold:
                return
            # Feedback goes on while nothing can be decided.
            decision = self._untold.popleft()
        elif self._rng.random() < 0.2:
            self._untold.append(decision)
            return
        self._reward(self._event(decision))
        if self._rng.random() < 0.1:
            # A measurement outranks the signal that was sent before: the outcome is corrected.
            self._reward(RewardEvent(decision, event_id=f"{self._number}m", reward=self._rng.randrange(1001) / 1000))
        if self._told and self._rng.random() < 0.15:
            self._reward(self._rng.choice(self._told))

    def _request(self, n: int = 0) -> RouteRequest:
        unit = f"user-{self._rng.randrange(2_000)}" if self._rng.random() < 0.5 else f"{self._name}-{self._number}-{n}"
        return RouteRequest(self._rng.choice(self._experiment_ids), unit_id=unit, session_id=self._name)

    def _event(self, decision: Decision, n: int = 0) -> RewardEvent:
        event_id = f"{self._number}-{n}"
        if self._rng.random() < 0.05:
            report = CallReport(latency=timedelta(milliseconds=420), input_tokens=100, output_tokens=50)
            return RewardEvent(decision, event_id=event_id, call=report, metadata={"region": "eu"})
        return RewardEvent(decision, event_id=event_id, signal=self._rng.choice(_SIGNALS))

    def _route(self) -> Decision | None:
        request = self._request()
        decision: Decision | None = self._called(
            "Route",
            lambda: self._client.route(request.experiment_id, unit_id=request.unit_id, session_id=request.session_id),
        )
        if decision is not None:
            self._ledger.routed([decision])
        return decision

    def _reward(self, event: RewardEvent) -> None:
        def send() -> Any:
            self._ledger.sending([event], lambda decision_id: self._ledger.decisions[decision_id][0])
            return self._client.reward(
                event.decision,
                event_id=event.event_id,
                signal=event.signal,
                reward=event.reward,
                call=event.call,
                metadata=event.metadata,
            )

        if self._called("Reward", send, [event]) is not None:
            self._told.append(event)

    def _batch(self) -> None:
        routed = self._called("BatchRoute", lambda: self._client.batch_route(self._request(n) for n in range(_BATCH)))
        decisions = [decision for decision in routed or () if isinstance(decision, Decision)]
        self._ledger.routed(decisions)
        events = [self._event(decision, n) for n, decision in enumerate(decisions)]
        if not events:
            return

        def send() -> Any:
            self._ledger.sending(events, lambda decision_id: self._ledger.decisions[decision_id][0])
            return self._client.batch_reward(events)

        self._called("BatchReward", send, events)

    def _called(self, method: str, send: Callable[[], Any], events: Sequence[RewardEvent] = ()) -> Any:
        """Call, and enter how it went; None if it failed."""
        began = time.monotonic()
        try:
            reply = send()
        except RouterError as error:
            self._ledger.called(Call(method, began, time.monotonic(), error.code.name, _seconds(error.retry_after)))
            return None
        ended = time.monotonic()
        parts = reply if isinstance(reply, list) else [reply]
        # An item that was refused is a call that failed, as its client sees it.
        for part in parts:
            if isinstance(part, RouterError):
                self._ledger.called(Call(method, began, ended, part.code.name, _seconds(part.retry_after)))
        statuses: tuple[Status, ...] = ()
        stale_s = 0.0
        if events:
            statuses = self._ledger.answered(events, parts)
        else:
            stale_s = max((p.stale_for.total_seconds() for p in parts if isinstance(p, Decision)), default=0.0)
        self._ledger.called(Call(method, began, ended, "", None, statuses, stale_s))
        return reply


def _seconds(delay: timedelta | None) -> float | None:
    return None if delay is None else delay.total_seconds()
