"""Verdicts mean what they say: intervals cover, fair judges are left undecided, biased ones are found.

Claims
    net         in independent pairs the interval holds the true net with probability 0.95 or more (exact, by enumeration);
                in pairs of units that recur, of 30 units and more, with 0.93 or more
    conclusion  a judge without preference leaves the arms undecided in 95 % of runs or more, in either method
    position    a judge that does not look at positions is called biased in 5 % of runs or less, however unequal the arms
    users       the interval of the difference of rewards holds the true one with 0.93 or more

Test
    Counts of seeded runs against binomial bounds. A right program fails one of them with probability at most ALPHA; another
    seed is another draw.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from bandit.score_intervals import clustered_net, net_interval
from bandit.verdicts import Conclusion, Judgments, Verdict, position, report

#: Together they take minutes; unit tests have the same formulas against independent values.
pytestmark = pytest.mark.slow

ALPHA = 1e-4
A, B, TIE = int(Verdict.A), int(Verdict.B), int(Verdict.TIE)


def assert_at_most(count: int, runs: int, chance: float) -> None:
    """`count` of `runs` is no more than chance explains."""
    most = int(binom.isf(ALPHA, runs, chance))
    assert count <= most, f"{count} of {runs}, at most {most} with a chance of {chance}"


def run_of(
    rng: np.random.Generator, pairs: int, both: bool, chance_arm: float, chance_other: float, first: float = 0.0
) -> Judgments:
    """Judgments of a noisy judge: each is for the arm or the other with these chances, and for the first with `first`."""
    pair = np.repeat(np.arange(pairs), 2) if both else np.arange(pairs)
    arm_first = np.tile([True, False], pairs) if both else rng.random(pairs) < 0.5
    u = rng.random(pair.size)
    prefers_arm, prefers_other = u < chance_arm, (u >= chance_arm) & (u < chance_arm + chance_other)
    verdict = np.where(prefers_arm == prefers_other, TIE, np.where(prefers_arm == arm_first, A, B))
    verdict = np.where(rng.random(pair.size) < first, A, verdict)
    return Judgments(pair, arm_first, np.zeros(pair.size, dtype=bool), verdict, np.arange(pairs), np.full(pairs, np.nan))


@pytest.mark.parametrize(("win", "loss"), [(0.3, 0.3), (0.5, 0.2), (0.05, 0.05), (0.9, 0.05), (0.02, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("n", [12, 40])
def test_net_covers_by_enumeration(win: float, loss: float, n: int) -> None:
    outcomes = [(won, lost, n - won - lost) for won in range(n + 1) for lost in range(n + 1 - won)]
    chances = multinomial.pmf(outcomes, n, [win, loss, 1 - win - loss])
    covered = 0.0
    for (won, lost, _), chance in zip(outcomes, chances, strict=True):
        if chance > 1e-9:
            lower, upper = net_interval(won, lost, n)
            covered += chance * (lower <= win - loss <= upper)
    assert covered >= 0.95 - 1e-6


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("units", [30, 100])
def test_net_covers_in_units_that_recur(units: int, spread: float) -> None:
    """Units have a taste of their own: at spread 1 all pairs of a unit agree."""
    rng, runs, missed = np.random.default_rng(11), 1_500, 0
    for _ in range(runs):
        sizes = rng.integers(1, 6, units)
        unit = np.repeat(np.arange(units), sizes)
        taste = rng.choice([1, 0, -1], units, p=[0.4, 0.35, 0.25])[unit]
        own = rng.choice([1, 0, -1], unit.size, p=[0.4, 0.35, 0.25])
        found = clustered_net(np.where(rng.random(unit.size) < spread, taste, own), unit)
        missed += not found.lower <= 0.15 <= found.upper
    assert_at_most(missed, runs, 0.07)


@pytest.mark.slow
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("decided", "pairs"), [(1.0, 60), (0.4, 200), (0.1, 500)])
def test_a_fair_noisy_judge_leaves_equal_arms_undecided(both: bool, decided: float, pairs: int) -> None:
    rng, runs = np.random.default_rng(12), 1_000
    found = [report(run_of(rng, pairs, both, decided / 2, decided / 2)) for _ in range(runs)]
    assert {one.conclusion for one in found} <= {Conclusion.ARM, Conclusion.OTHER, Conclusion.UNDECIDED}
    assert_at_most(sum(one.conclusion is not Conclusion.UNDECIDED for one in found), runs, 0.05)


def test_a_judge_of_some_skill_finds_the_better_arm() -> None:
    """It is right in 65 of 100 judgments: 300 pairs in both orders are enough in nearly every run."""
    rng = np.random.default_rng(13)
    found = [report(run_of(rng, 300, True, 0.65, 0.25)) for _ in range(200)]
    assert sum(one.conclusion is Conclusion.ARM for one in found) >= 198


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("arm", "other"), [(0.5, 0.5), (0.9, 0.1), (0.98, 0.0), (0.2, 0.1)])
def test_a_judge_that_looks_at_answers_alone_is_not_called_biased(both: bool, arm: float, other: float) -> None:
    rng, runs = np.random.default_rng(14), 1_500
    found = [position(run_of(rng, 100, both, arm, other)) for _ in range(runs)]
    assert_at_most(sum(biased for _, biased in found), runs, 0.05)
    missed = sum(not first.lower <= 0.5 <= first.upper for first, _ in found)
    assert_at_most(missed, runs, 0.05)


@pytest.mark.parametrize("both", [True, False])
def test_a_biased_judge_is_found_and_a_position_is_unusable(both: bool) -> None:
    rng = np.random.default_rng(15)
    leaning = [report(run_of(rng, 300, both, 0.5, 0.5, first=0.3)) for _ in range(200)]
    assert sum(one.position_biased for one in leaning) >= 190
    assert sum(one.conclusion is Conclusion.UNUSABLE for one in leaning) <= 2, "biased, but not the position's alone"
    blind = [report(run_of(rng, 300, both, 0.7, 0.3, first=0.9)) for _ in range(100)]
    assert all(one.conclusion is Conclusion.UNUSABLE for one in blind)


@pytest.mark.slow
def test_agreement_with_users_covers() -> None:
    """Served answers that the judge prefers are rewarded with 0.7, those that it rejects with 0.4; units share luck."""
    rng, runs, missed = np.random.default_rng(16), 1_000, 0
    for _ in range(runs):
        judgments = run_of(rng, 160, False, 0.5, 0.5)
        for_first, arm_first = judgments.verdict == A, judgments.arm_first
        preferred = for_first != arm_first
        luck = rng.random(80).repeat(2)
        draw = np.where(rng.random(160) < 0.5, luck, rng.random(160))
        reward = (draw < np.where(preferred, 0.7, 0.4)).astype(float)
        clustered = Judgments(
            judgments.pair, arm_first, judgments.repeat, judgments.verdict, np.arange(80).repeat(2), reward
        )
        found = report(clustered).user_agreement
        assert found is not None
        missed += not found.lower <= 0.3 <= found.upper
    assert_at_most(missed, runs, 0.07)
