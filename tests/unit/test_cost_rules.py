"""What is refused of a definition that weighs cost, and what is not."""

import pytest
from google.protobuf.text_format import Parse

from router.experiment_rules import cross_field_problems
from router.v1.experiments_pb2 import Experiment

#: The dear arm is the control.
ARMS = (
    'experiment_id: "e" arms { arm_id: "dear" role: ROLE_CONTROL cost_usd: 0.015 }'
    ' arms { arm_id: "cheap" cost_usd: 0.00003 } arms { arm_id: "middle" cost_usd: 0.0006 } '
)
#: With the floor of 0.01: one share in a hundred of the dear arm and the middle one, the rest to the cheap one.
LEAST = 0.01 * 0.015 + 0.98 * 0.00003 + 0.01 * 0.0006


def problems(text: str) -> list[tuple[str, str]]:
    return [(problem.path, problem.message) for problem in cross_field_problems(Parse(text, Experiment()))]


def ceiling(usd: float, rest: str = "") -> str:
    return f"allocation {{ cost {{ ceiling_usd: {usd!r} }} {rest} }}"


@pytest.mark.parametrize(
    "text",
    [
        ARMS + ceiling(0.003),
        ARMS + ceiling(LEAST),
        ARMS + ceiling(0.00003, "floor: 0"),
        ARMS + "allocation { cost { reward_per_usd: 0 } }",
        # A shadow arm does not compete, and needs no cost for this.
        ARMS + 'arms { arm_id: "s" role: ROLE_SHADOW } shadow { text: TEXT_MODE_OFF } ' + ceiling(0.003),
        # In the ramp's first stages a decision costs more than the ceiling.
        ARMS + ceiling(0.0003) + ' ramp { challenger_arm_id: "cheap" }',
    ],
)
def test_what_is_accepted(text: str) -> None:
    assert problems(text) == []


def test_a_ceiling_below_what_floor_and_caps_cost_is_refused_with_the_numbers() -> None:
    ((path, message),) = problems(ARMS + ceiling(0.0001))
    assert path == "allocation.cost.ceiling_usd"
    assert f"at least {LEAST:.6g} USD, at the shares dear 0.01, cheap 0.98, middle 0.01" in message
    # The cheap arm may have .2, the middle one .3.
    capped = ARMS.replace("cost_usd: 0.00003", "cost_usd: 0.00003 cap: 0.2").replace(
        "cost_usd: 0.0006", "cost_usd: 0.0006 cap: 0.3"
    )
    ((_, message),) = problems(capped + ceiling(0.0076))
    assert "at least 0.007686 USD, at the shares dear 0.5, cheap 0.2, middle 0.3" in message
    assert problems(capped + ceiling(0.00769)) == []


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (ARMS + "allocation { kind: KIND_TOP_TWO cost { reward_per_usd: 1 } }", ["allocation.cost"]),
        (ARMS + 'arms { arm_id: "new" } ' + ceiling(1.0), ["arms[3].cost_usd"]),
        # What another rule names is not named twice.
        (ARMS + ceiling(0.00001, "floor: 0.3"), ["allocation.floor"]),
        (ARMS.replace("0.015", "nan") + ceiling(0.00001), []),
        (ARMS.replace("0.015", "-1") + ceiling(0.00001), []),
        (ARMS.replace("role: ROLE_CONTROL", "cap: nan") + ceiling(0.00001), []),
        (ARMS + ceiling(float("nan")), []),
    ],
)
def test_what_else_is_refused(text: str, paths: list[str]) -> None:
    assert [path for path, _ in problems(text)] == paths


def test_cost_is_weighed_for_a_bounded_number_of_arms() -> None:
    many = "".join(f'arms {{ arm_id: "a{i}" cost_usd: {i} }} ' for i in range(21))
    ((path, message),) = problems(f'experiment_id: "e" {many}' + ceiling(30.0))
    assert (path, message) == ("allocation.cost", "an allocation weighs the cost of at most 20 arms, and 21 compete")
    assert problems(f'experiment_id: "e" {many}'.replace('arms { arm_id: "a20" cost_usd: 20 } ', "") + ceiling(30.0)) == []
