"""Verdicts against tables made by hand, and their intervals against other methods and published examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as student

from bandit.score_intervals import clustered_net, clustered_rate, difference, exact_rate, net_interval
from bandit.verdicts import Conclusion, Flaw, Judgments, Verdict, combine, position, report, verdict_prior

A, B, TIE, INVALID, PENDING = Verdict.A, Verdict.B, Verdict.TIE, Verdict.INVALID, Verdict.PENDING
NAN = math.nan


def judgments(
    rows: Sequence[tuple[int, bool, bool, Verdict]], unit: Sequence[int] | None = None, reward: Sequence[float] | None = None
) -> Judgments:
    """(pair, arm first, repeat, verdict) each; every pair is a unit of its own unless told otherwise."""
    pairs = 1 + max(row[0] for row in rows)
    pair, first, repeat, verdict = zip(*rows, strict=True)
    return Judgments(
        np.array(pair),
        np.array(first),
        np.array(repeat),
        np.array([int(v) for v in verdict]),
        np.array(unit if unit is not None else range(pairs)),
        np.array(reward if reward is not None else [NAN] * pairs),
    )


def both(*said: tuple[Verdict, Verdict], **fields: Sequence[float]) -> Judgments:
    """Pairs judged with the arm first, then second."""
    rows = [(i, first, False, v) for i, pair in enumerate(said) for first, v in zip((True, False), pair, strict=True)]
    return judgments(rows, **fields)  # type: ignore[arg-type]


def once(*said: Verdict, arm_first: Sequence[bool] | None = None, **fields: Sequence[float]) -> Judgments:
    """Pairs judged once, the arm first in every other one unless told otherwise."""
    orders = arm_first if arm_first is not None else [i % 2 == 0 for i in range(len(said))]
    return judgments([(i, orders[i], False, v) for i, v in enumerate(said)], **fields)  # type: ignore[arg-type]


# Pairs

#: What is said with the arm first, then with the arm second; 1: the arm wins, -1: the other, None: invalid, "": pending.
COMBINATIONS = {
    (A, A): 0,
    (A, B): 1,
    (A, TIE): 0,
    (B, A): -1,
    (B, B): 0,
    (B, TIE): 0,
    (TIE, A): 0,
    (TIE, B): 0,
    (TIE, TIE): 0,
    **{(INVALID, v): None for v in (A, B, TIE, INVALID)},
    **{(v, INVALID): None for v in (A, B, TIE)},
    **{(PENDING, v): "" for v in Verdict},
    **{(v, PENDING): "" for v in Verdict},
}


@pytest.mark.parametrize(("said", "expected"), COMBINATIONS.items())
def test_both_orders_combined(said: tuple[Verdict, Verdict], expected: int | str | None) -> None:
    pairs = combine(both(said))
    assert (pairs.invalid[0], pairs.pending[0], pairs.valid[0]) == (
        expected is None,
        expected == "",
        isinstance(expected, int),
    )
    assert pairs.preference[0] == (expected if isinstance(expected, int) else 0)


@pytest.mark.parametrize(("arm_first", "said", "expected"), [(True, A, 1), (True, B, -1), (False, A, -1), (False, B, 1)])
def test_one_order_is_the_verdict(arm_first: bool, said: Verdict, expected: int) -> None:
    assert combine(once(said, arm_first=[arm_first])).preference.tolist() == [expected]


def test_repeats_are_no_part_of_the_verdict() -> None:
    found = judgments([(0, True, False, A), (0, False, False, B), (0, True, True, INVALID)])
    assert combine(found).preference.tolist() == [1]
    waiting = judgments([(0, True, False, A), (0, False, False, B), (0, True, True, PENDING)])
    assert combine(waiting).valid.tolist() == [True]


def test_pairs_may_come_in_any_order() -> None:
    rows = [(0, True, False, A), (1, False, False, A), (0, False, False, B), (1, True, False, B)]
    assert combine(judgments(rows)).preference.tolist() == combine(judgments(rows[::-1])).preference.tolist() == [1, -1]


# A report by hand


def test_a_table_made_by_hand() -> None:
    """10 arm, 20 other, 6 ties (4 by the first place, 1 by the second, 1 by agreement), 2 invalid, 1 pending."""
    said = [(A, B)] * 10 + [(B, A)] * 20 + [(A, A)] * 4 + [(B, B)] + [(TIE, TIE)] + [(A, INVALID)] * 2 + [(A, PENDING)]
    # Served answers that won: 12 of 15 rewarded; that lost: 2 of 8. Ties and invalid pairs say nothing.
    reward = [*[1.0] * 2, *[0.0] * 6, NAN, NAN, *[1.0] * 12, *[0.0] * 3, *[NAN] * 5, *[1.0] * 9]
    found = report(both(*said, reward=reward))
    assert (found.judged_pairs, found.invalid_pairs, found.pending_pairs) == (36, 2, 1)
    for estimate, wins in ((found.arm_wins, 10), (found.other_wins, 20), (found.ties, 6)):
        assert (estimate.value, estimate.n) == (pytest.approx(wins / 36), 36)
        interval = binomtest(wins, 36).proportion_ci(method="wilson")
        assert (estimate.lower, estimate.upper) == pytest.approx((interval.low, interval.high))
    assert found.net.value == pytest.approx(-10 / 36)
    # Not decided: McNemar's corrected statistic is (10 - 1)^2 / 30 = 2.7, below 3.84.
    assert found.net.upper > 0
    assert (found.conclusion, found.flaws) == (Conclusion.UNDECIDED, ())
    # First place: once in each of 30 consistent pairs, 8 times in 4 pairs, and 3 times in pairs with a missing half.
    assert (found.first_wins.n, found.first_wins.value) == (73, pytest.approx((30 + 8 + 3) / 73))
    assert not found.position_biased, "7 pairs for the first place, 1 for the second: p = 18 / 256"
    assert found.order_agreement is not None
    assert (found.order_agreement.value, found.order_agreement.n) == (pytest.approx(31 / 36), 36)
    assert found.self_agreement is None
    assert found.user_agreement is not None
    assert (found.user_agreement.value, found.user_agreement.n) == (pytest.approx(12 / 15 - 2 / 8), 23)


def test_one_more_for_the_first_place_is_a_bias() -> None:
    """8 pairs against 1: p = 20 / 512, below 5 %."""
    assert not position(both(*[(A, A)] * 7, (B, B)))[1]
    assert position(both(*[(A, A)] * 8, (B, B)))[1]
    assert position(both(*[(B, B)] * 8, (A, A)))[1]


def test_repeats_that_agree() -> None:
    rows = [(i, True, False, A) for i in range(6)] + [(i, False, False, B) for i in range(6)]
    rows += [(0, True, True, A), (1, True, True, TIE), (2, False, True, B), (3, False, True, TIE)]
    rows += [(4, True, True, INVALID), (5, True, True, PENDING)]
    found = report(judgments(rows))
    assert (found.first_wins.value, found.first_wins.n) == (0.5, 12), "repeats would count an order twice"
    agreement = found.self_agreement
    assert agreement is not None
    assert (agreement.value, agreement.n) == (0.5, 4)


def test_random_order_has_an_exact_position() -> None:
    found = report(once(*[A] * 60, *[B] * 39, TIE))
    interval = binomtest(60, 99).proportion_ci(method="exact")
    assert (found.first_wins.lower, found.first_wins.upper) == pytest.approx((interval.low, interval.high))
    assert found.position_biased == (binomtest(60, 99).pvalue < 0.05)
    assert found.order_agreement is None


# Judges that are not to be trusted


def test_a_judge_that_always_says_a_is_exposed() -> None:
    twice = report(both(*[(A, A)] * 40))
    assert (twice.ties.value, twice.net.value, twice.order_agreement and twice.order_agreement.value) == (1.0, 0.0, 0.0)
    assert (twice.conclusion, twice.flaws) == (Conclusion.UNUSABLE, (Flaw.POSITION,))
    assert (twice.first_wins.value, twice.position_biased) == (1.0, True)
    rng = np.random.default_rng(1)
    randomly = report(once(*[A] * 40, arm_first=rng.random(40) < 0.5))
    assert (randomly.conclusion, randomly.flaws) == (Conclusion.UNUSABLE, (Flaw.POSITION,))
    assert randomly.first_wins.value == 1.0
    always_b = report(both(*[(B, B)] * 40))
    assert (always_b.first_wins.value, always_b.flaws) == (0.0, (Flaw.POSITION,))


def test_a_judge_that_prefers_one_arm_is_not_taken_for_biased() -> None:
    for found in (report(both(*[(A, B)] * 40)), report(once(*[A, B] * 20))):
        assert (found.conclusion, found.first_wins.value, found.position_biased) == (Conclusion.ARM, 0.5, False)
        assert found.arm_wins.upper == 1.0
        assert 0.75 < found.net.lower < 1.0, "40 of 40 are not certainty"
    assert report(both(*[(B, A)] * 40)).conclusion is Conclusion.OTHER


@pytest.mark.parametrize(("pairs", "invalid", "flaws"), [(29, 0, {Flaw.TOO_FEW_PAIRS}), (30, 0, set())])
def test_too_few_pairs(pairs: int, invalid: int, flaws: set[Flaw]) -> None:
    assert set(report(both(*[(A, B)] * pairs)).flaws) == flaws


def test_too_many_invalid_pairs() -> None:
    assert report(both(*[(A, B)] * 90, *[(INVALID, A)] * 10)).flaws == ()
    assert report(both(*[(A, B)] * 90, *[(INVALID, A)] * 11)).flaws == (Flaw.TOO_MANY_INVALID,)
    nothing = report(both(*[(INVALID, INVALID)] * 5))
    assert nothing.flaws == (Flaw.TOO_FEW_PAIRS, Flaw.TOO_MANY_INVALID)
    assert (nothing.net.value, nothing.net.lower, nothing.net.upper) == (None, -1.0, 1.0)
    assert (nothing.first_wins.value, nothing.user_agreement) == (None, None)


def test_what_does_not_fit_is_refused() -> None:
    fine = both((A, B))
    for fields in ({"pair": np.array([0, 1])}, {"verdict": np.array([1, 5])}, {"verdict": np.array([1])}):
        values = {
            name: getattr(fine, name) for name in ("pair", "arm_first", "repeat", "verdict", "unit", "reward")
        } | fields
        with pytest.raises(ValueError, match=next(iter(fields))):
            Judgments(**values)


# Intervals


def score_by_search(won: int, lost: int, n: int, net: float) -> float:
    """(won - lost - n net) / sd, the chance q to lose found by maximising the likelihood, not by its quadratic."""

    def minus_log_likelihood(q: float) -> float:
        logs = ((won, q + net), (lost, q), (n - won - lost, 1 - 2 * q - net))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in logs if count)

    low, high = max(0.0, -net), (1 - net) / 2
    q = minimize_scalar(minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (won - lost - n * net) / math.sqrt(n * (2 * q + net * (1 - net)))


@pytest.mark.parametrize(("won", "lost", "n"), [(9, 4, 20), (30, 12, 100), (5, 1, 7), (200, 230, 600), (50, 0, 60)])
def test_both_ends_of_net_solve_the_score_equation(won: int, lost: int, n: int) -> None:
    lower, upper = net_interval(won, lost, n)
    z = norm.ppf(0.975)
    for end, sign in ((lower, 1), (upper, -1)):
        # The correction for continuity moves the difference by 1.
        spread = (won - lost - n * end) / score_by_search(won, lost, n, end)
        assert (sign * (won - lost - n * end) - 1) / spread == pytest.approx(z, abs=2e-4)
    mirrored = net_interval(lost, won, n)
    assert mirrored == pytest.approx((-upper, -lower))


def test_net_at_zero_is_mcnemars_test_with_correction() -> None:
    """Ties take no part in whether it is decided: a ladder of wins against 20 losses."""
    for ties in (0, 100):
        decided = [won for won in range(20, 50) if net_interval(won, 20, won + 20 + ties)[0] > 0]
        assert decided == [won for won in range(20, 50) if (won - 20 - 1) ** 2 / (won + 20) > norm.ppf(0.975) ** 2]


def test_a_fair_coin_is_decided_in_at_most_five_per_cent() -> None:
    """By exact enumeration, for every number of pairs that are no tie: the interval of net is that careful."""
    z2 = norm.ppf(0.975) ** 2
    for n in range(1, 400):
        least = next((won for won in range(n // 2 + 1, n + 1) if (2 * won - n - 1) ** 2 > z2 * n), n + 1)
        assert least > n or net_interval(least, n - least, n)[0] > 0
        assert net_interval(least - 1, n - least + 1, n)[0] <= 0
        assert 2 * binom.sf(least - 1, n, 0.5) <= 0.05


def test_unanimous_pairs_leave_doubt() -> None:
    assert net_interval(0, 0, 0) == (-1, 1)
    lower, upper = net_interval(0, 0, 50)
    assert lower == -upper
    assert 0.05 < upper < 0.15
    assert net_interval(50, 0, 50)[1] == 1.0


def test_a_published_difference_of_proportions() -> None:
    """56/70 less 48/80, method 10 of Newcombe (1998): .0524 to .3339."""
    first = clustered_rate([1.0] * 56 + [0.0] * 14, range(70))
    second = clustered_rate([1.0] * 48 + [0.0] * 32, range(80))
    found = difference(first, second)
    assert (found.value, found.n) == (pytest.approx(0.2), 150)
    assert (found.lower, found.upper) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_exact_rate_is_clopper_and_pearsons() -> None:
    for k, n in ((0, 9), (9, 9), (3, 10), (140, 300)):
        interval = binomtest(k, n).proportion_ci(method="exact")
        found = exact_rate(k, n)
        assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high))
    assert (exact_rate(0, 0).value, exact_rate(0, 0).lower, exact_rate(0, 0).upper) == (None, 0.0, 1.0)


def test_pairs_of_the_same_unit_that_agree_count_as_one() -> None:
    """40 units, of 3 pairs each, that say the same: deff is 3 * (40 / 39), and t has 39 degrees of freedom."""
    x = np.repeat(np.arange(40) % 2, 3)
    clustered = clustered_rate(x, np.repeat(np.arange(40), 3))
    shrink = (norm.ppf(0.975) / student.ppf(0.975, 39)) ** 2
    n = 120 / (3 * 40 / 39) * shrink
    z2 = norm.ppf(0.975) ** 2
    half = math.sqrt(z2) * math.sqrt(n / 4 + z2 / 4) / (n + z2)
    assert (clustered.lower, clustered.upper) == pytest.approx((0.5 - half, 0.5 + half))
    assert (clustered.value, clustered.n) == (0.5, 120)
    alone = clustered_net(2.0 * x - 1, range(120))
    together = clustered_net(2.0 * x - 1, np.repeat(np.arange(40), 3))
    assert together.lower < alone.lower < alone.upper < together.upper


def test_net_of_units_that_agree_within_is_that_of_the_units() -> None:
    """30 units won and 10 lost, of 3 pairs each: deff is 3 * (40 / 39) whatever the net, so n is 39 by Student's t."""
    x = np.repeat([1.0] * 30 + [-1.0] * 10, 3)
    found = clustered_net(x, np.repeat(np.arange(40), 3))
    n = 39 * (norm.ppf(0.975) / student.ppf(0.975, 39)) ** 2
    assert (found.lower, found.upper) == pytest.approx(net_interval(0.75 * n, 0.25 * n, n))
    assert (found.value, found.n) == (0.5, 120)


