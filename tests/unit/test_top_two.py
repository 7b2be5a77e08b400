"""The top-two allocation against its definition, closed forms and 30-digit arithmetic."""

from itertools import product

import mpmath
import numpy as np
import pytest

from bandit.posterior import probability_best
from bandit.top_two import from_log_chances, top_two


def by_resampling(p: list[mpmath.mpf], share: float, tries: int) -> list[mpmath.mpf]:
    """The allocation by following the algorithm: a leader, then draws until another arm comes, at most `tries` of them."""
    psi = [mpmath.mpf(0)] * len(p)
    for leader, chance in enumerate(p):
        psi[leader] += chance * share
        again = mpmath.mpf(1)
        for _ in range(tries):
            for arm in range(len(p)):
                if arm != leader:
                    psi[arm] += chance * (1 - share) * again * p[arm]
            again *= p[leader]
    return psi


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("p", [[0.5, 0.3, 0.2], [0.25] * 4, [0.9, 0.07, 0.03], [0.6, 0.4]])
def test_it_is_the_law_of_the_algorithm(p: list[float], share: float) -> None:
    expected = by_resampling([mpmath.mpf(x) for x in p], share, 600)
    np.testing.assert_allclose(from_log_chances(np.log(p), share), [float(x) for x in expected], rtol=1e-12)


def test_by_hand() -> None:
    # psi_1 = 1/2 (1/2 + 1/2 (1/3 / (2/3) + 1/6 / (5/6))), psi_2 = 1/3 (1/2 + 1/2 (1 + 1/5)),
    # psi_3 = 1/6 (1/2 + 1/2 (1 + 1/2)).
    psi = from_log_chances(np.log([1 / 2, 1 / 3, 1 / 6]))
    np.testing.assert_allclose(psi, [17 / 40, 11 / 30, 5 / 24], rtol=1e-14)


@pytest.mark.parametrize(("first", "second"), list(product([-2.0, -30.0, -690.0, -5000.0, -1e9], repeat=2)))
def test_challengers_divide_their_share_however_unlikely(first: float, second: float) -> None:
    with mpmath.workdps(30):
        chances = [mpmath.exp(x) for x in (mpmath.mpf(0), mpmath.mpf(first), mpmath.mpf(second))]
        p = [x / sum(chances) for x in chances]
        rest = [p[1] + p[2], p[0] + p[2], p[0] + p[1]]
        exact = [float(p[i] / 2 + sum(p[j] * p[i] / rest[j] for j in range(3) if j != i) / 2) for i in range(3)]
    log_p = np.array([0.0, first, second])
    np.testing.assert_allclose(
        from_log_chances(log_p - np.logaddexp.reduce(log_p)), exact, rtol=1e-6 if first < -1e8 else 1e-11
    )


def test_a_leader_sure_but_for_1e_300() -> None:
    # A rival Beta(1, b) beats the leader Beta(n, 1) with chance b B(n + 1, b); that both do is 1e-290 rarer.
    n, b = 700, (330, 331)
    with mpmath.workdps(30):
        odds = [c * mpmath.beta(n + 1, c) for c in b]
        share = [float(x / sum(odds)) for x in odds]
    psi = top_two([n, 1, 1], [1, *b])
    assert float(odds[0]) < 1e-270
    assert psi[0] == pytest.approx(0.5, abs=1e-12)
    np.testing.assert_allclose(psi[1:], [share[0] / 2, share[1] / 2], rtol=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [([3, 5, 8], [9, 8, 7]), ([40, 60, 62], [60, 40, 39]), ([7, 1e6], [4, 2e6])])
def test_it_agrees_with_probability_best(alpha: list[float], beta: list[float]) -> None:
    p = probability_best(alpha, beta)
    psi = top_two(alpha, beta, 0.7)
    expected = [p[i] * (0.7 + 0.3 * sum(p[j] / (1 - p[j]) for j in range(len(p)) if j != i)) for i in range(len(p))]
    np.testing.assert_allclose(psi, expected, atol=1e-8)
    np.testing.assert_allclose(top_two(alpha, beta, 1.0), p, atol=1e-10)


@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_equal_arms_share_equally(k: int) -> None:
    np.testing.assert_allclose(top_two([3.0] * k, [4.0] * k), 1 / k, rtol=1e-10)


def test_one_arm_and_arms_that_cannot_be_best() -> None:
    assert top_two([3], [4]).tolist() == [1.0]
    assert from_log_chances(np.array([-np.inf, 0.0])).tolist() == [0.0, 1.0]
    psi = from_log_chances(np.array([-np.inf, np.log(0.4), np.log(0.6)]))
    np.testing.assert_allclose(psi, [0.0, 0.5, 0.5], rtol=1e-14)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_bad_input_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=f"leader_share is {share}"):
        top_two([1, 2], [1, 1], share)
    with pytest.raises(ValueError, match="beta has 1 entries"):
        top_two([1, 2], [1])
