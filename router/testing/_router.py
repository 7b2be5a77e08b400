"""The fake as its users see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import grpc
import grpc.aio

from router.client import Arm, AsyncRouterClient, Decision, RouterClient
from router.testing._service import Service
from router.testing._values import FakeComparison, FakeExperiment, FakeReward
from router.testing._wire import AioChannel, Channel


class FakeRouter(RouterClient):
    """A router and a client of it in one; `aio` is an asyncio client of the same router.

    `experiments` has the arms by experiment id; other ids are not found, unless `arms` gives what every other
    experiment consists of, chosen by `choose` as in `FakeExperiment`. The same `seed` and requests give the same arms.
    `fallback_arms` are those of both clients.
    """

    def __init__(
        self,
        experiments: Mapping[str, FakeExperiment | Iterable[Arm | str]] | None = None,
        *,
        arms: Iterable[Arm | str] = (),
        choose: str | Sequence[str] | None = None,
        seed: int = 0,
        fallback_arms: Mapping[str, Arm | str] | None = None,
    ) -> None:
        #: By id; change an experiment, or add one, during a test.
        self.experiments = {
            experiment_id: given if isinstance(given, FakeExperiment) else FakeExperiment(given)
            for experiment_id, given in (experiments or {}).items()
        }
        everywhere = tuple(arms)
        if choose is not None and not everywhere:
            raise ValueError("choose goes with arms; for one of the experiments use FakeExperiment(arms, choose=...)")
        self._service = Service(self.experiments, lambda: FakeExperiment(everywhere, choose) if everywhere else None, seed)
        super().__init__(channel=cast(grpc.Channel, Channel(self._service.answer)), fallback_arms=fallback_arms)
        #: The same router for asyncio, with counts of its own in `stats()`.
        self.aio = AsyncRouterClient(
            channel=cast(grpc.aio.Channel, AioChannel(self._service.answer)), fallback_arms=fallback_arms
        )

    @property
    def unreachable(self) -> bool:
        """Whether every call fails as if no router answered; set it to test what happens then."""
        return self._service.unreachable

    @unreachable.setter
    def unreachable(self, value: bool) -> None:
        self._service.unreachable = value

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The router's decisions, oldest first; a repeated `request_id` makes none, nor does a fallback."""
        return self._service.decisions()

    @property
    def rewards(self) -> tuple[FakeReward, ...]:
        """The events the router took, oldest first, duplicates included."""
        return self._service.rewards()

    @property
    def comparisons(self) -> tuple[FakeComparison, ...]:
        """What was recorded of shadow arms, oldest first; a repeated record is not there twice."""
        return self._service.comparisons()
