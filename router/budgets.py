"""Budgets of shadow traffic: what mirrored calls of each experiment cost today, as this replica knows it.

Route asks for each decision that it might mirror, and waits for nobody. What was spent is read with the policies, and once a
second; a replica that was never told what an experiment spent mirrors nothing of it, as long as it has a budget.
"""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import date

from router.experiment import Definition
from router.storage.times import DAY_US, day_of


def is_limited(definition: Definition) -> bool:
    """Whether the shadow calls of an experiment have a budget, and it may have any."""
    rule = definition.rules.shadow
    return rule is not None and rule.daily_budget_usd is not None and definition.serves


class Budgets:
    """What shadow calls cost, by experiment, for one process."""

    def __init__(self, clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        """`clock_us` gives microseconds since the epoch: it says which day it is, in UTC."""
        self._clock_us = clock_us
        #: By incarnation: a day, counted from 1970, and the US dollars spent on it.
        self._spent: dict[int, tuple[int, float]] = {}
        #: Incarnations of the experiments whose spend must be known.
        self.limited: set[int] = set()

    def today(self) -> date:
        """Return the day, in UTC."""
        return day_of(self._clock_us())

    def spent_usd(self, incarnation: int) -> float:
        """Return what an experiment spent today, as far as is known."""
        day, spent_usd = self._spent.get(incarnation, (0, 0.0))
        return spent_usd if day == self._clock_us() // DAY_US else 0.0

    def permits(self, definition: Definition, now_us: int) -> bool:
        """Return whether another decision of an experiment that mirrors may be mirrored now."""
        rule = definition.rules.shadow
        if rule is None or rule.daily_budget_usd is None:
            return rule is not None
        known = self._spent.get(definition.incarnation)
        if known is None:
            return False
        day, spent_usd = known
        return day < now_us // DAY_US or spent_usd < rule.daily_budget_usd

    def follow(self, definition: Definition) -> None:
        """Have the spend of an experiment read from now on, or no longer, as its definition says."""
        if is_limited(definition):
            self.limited.add(definition.incarnation)
        else:
            self.limited.discard(definition.incarnation)

    def learn(self, day: date, incarnations: Collection[int], spent_usd: Mapping[int, float]) -> None:
        """Take note of what these experiments spent on a day: nothing, where `spent_usd` has none of them."""
        number = (day - date(1970, 1, 1)).days
        for incarnation in incarnations:
            # Within a day it only grows: what was read before something was recorded here is older.
            news = (number, spent_usd.get(incarnation, 0.0))
            self._spent[incarnation] = max(news, self._spent.get(incarnation, news))
