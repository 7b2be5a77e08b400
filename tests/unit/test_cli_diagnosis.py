"""What `status` says of cost, feedback and drift: plain words, and nothing where there is nothing to say."""

import math

import pytest

from router.cli.diagnosis import cost_lines, drift_lines, feedback_lines
from router.v1 import experiments_pb2 as pb
from router.v1 import posteriors_pb2 as posteriors

NOON_US = 1_790_000_000_000_000 // 86_400_000_000 * 86_400_000_000 + 43_200_000_000


def said(lines) -> list[str]:
    return [line.plain for line in lines]


def cost(ceiling_usd: float | None = None, **reading: float) -> list[str]:
    experiment = pb.Experiment()
    if ceiling_usd is not None:
        experiment.allocation.cost.ceiling_usd = ceiling_usd
    return said(cost_lines(experiment, posteriors.GetPosteriorResponse(**reading)))


@pytest.mark.parametrize(
    ("ceiling", "price", "expected", "words"),
    [
        (None, None, 0.0123, ["cost: $0.0123 a decision in expectation"]),
        (None, 5.0, 0.0123, ["cost: $0.0123 a decision in expectation; a dollar is worth 5 of reward"]),
        (0.003, 0.0, 0.002, ["cost: $0.002 a decision in expectation; the ceiling is $0.003 and does not bind"]),
        (
            0.003,
            31.25,
            0.003,
            ["cost: $0.003 a decision in expectation; the ceiling is $0.003, so that a dollar is worth 31.25 of reward"],
        ),
        (
            0.003,
            math.inf,
            0.0025,
            ["cost: $0.0025 a decision in expectation; the ceiling is $0.003, so that cost alone decides"],
        ),
        (
            0.003,
            math.inf,
            0.014,
            [
                "cost: $0.014 a decision in expectation; the ceiling is $0.003, which floor, caps or the ramp's stage do not"
                " allow: traffic goes where it costs the least"
            ],
        ),
    ],
)
def test_cost(ceiling: float | None, price: float | None, expected: float, words: list[str]) -> None:
    prices = {} if price is None else {"reward_per_usd": price}
    assert cost(ceiling, expected_cost_usd=expected, **prices) == words


def test_costs_that_are_not_known_are_not_spoken_of() -> None:
    assert cost() == []


def arm(arm_id: str, version: int = 1, **diagnostics) -> posteriors.ArmPosterior:
    return posteriors.ArmPosterior(
        arm_id=arm_id, version=version, diagnostics=posteriors.ArmDiagnostics(**diagnostics) if diagnostics else None
    )


def test_feedback() -> None:
    rate = posteriors.Rate(count=744, value=0.6, lower=0.572, upper=0.627)
    arms = [
        arm("haiku", decisions=1_300, pending_decisions=20, silent_decisions=496, coverage=rate),
        arm("sonnet", 2, decisions=3, pending_decisions=2),
        arm("new"),
    ]
    assert said(feedback_lines(arms)) == [
        "feedback: haiku has 1,300 decisions, 20 pending; of those past the attribution window 60.0% with feedback"
        " (95 % interval 57.2% to 62.7%), 496 silent",
        "feedback: sonnet v2 has 3 decisions, 2 pending; none is past the attribution window yet",
    ]


def drifting(alarm: bool) -> posteriors.Drift:
    found = posteriors.Drift(alarm=alarm, log_e=8, before=0.8, after=0.2, outcomes_before=1_200, outcomes_after=80)
    found.since.FromMicroseconds(NOON_US)
    return found


def test_drift() -> None:
    arms = [arm("haiku", drift=drifting(True)), arm("sonnet", drift=drifting(False)), arm("new", decisions=0)]
    assert said(drift_lines(arms)) == [
        "drift: haiku has changed: its mean reward was 0.800 (1,200 outcomes) and is 0.200 since 2026-09-21 12:00Z or so"
        " (80 outcomes)"
    ]
    assert said(drift_lines(arms[1:])) == ["drift: no arm's mean reward has changed as far as the evidence says"]
    assert said(drift_lines(arms[2:])) == []