def test_a_single_unit_tells_nothing_and_unanimous_units_count_as_one_each() -> None:
    one = clustered_rate([1, 0, 1, 1], [7, 7, 7, 7])
    assert (one.value, one.lower, one.upper) == (0.75, 0.0, 1.0)
    assert clustered_net([1, 1], [3, 3]).lower == -1.0
    unanimous = clustered_rate([1.0] * 60, np.repeat(np.arange(20), 3))
    n = 20 * (norm.ppf(0.975) / student.ppf(0.975, 19)) ** 2
    assert unanimous.lower == pytest.approx(n / (n + norm.ppf(0.975) ** 2))


def test_units_that_disagree_within_claim_no_more_than_independent_pairs() -> None:
    x, unit = [1.0, 0.0] * 30, np.repeat(np.arange(30), 2)
    clustered, alone = clustered_rate(x, unit), clustered_rate(x, range(60))
    assert clustered.lower <= alone.lower < alone.upper <= clustered.upper


@pytest.mark.parametrize("bad", [NAN, 1.1, -1.1])
def test_observations_outside_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="x holds"):
        clustered_net([0.0, bad], [0, 1])
    with pytest.raises(ValueError, match=r"x holds -0\.5"):
        clustered_rate([-0.5], [0])
    with pytest.raises(ValueError, match="shapes"):
        clustered_rate([0.5], [0, 1])
    with pytest.raises(ValueError, match="won, lost and n"):
        net_interval(bad, 2, 1)


