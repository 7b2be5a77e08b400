"""Policies with segments: which posterior decides which request, by hand-computed parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decisions import policy as some_policy

from bandit.allocation import AllocationKind, AllocationRule, allocate
from bandit.discount import BUCKET_US
from bandit.reward import Evidence
from router.asked import choice_for
from router.discounting import Discount, Hours
from router.experiment import Definition, SegmentRule
from router.policy import Policy, compile_policy
from router.standing import standing_of
from router.v1 import routing_pb2

THOMPSON = AllocationRule(AllocationKind.THOMPSON, 0.01, (1.0, 1.0, 1.0))


def counted(successes: int, failures: int) -> Evidence:
    return Evidence(successes * 1_000_000, failures * 1_000_000, successes + failures)


#: Of arm 0 and 1: "br" is a name that the rules do not have.
BY_SEGMENT: Mapping[str, Mapping[int, Evidence]] = {
    "": {0: counted(10, 30), 1: counted(4, 0)},
    "de": {0: counted(8, 2), 1: counted(1, 5)},
    "br": {0: counted(20, 0)},
}


def definition(*names: str, weight: float = 0.2, largest: float = 50.0, **rules: Any) -> Definition:
    known = some_policy().definition
    segments = SegmentRule(names, weight, largest) if names else None
    return replace(known, rules=replace(known.rules, **{"allocation": THOMPSON, "segments": segments, **rules}))


def compiled(definition: Definition, by_segment: Mapping[str, Mapping[int, Evidence]] = BY_SEGMENT) -> Policy:
    total = {arm: sum((of[arm] for of in by_segment.values() if arm in of), Evidence()) for arm in range(3)}
    return compile_policy(definition, 5, total, by_segment=by_segment)


def asked(policy: Policy, segment: str, *eligible: str) -> Any:
    return choice_for(policy, routing_pb2.RouteRequest(experiment_id="x", segment=segment, eligible_arm_ids=eligible))


def test_a_segment_has_its_own_evidence_and_a_fifth_of_what_others_have() -> None:
    found = compiled(definition("de", "fr"))
    # Others of de, of arm 0: 30 successes and 30 failures, at 0.2 worth 12 outcomes; of arm 1 4 and 0.
    assert found.segments["de"].alpha == pytest.approx([1 + 6 + 8, 1 + 0.8 + 1, 1])
    assert found.segments["de"].beta == pytest.approx([1 + 6 + 2, 1 + 5, 1])
    # fr has none yet: all evidence is other traffic's.
    assert found.segments["fr"].alpha == pytest.approx([1 + 0.2 * 38, 1 + 0.2 * 5, 1])
    assert found.pooled.alpha.tolist() == [39.0, 6.0, 1.0]
    for name, part in found.segments.items():
        assert part.everyone is not None
        assert part.everyone.probabilities == pytest.approx(allocate(THOMPSON, part.alpha, part.beta)), name
        assert asked(found, name) is part.everyone


def test_what_is_borrowed_is_bounded_and_priors_are_of_the_arm() -> None:
    found = compiled(definition("de", weight=0.5, largest=3.0, priors={"arm-1": (2.0, 3.0)}))
    # Others of arm 0: 60 outcomes, half of them successes; of arm 1 4, of which half, 2, is less than 3.
    assert found.segments["de"].alpha == pytest.approx([1 + 1.5 + 8, 2 + 2 + 1, 1])
    assert found.segments["de"].beta == pytest.approx([1 + 1.5 + 2, 3 + 5, 1])


@pytest.mark.parametrize("segment", ["", "br", "unheard-of"])
def test_whatever_is_in_no_named_segment_is_decided_as_if_there_were_none(segment: str) -> None:
    plain, divided = compiled(definition()), compiled(definition("de", "fr"))
    for eligible in ((), ("arm-0", "arm-1")):
        choice, expected = asked(divided, segment, *eligible), asked(plain, "de", *eligible)
        assert choice.allocation_id == expected.allocation_id
        assert choice.in_reply == expected.in_reply


def test_subsets_are_of_their_segment() -> None:
    found = compiled(definition("de"))
    de, other = (asked(found, segment, "arm-1", "arm-0") for segment in ("de", ""))
    part = found.segments["de"]
    assert de.probabilities == pytest.approx(allocate(THOMPSON, part.alpha, part.beta, (0, 1)))
    assert other.probabilities == pytest.approx(allocate(THOMPSON, found.pooled.alpha, found.pooled.beta, (0, 1)))
    assert de.allocation_id != other.allocation_id
    assert asked(found, "de", "arm-0", "arm-1") is de
    assert asked(found, "fr", "arm-0", "arm-1") is other


def test_caps_and_floors_hold_in_every_segment() -> None:
    rule = replace(THOMPSON, floor=0.05, caps=(0.3, 1.0, 1.0), control=1)
    found = compiled(definition("de", "fr", allocation=rule))
    for name in ("de", "fr"):
        probabilities = asked(found, name).probabilities
        assert probabilities[0] == pytest.approx(0.3), "it would have nearly all"
        assert np.all(probabilities >= 0.05 - 1e-12)
        assert probabilities.sum() == pytest.approx(1.0)


def test_top_two_looks_at_the_segment_too() -> None:
    rule = replace(THOMPSON, kind=AllocationKind.TOP_TWO)
    found = compiled(definition("de", allocation=rule))
    part = found.segments["de"]
    assert asked(found, "de").probabilities == pytest.approx(allocate(rule, part.alpha, part.beta))


def test_a_control_that_answers_alone_does_so_in_every_segment() -> None:
    """As in state shadow: nothing looks at evidence."""
    alone = AllocationRule(AllocationKind.FIXED, 0.0, (1.0, 0.0, 0.0), 0, (1.0, 0.0, 0.0))
    found = compiled(definition("de", allocation=alone))
    assert found.segments == {}
    assert asked(found, "de").probabilities.tolist() == [1.0, 0.0, 0.0]


def test_evidence_that_was_read_without_segments_is_an_error() -> None:
    with pytest.raises(ValueError, match="read without its segments"):
        compile_policy(definition("de"), 5, {})


def test_discounted_evidence_is_discounted_in_every_segment() -> None:
    rules = definition("de", discount=Discount(half_life_us=BUCKET_US))
    hours = Hours(
        3 * BUCKET_US,
        {
            "": {0: ((BUCKET_US, counted(40, 20)),)},
            "de": {0: ((2 * BUCKET_US, counted(4, 2)), (3 * BUCKET_US, counted(1, 0)))},
        },
    )
    by_segment = {"": {0: counted(40, 20)}, "de": {0: counted(5, 2)}}
    found = compile_policy(rules, 5, {0: counted(45, 22)}, hours=hours, by_segment=by_segment)
    # Two hours ago a quarter, an hour ago a half; a fifth of the others' quarter.
    assert found.segments["de"].alpha[0] == pytest.approx(1 + 0.2 * 10 + 2 + 1)
    assert found.segments["de"].beta[0] == pytest.approx(1 + 0.2 * 5 + 1)
    assert found.pooled.alpha[0] == pytest.approx(1 + 10 + 2 + 1)
    standing = standing_of(rules, 5, by_segment, hours, "de")
    assert (standing.alpha[0], standing.evidence[0].n) == (found.segments["de"].alpha[0], 7)


def test_a_standing_is_what_decides() -> None:
    rules = definition("de", "fr")
    found = compiled(rules)
    for name in ("", "de", "fr"):
        standing = standing_of(rules, 5, BY_SEGMENT, segment=name)
        part = found.segments.get(name, found.pooled)
        assert standing.alpha.tolist() == part.alpha.tolist()
        assert standing.allocation.tolist() == part.everyone.probabilities.tolist()  # type: ignore[union-attr]
        assert [counted.n for counted in standing.evidence] == {"": [70, 10, 0], "de": [10, 6, 0], "fr": [0, 0, 0]}[name]
        assert standing.priors == ((1.0, 1.0),) * 3
