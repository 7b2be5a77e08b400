"""Budgets of shadow traffic: when another call may be made, by what is known of the day."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from router.budgets import Budgets
from router.experiment import Definition, ShadowRule
from router.rules import rules_of

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp() * 1e6)
DAY_US = 86_400_000_000
TODAY = date(2026, 5, 1)


def definition(budget_usd: float | None = 2.0, state: str = "running") -> Definition:
    rules = replace(rules_of({}, {}, {}, ()), shadow=ShadowRule(0.1, budget_usd, "off", 500))
    return Definition(7, "x", "", state, "", (), {}, {}, {}, rules, 1, {}, None, NOON, NOON, 1)


@pytest.mark.parametrize(("spent", "permitted"), [(0.0, True), (1.999, True), (2.0, False), (5.0, False)])
def test_a_budget_permits_until_it_is_spent(spent: float, permitted: bool) -> None:
    budgets = Budgets(lambda: NOON_US)
    budgets.learn(TODAY, [7], {7: spent})
    assert budgets.permits(definition(), NOON_US) is permitted
    assert budgets.permits(definition(None), NOON_US)
    midnight_us = NOON_US + DAY_US // 2
    assert budgets.permits(definition(), midnight_us - 1) is permitted
    assert budgets.permits(definition(), midnight_us)


def test_what_was_never_read_is_not_spent_blindly() -> None:
    budgets = Budgets(lambda: NOON_US)
    assert not budgets.permits(definition(), NOON_US)
    assert budgets.permits(definition(None), NOON_US)
    budgets.learn(TODAY, [7], {})
    assert budgets.permits(definition(), NOON_US)


def test_a_reading_from_before_a_record_takes_nothing_back() -> None:
    budgets = Budgets(lambda: NOON_US)
    budgets.learn(TODAY, [7], {7: 2.5})
    budgets.learn(TODAY, [7], {7: 1.0})
    assert not budgets.permits(definition(), NOON_US)
    budgets.learn(date(2026, 5, 2), [7], {})
    budgets.learn(TODAY, [7], {7: 9.0})
    assert budgets.permits(definition(), NOON_US + DAY_US)


@pytest.mark.parametrize(
    ("state", "budget_usd", "read"),
    [("running", 1.0, True), ("shadow", 1.0, True), ("paused", 1.0, False), ("running", None, False)],
)
def test_only_budgets_of_what_serves_are_read(state: str, budget_usd: float | None, read: bool) -> None:
    budgets = Budgets(lambda: NOON_US)
    budgets.follow(definition())
    budgets.follow(definition(budget_usd, state))
    assert budgets.limited == ({7} if read else set())
    assert budgets.today() == TODAY