# The prior


def test_the_prior_of_a_win_rate() -> None:
    # Odds of the control 1 to 4, of the win rate 3 to 1: 3 to 4.
    alpha, beta = verdict_prior(0.2, 0.75, 14.0)
    assert (alpha, beta) == pytest.approx((6.0, 8.0))
    assert verdict_prior(0.3, 0.5, 10.0) == pytest.approx((3.0, 7.0)), "a judge that sees no difference"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0.0, 0.5, 1.0), "control_mean"), ((0.5, 1.0, 1.0), "win_rate"), ((0.5, NAN, 1.0), "win_rate")]
    + [((0.5, 0.5, weight), "weight") for weight in (0.0, -1.0, NAN, math.inf)],
)
def test_no_prior_without_odds_or_weight(arguments: tuple[float, float, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        verdict_prior(*arguments)


def test_the_ends_by_another_solver() -> None:
    """The lower end again, by a root search on the likelihood-based score."""
    won, lost, n, z = 33, 14, 90, norm.ppf(0.975)

    def excess(net: float) -> float:
        score = score_by_search(won, lost, n, net)
        return score * (1 - 1 / (won - lost - n * net)) - z

    assert net_interval(won, lost, n)[0] == pytest.approx(brentq(excess, -0.9, (won - lost - 1.5) / n), abs=1e-6)
