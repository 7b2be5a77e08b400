"""What a replica knows only becomes newer, whatever order readings come in."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from router.known import Entry, Known, RoutedLately
from router.storage.policies import Digest


def entry(policy_version: int, definition_version: int, incarnation: int = 1) -> Entry:
    definition = SimpleNamespace(
        experiment_id=f"x-{incarnation}", incarnation=incarnation, definition_version=definition_version
    )
    return Entry(cast(Any, definition), cast(Any, SimpleNamespace(policy_version=policy_version)), None, 0.0)


@pytest.mark.parametrize(("older", "newer"), [((3, 1), (3, 2)), ((3, 1), (4, 1)), ((3, 1), (4, 2))])
def test_an_older_reading_never_takes_a_newer_ones_place(older: tuple[int, int], newer: tuple[int, int]) -> None:
    known = Known()
    assert known.put(entry(*older))
    assert known.put(entry(*newer))
    assert not known.put(entry(*older))
    assert known.by_id["x-1"] is known.of(1)
    assert known.digest == Digest(1, *newer)


def test_sums_are_of_all_that_is_known_and_tell_what_is_outdated() -> None:
    known = Known()
    for one in (entry(3, 1), entry(5, 2, incarnation=2), entry(4, 1)):
        known.put(one)
    assert known.digest == Digest(2, 9, 3)
    assert list(known.outdated({1: (4, 1), 2: (6, 2), 3: (1, 1)})) == [2, 3]


def test_what_nobody_routes_for_long_is_let_go() -> None:
    now = [0.0]
    routed = RoutedLately(lambda: now[0])
    routed.add(1)
    for later, kept in ((59.0, True), (61.0, True), (100.0, True), (122.0, False)):
        now[0] = later
        routed.forget()
        assert (1 in routed) is kept, later
