"""Estimators against hand computation, exact enumeration of an adaptive experiment, scipy, the jackknife; and bad input."""

import math
from fractions import Fraction

import numpy as np
import pytest
from histories import histories
from scipy import stats

from bandit.arm_estimates import estimate_arms
from bandit.estimate import Estimate, degrees_of_freedom
from bandit.offpolicy import adaptive_doubly_robust, doubly_robust, ips, raw_mean, running_means, snips
from bandit.rejection import ThompsonLearner, rejection_replay
from bandit.targets import fixed_arm, target_of, uniform, with_floor

REWARDS = [1.0, 0.0, 1.0, 1.0]
ARMS = [0, 1, 0, 1]
PROPENSITIES = [0.5, 0.5, 0.25, 0.8]
#: Of a policy that draws arm 0 with probability 1/2, 1/4, 3/4, 1/5.
TARGET = [0.5, 0.75, 0.75, 0.8]
#: TARGET / PROPENSITIES
WEIGHTS = [1.0, 1.5, 3.0, 1.0]


def test_ips_by_hand() -> None:
    found = ips(REWARDS, PROPENSITIES, TARGET)
    # Terms 1, 0, 3, 1: mean 5/4, squared deviations (1 + 25 + 49 + 1) / 16 = 19/4, variance 19/12, of the mean 19/48.
    assert found.value == pytest.approx(1.25)
    assert found.stderr == pytest.approx(math.sqrt(19 / 48))
    assert found.ess == pytest.approx(6.5**2 / (1 + 2.25 + 9 + 1))
    # Of the weights' degrees of freedom, which are fewer than the 3 of four equal terms.
    assert found.df == pytest.approx(freedom([2, 3, 6, 2]))
    assert 1 < found.df < 2
    assert found.upper - found.value == pytest.approx(stats.t.ppf(0.975, found.df) * math.sqrt(19 / 48))
    assert found.value - found.lower == pytest.approx(found.upper - found.value)
    assert (found.n, found.clusters, found.clipped, found.level) == (4, 4, 0.0, 0.95)
    assert found.interval == f"Student t, {found.df:.1f} degrees of freedom, robust by decision, at one look"
    # Equal weights have all of them: the quantile of Student's t with 3, from a table.
    equal = ips(REWARDS, 0.5, 0.5)
    assert equal.df == pytest.approx(3)
    assert equal.upper - equal.value == pytest.approx(3.182446 * equal.stderr, rel=1e-6)
    assert equal.interval == "Student t, 3 degrees of freedom, robust by decision, at one look"


def test_snips_by_hand() -> None:
    found = snips(REWARDS, PROPENSITIES, TARGET)
    assert found.value == pytest.approx(10 / 13)
    # Of 5 / 6.5 without each decision in turn: 4 / 5.5, 5 / 5, 2 / 3.5, 4 / 5.5.
    without = np.array([8 / 11, 1, 4 / 7, 8 / 11])
    assert found.stderr == pytest.approx(math.sqrt(3 / 4 * ((without - 10 / 13) ** 2).sum()))


def test_doubly_robust_by_hand() -> None:
    target = [[0.5, 0.5], [0.25, 0.75], [0.75, 0.25], [0.2, 0.8]]
    q = [[0.5, 0.5], [1.0, 0.5], [1.0, 0.25], [0.75, 0.25]]
    # Expected under the target: .5, .625, .8125, .35; corrections 1 x .5, 1.5 x -.5, 3 x 0, 1 x .75.
    terms = [1.0, -0.125, 0.8125, 1.1]
    found = doubly_robust(REWARDS, ARMS, PROPENSITIES, target, q)
    assert found.value == pytest.approx(sum(terms) / 4)
    assert found.stderr == pytest.approx(np.std(terms, ddof=1) / 2)


def test_adaptive_weights_by_hand() -> None:
    allocations = [[0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.2, 0.8]]
    # Always arm 0: h is the square root of its probability; terms q + 1{drawn} (r - q) / p with q = 1/2.
    h = np.sqrt([0.5, 0.5, 0.25, 0.2])
    terms = np.array([1.5, 0.5, 2.5, 0.5])
    found = adaptive_doubly_robust(REWARDS, ARMS, allocations, [1, 0], [0.5, 0.5])
    value = h @ terms / h.sum()
    assert found.value == pytest.approx(value)
    without = (h @ terms - h * terms) / (h.sum() - h)
    assert found.stderr == pytest.approx(math.sqrt(3 / 4 * ((without - value) ** 2).sum()))
    # The weight that is left on decisions 0 and 2: sqrt(.5) / .5 and sqrt(.25) / .25.
    assert found.ess == pytest.approx((math.sqrt(2) + 2) ** 2 / 6)


def test_adaptive_weights_of_a_policy_that_mixes() -> None:
    # h^-2 is the sum of pi^2 / p: 1/4 / (1/2) twice; 1/4 / (1/4) + 1/4 / (3/4).
    allocations = [[0.5, 0.5], [0.25, 0.75]]
    h = np.array([1.0, math.sqrt(3) / 2])
    terms = np.array([1.0, 0.0])
    found = adaptive_doubly_robust([1.0, 0.0], [0, 1], allocations, uniform(2), [0.0, 0.0])
    assert found.value == pytest.approx(h @ terms / h.sum())


def test_adaptive_is_plain_where_allocations_never_move() -> None:
    rng = np.random.default_rng(1)
    arms, rewards = rng.integers(0, 2, 50), rng.random(50)
    q = running_means(rewards, arms, 2)
    plain = doubly_robust(rewards, arms, 0.5, [0.3, 0.7], q)
    evened = adaptive_doubly_robust(rewards, arms, [0.5, 0.5], [0.3, 0.7], q)
    assert (evened.value, evened.stderr, evened.ess) == pytest.approx((plain.value, plain.stderr, plain.ess))


def test_unbiased_under_adaptive_allocation_and_the_raw_mean_is_not() -> None:
    """Exact expectations over all 1,024 histories of five decisions that learn."""
    means = [Fraction(1, 2), Fraction(1, 3)]
    total, expected, raw, tried = Fraction(0), np.zeros(4), 0.0, 0.0
    for history in histories(means, 5):
        probability = float(history.probability)
        total += history.probability
        arms, rewards = np.array(history.arms), np.array(history.rewards)
        drawn = arms == 1
        if drawn.any():
            tried += probability
            raw += probability * float(rewards[drawn].mean())
            q = running_means(rewards, arms, 2)
            fixed = target_of(fixed_arm(1, 2), arms)
            expected[0] += probability * ips(rewards, history.propensities, fixed).value
            expected[1] += probability * doubly_robust(rewards, arms, history.propensities, fixed_arm(1, 2), q).value
        else:
            # The estimators refuse an arm that was never tried; what they are made of has a value all the same.
            expected[1] += probability * float(running_means(rewards, arms, 2)[:, 1].mean())
        half = target_of(np.full((5, 2), 0.5), arms) if 0 < drawn.sum() < 5 else np.full(5, 0.5)
        expected[2] += probability * ips(rewards, history.propensities, half).value
        weights = half / np.array(history.propensities)
        expected[3] += probability * float(weights.mean())
    assert total == 1
    assert expected == pytest.approx([1 / 3, 1 / 3, 5 / 12, 1.0], abs=1e-12)
    assert raw / tried < 1 / 3 - 0.02


def test_raw_mean_and_its_interval_are_those_of_scipy() -> None:
    rewards = np.random.default_rng(2).random(17)
    found = raw_mean(rewards, level=0.9)
    interval = stats.ttest_1samp(rewards, 0.0).confidence_interval(0.9)
    assert (found.value, found.lower, found.upper) == pytest.approx((rewards.mean(), interval.low, interval.high))
    assert ips(rewards, 0.5, 0.5, level=0.9).lower == pytest.approx(interval.low)
    assert found.ess == 17


def estimators(rewards, arms, propensities, clusters=None, level=0.95) -> list[Estimate]:
    """All of them, for the policy that draws arm 0 with probability .3."""
    policy, q = [0.3, 0.7], np.tile([0.4, 0.6], (len(arms), 1))
    allocations = np.where((np.asarray(arms) == 0)[:, None], np.stack([propensities, 1 - propensities], 1),
                           np.stack([1 - propensities, propensities], 1))  # fmt: skip
    return [
        raw_mean(rewards, clusters, level=level),
        ips(rewards, propensities, target_of(policy, arms), clusters, level=level),
        snips(rewards, propensities, target_of(policy, arms), clusters, level=level),
        doubly_robust(rewards, arms, propensities, policy, q, clusters, level=level),
        adaptive_doubly_robust(rewards, arms, allocations, policy, q, clusters, level=level),
    ]


@pytest.fixture
def log() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    arms = np.r_[0, 1, rng.integers(0, 2, 198)]
    return rng.random(200) ** (1 + arms), arms, rng.uniform(0.2, 0.8, 200)


def test_decisions_repeated_within_a_cluster_add_nothing(log) -> None:
    """The same log three times over, clustered by its decision: same value, standard error and interval."""
    once = estimators(*log)
    thrice = estimators(*(np.tile(x, 3) for x in log), clusters=[f"unit-{i % 200}" for i in range(600)])
    for one, three in zip(once, thrice, strict=True):
        assert (three.value, three.stderr, three.lower) == pytest.approx((one.value, one.stderr, one.lower))
        assert (three.clusters, three.n) == (200, 600)
        assert three.df == pytest.approx(one.df)
        assert three.interval == one.interval.replace("by decision", "by cluster")


def test_the_standard_error_is_the_jackknife(log) -> None:
    """What each estimate would be without each cluster in turn; the last clustering has one of half of all decisions."""
    for clusters in (np.arange(200), np.arange(200) // 4, np.maximum(np.arange(200), 100)):
        labels = np.unique(clusters)
        g = len(labels)
        left_out = [[e.value for e in estimators(*(x[clusters != label] for x in log))] for label in labels]
        for i, estimate in enumerate(estimators(*log, clusters=clusters)):
            moved = np.array(left_out)[:, i] - estimate.value
            assert estimate.stderr == pytest.approx(math.sqrt((g - 1) / g * np.sum(moved**2))), estimate.method


def freedom(weights: list[int]) -> float:
    """Bell & McCaffrey's degrees of freedom, from the matrix: (tr B)^2 / tr B^2, B = D (I - 1 h') (I - h 1') D."""
    h = [Fraction(w, sum(weights)) for w in weights]
    g = range(len(h))
    left = [[(h[i] / (1 - h[i])) * ((i == j) - h[j]) for j in g] for i in g]
    b = [[sum(left[i][k] * left[j][k] for k in g) for j in g] for i in g]
    trace = sum(b[i][i] for i in g)
    return float(trace**2 / sum(b[i][j] ** 2 for i in g for j in g))


@pytest.mark.parametrize("weights", [[1, 1], [5, 1], [1, 1, 1], [2, 1, 1], [9, 1, 1, 1], [1, 2, 3, 4, 5], [200, 1, 2, 3]])
def test_degrees_of_freedom_are_those_of_the_matrix(weights: list[int]) -> None:
    h = np.array([*weights, 0]) / sum(weights)
    assert degrees_of_freedom(h) == pytest.approx(freedom(weights), rel=1e-9)


def test_degrees_of_freedom_run_from_one_to_the_number_of_clusters_less_one() -> None:
    assert degrees_of_freedom(np.full(40, 1 / 40)) == pytest.approx(39)
    assert degrees_of_freedom(np.array([0.0, 0.5, 0.0, 0.5])) == pytest.approx(1)
    assert degrees_of_freedom(np.array([1.0, 0.0])) == 1.0
    # Where the sums stop, the matrix is at 1, too.
    for weights in ([989, *[1] * 10], [9989, *[1] * 10], [10**9, 1, 1]):
        assert degrees_of_freedom(np.array(weights) / sum(weights)) == pytest.approx(freedom(weights), abs=0.01)


def test_clusters_without_weight_do_not_count() -> None:
    """Thirty units of ten decisions each; arm 0 was drawn for four of them: all that is known of it are four units."""
    clusters = np.repeat(np.arange(30), 10)
    arms = (clusters >= 4).astype(int)
    rewards = np.random.default_rng(11).random(300)
    found = estimate_arms(rewards, arms, np.where(arms == 0, 0.15, 0.85), 2, clusters, [0.15, 0.85])[0]
    for estimate in (found.raw, found.ips, found.snips, found.dr, found.adaptive):
        assert estimate is not None
        assert estimate.df == pytest.approx(3), estimate.method
        assert "one cluster has 25.0% of the weight, more than 5%" in estimate.warnings
        rough = "the standard error is as rough as that of 4 clusters of equal weight, fewer than 30"
        assert rough in estimate.warnings, estimate.method
    assert found.snips.stderr == pytest.approx(found.raw.stderr)


def test_a_unit_of_half_the_log_is_alarming_and_counts_in_full() -> None:
    """A hundred units of one decision that earned 1 or 0 by turns, and one of a hundred decisions that earned 1 each."""
    rewards = np.r_[np.tile([0.0, 1.0], 50), np.ones(100)]
    clusters = np.r_[np.arange(100), np.full(100, 100)]
    found = raw_mean(rewards, clusters)
    # Without it the mean is 1/2 instead of 3/4; without one of the others it moves by 1/4 or 3/4 of 1/199.
    moved = 50 * (0.25 / 199) ** 2 + 50 * (0.75 / 199) ** 2 + 0.25**2
    assert found.stderr == pytest.approx(math.sqrt(100 / 101 * moved))
    assert 1 < found.df < 1.03
    # The weights' effective size by cluster: 200^2 / (100 + 100^2).
    assert found.warnings == (
        "the effective sample size is 4.0 of 101 clusters, less than 10%",
        "one cluster has 50.0% of the weight, more than 5%",
        "the standard error is as rough as that of 2 clusters of equal weight, fewer than 30",
    )
    # Where the target does not draw its arm it has no weight, and yet half of the terms of the mean.
    terms = ips(rewards, 0.5, np.r_[np.full(100, 0.5), np.zeros(100)], clusters)
    assert "one cluster has 50.0% of the terms, more than 5%" in terms.warnings
    assert terms.df == pytest.approx(found.df)
    # Without clusters nothing of this is known.
    assert raw_mean(rewards).warnings == ()


def test_labels_do_not_matter_and_levels_nest(log) -> None:
    named = estimators(*log, clusters=[f"u{i // 2}" for i in range(200)])
    numbered = estimators(*log, clusters=np.arange(200) // 2)
    assert [e.stderr for e in named] == pytest.approx([e.stderr for e in numbered], rel=1e-12)
    for narrow, wide in zip(estimators(*log, level=0.8), estimators(*log, level=0.99), strict=True):
        assert wide.lower < narrow.lower < narrow.value == wide.value < narrow.upper < wide.upper


def test_alarms() -> None:
    fine = ips(np.tile([0.0, 1.0], 50), 0.5, 0.5)
    assert fine.warnings == ()
    assert fine.ess == 100
    # One weight of 100 and 99 of 1/2: ESS 149.5^2 / 10,024.75 = 2.2 of 100.
    propensities, target = np.r_[0.01, np.full(99, 1.0)], np.r_[1.0, np.full(99, 0.5)]
    found = ips(np.tile([0.0, 1.0], 50), propensities, target)
    assert found.ess == pytest.approx(149.5**2 / 10_024.75)
    assert "the effective sample size is 2.2 of 100 decisions, less than 10%" in found.warnings
    assert "one decision has 66.9% of the weight, more than 5%" in found.warnings
    # Exactly 5 % is not alarming.
    assert not any("of the weight" in w for w in raw_mean(np.arange(20)).warnings)
    assert not any("of the weight" in w for w in ips(np.arange(20), 0.5, 0.5).warnings)
    assert raw_mean(np.arange(30)).warnings == ()
    (few,) = raw_mean(np.arange(29)).warnings
    assert few == "the standard error is as rough as that of 29 decisions of equal weight, fewer than 30"
    assert raw_mean([0, 1]).warnings[-1].startswith("the standard error is as rough as that of 2 decisions")
    assert raw_mean(np.arange(40), np.arange(40) // 10).warnings == (
        "one cluster has 25.0% of the weight, more than 5%",
        "the standard error is as rough as that of 4 clusters of equal weight, fewer than 30",
    )
    # A hundred clusters, of which five have all of the weight.
    own = np.repeat(np.arange(100) < 5, 2)
    spread = snips(np.tile([0.0, 1.0], 100), 0.05, own, np.repeat(np.arange(100), 2)).warnings
    assert "the effective sample size is 10.0 of 200 decisions, less than 10%" in spread
    assert "the effective sample size is 5.0 of 100 clusters, less than 10%" in spread
    (constant,) = raw_mean(np.ones(50)).warnings
    assert constant.startswith("all terms are equal")


def test_weights_that_do_not_average_one_are_alarming() -> None:
    """Decisions of arm 1 lost after they were drawn: the policy draws it, and the log is of arm 0 alone."""
    rng = np.random.default_rng(4)
    arms = rng.integers(0, 2, 4000)
    rewards = rng.random(4000)
    kept = (arms == 0) | (rng.random(4000) < 0.3)
    target = target_of([0.1, 0.9], arms)
    assert ips(rewards, 0.5, target).warnings == ()
    (alarm,) = ips(rewards[kept], 0.5, target[kept]).warnings
    assert alarm.startswith("the weights average 0.")


def test_clipping_is_said() -> None:
    found = ips(REWARDS, PROPENSITIES, TARGET, clip=1.5)
    # Weights 1, 1.5, 1.5, 1: terms 1, 0, 1.5, 1. One of four was cut; 1.5 itself was not.
    assert found.value == pytest.approx(3.5 / 4)
    assert found.clipped == 0.25
    assert any(warning.startswith("clip 1.5 cut the weights of 25.00%") for warning in found.warnings)
    assert snips(REWARDS, PROPENSITIES, TARGET, clip=1.5).value == pytest.approx(3.5 / 5)
    high = ips(REWARDS, PROPENSITIES, TARGET, clip=1e9)
    assert (high.clipped, high.value) == (0.0, 1.25)
    assert not any("clip" in warning for warning in high.warnings)


def test_running_means_know_earlier_decisions_only() -> None:
    q = running_means([1.0, 0.5, 0.0, 1.0], [1, 1, 0, 1], 2, prior=(0.5, 2.0))
    np.testing.assert_allclose(q, [[0.5, 0.5], [0.5, 2 / 3], [0.5, 2.5 / 4], [1 / 3, 2.5 / 4]])
    changed = running_means([1.0, 0.5, 0.0, 0.0], [1, 1, 0, 0], 2, prior=(0.5, 2.0))
    np.testing.assert_array_equal(changed, q)


def test_running_means_stand_still_within_a_unit() -> None:
    q = running_means([1.0, 1.0, 0.0, 0.0], [0, 0, 0, 1], 2, clusters=["a", "b", "a", "c"])
    np.testing.assert_allclose(q[:, 0], [0.5, 0.75, 0.5, 2.5 / 4])


def test_targets() -> None:
    np.testing.assert_allclose(uniform(4), [0.25] * 4)
    assert fixed_arm(1, 3).tolist() == [0.0, 1.0, 0.0]
    assert target_of([0.3, 0.7], [0, 1, 1]).tolist() == [0.3, 0.7, 0.7]
    assert target_of([[0.3, 0.7], [0.6, 0.4]], [1, 0]).tolist() == [0.7, 0.6]
    # .01 + .98 x (.7, .3) with a floor of .1 instead: .1 + .8 x (.7, .3).
    np.testing.assert_allclose(with_floor([[0.696, 0.304], [0.01, 0.99]], 0.01, 0.1), [[0.66, 0.34], [0.1, 0.9]])
    np.testing.assert_allclose(with_floor([[0.696, 0.304]], 0.01, 0.0), [[0.7, 0.3]])


class Always:
    """Draws one arm and remembers what it was told."""

    def __init__(self, policy: list[float]) -> None:
        self.policy, self.told = np.array(policy), []

    def allocate(self) -> np.ndarray:
        return self.policy

    def update(self, arm: int, reward: float) -> None:
        self.told.append((arm, reward))


def test_replay_of_a_deterministic_learner_keeps_the_matches() -> None:
    rng = np.random.default_rng(5)
    arms, rewards = rng.integers(0, 3, 900), rng.random(900)
    learner = Always([0.0, 1.0, 0.0])
    found = rejection_replay(rewards, arms, uniform(3), learner, np.random.default_rng(0))
    matches = rewards[arms == 1]
    assert found.accepted == len(matches)
    assert found.value == pytest.approx(matches.mean())
    assert found.stderr == pytest.approx(matches.std(ddof=1) / math.sqrt(len(matches)))
    assert learner.told == [(1, r) for r in matches]
    assert (found.drawn, found.n, found.warnings) == ((0, len(matches), 0), 900, ())


def test_replay_of_the_same_policy_keeps_everything() -> None:
    allocations = np.random.default_rng(6).dirichlet([1, 1, 1], 200)
    arms = [int(np.random.default_rng(i).choice(3, p=p)) for i, p in enumerate(allocations)]

    class Same(Always):
        def allocate(self) -> np.ndarray:
            return allocations[len(self.told)]

    assert rejection_replay(np.arange(200), arms, allocations, Same([]), np.random.default_rng(0)).accepted == 200


def test_replay_of_units_that_come_back_is_robust_by_unit() -> None:
    rng = np.random.default_rng(14)
    units, arms = rng.permutation(np.repeat(np.arange(40), 10)), rng.integers(0, 2, 400)
    rewards = (rng.random(400) < rng.random(40)[units]).astype(float)
    names = np.array([f"unit-{u}" for u in units])
    found = rejection_replay(rewards, arms, uniform(2), Always([1.0, 0.0]), np.random.default_rng(0), names)
    kept = arms == 0
    expected = raw_mean(rewards[kept], units[kept])
    assert (found.value, found.stderr) == pytest.approx((expected.value, expected.stderr))
    assert (found.lower, found.upper) == pytest.approx((expected.lower, expected.upper))
    assert found.clusters == 40
    alone = rejection_replay(rewards, arms, uniform(2), Always([1.0, 0.0]), np.random.default_rng(0))
    assert (alone.value, alone.clusters) == (found.value, alone.accepted)
    assert alone.stderr < 0.8 * found.stderr
    with pytest.raises(ValueError, match="of 400 decisions were accepted, all of one cluster: at least 2 are"):
        rejection_replay(rewards, arms, uniform(2), Always([1.0, 0.0]), np.random.default_rng(0), np.zeros(400))


def test_replay_says_when_little_was_accepted() -> None:
    arms, rewards = np.tile([0, 1], 50), np.tile([0.0, 1.0, 1.0, 1.0], 25)
    found = rejection_replay(rewards, arms, uniform(2), Always([1.0, 0.0]), np.random.default_rng(0))
    assert found.warnings == ("only 50 of 100 decisions were accepted: a run that short says little about the learner",)
    with pytest.raises(ValueError, match="0 of 100 decisions were accepted: at least 2 are needed; arm 2 had probability 0"):
        rejection_replay(rewards, arms, [0.5, 0.5, 0.0], Always([0.0, 0.0, 1.0]), np.random.default_rng(0))


def test_thompson_learner_follows_prior_floor_and_discount() -> None:
    learner = ThompsonLearner(2, prior=(1.0, 1.0), floor=0.1, discount=0.5)
    assert learner.allocate() == pytest.approx([0.5, 0.5])
    learner.update(0, 1.0)
    # P(Beta(2, 1) > U) = 2/3; after another success the first counts half: Beta(2.5, 1), 2.5 / 3.5.
    assert learner.allocate() == pytest.approx([0.1 + 0.8 * 2 / 3, 0.1 + 0.8 / 3], abs=1e-7)
    learner.update(0, 1.0)
    assert learner.allocate()[0] == pytest.approx(0.1 + 0.8 * 2.5 / 3.5, abs=1e-7)
    slow = ThompsonLearner(2, every=2)
    slow.update(0, 1.0)
    assert slow.allocate() == pytest.approx([0.5, 0.5])
    slow.update(1, 0.0)
    assert slow.allocate()[0] > 0.7


def test_every_arm_side_by_side() -> None:
    rng = np.random.default_rng(7)
    arms = np.r_[rng.integers(0, 2, 300), 2]
    rewards = rng.random(301)
    first, _, third, fourth = estimate_arms(rewards, arms, 0.25, 4, allocations=uniform(4))
    always = target_of(fixed_arm(0, 4), arms)
    assert first.decisions == int((arms == 0).sum())
    assert first.raw == raw_mean(rewards[arms == 0])
    assert first.ips == ips(rewards, 0.25, always)
    assert first.snips == snips(rewards, 0.25, always)
    assert first.snips.value == pytest.approx(first.raw.value)
    assert first.dr == doubly_robust(rewards, arms, 0.25, fixed_arm(0, 4), running_means(rewards, arms, 4))
    assert first.adaptive is not None
    assert estimate_arms(rewards, arms, 0.25, 3)[0].adaptive is None
    for found, decisions in ((third, 1), (fourth, 0)):
        assert found.raw is found.ips is found.snips is found.dr is found.adaptive is None
        assert f"has {decisions} decisions of {decisions} clusters" in found.insufficient


def test_an_arm_that_could_not_always_be_drawn_is_not_estimated_and_the_others_are() -> None:
    rng = np.random.default_rng(13)
    allocations = np.repeat([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0]], [100, 300], axis=0)
    arms = np.array([rng.choice(4, p=p) for p in allocations])
    rewards = rng.random(400)
    own = allocations[np.arange(400), arms]
    first, second, late, never = estimate_arms(rewards, arms, own, 4, allocations=allocations)
    # What the two others get is what they get alone.
    two = estimate_arms(rewards, arms, own, 4)
    for found, alone in ((first, two[0]), (second, two[1])):
        assert (found.raw, found.ips, found.snips, found.dr) == (alone.raw, alone.ips, alone.snips, alone.dr)
        assert found.insufficient == ""
        assert found.adaptive is not None
    said = "it is estimated only from those that could draw it"
    assert late.insufficient == f"arm 2 had probability 0 in 100 of 400 decisions: {said}"
    assert never.insufficient == f"arm 3 had probability 0 in 400 of 400 decisions: {said}"
    assert late.raw is late.ips is late.snips is late.dr is late.adaptive is None
    assert (late.decisions, never.decisions) == (int((arms == 2).sum()), 0)
    # So small a probability is none.
    hardly = np.where(allocations == 0.0, 1e-60, allocations)
    assert [found.insufficient for found in estimate_arms(rewards, arms, own, 4, allocations=hardly)] == [
        "",
        "",
        late.insufficient,
        never.insufficient,
    ]
    # From the decisions that could draw it, it is.
    later = estimate_arms(rewards[100:], arms[100:], own[100:], 4, allocations=allocations[100:])
    assert later[2].ips == ips(rewards[100:], 0.5, target_of(fixed_arm(2, 4), arms[100:]))


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ips(REWARDS, None, TARGET), "propensities is None: without the probability"),
        (lambda: ips(REWARDS, [0.5, 0.0, 0.5, 0.5], TARGET), r"propensities\[1\] is 0\.0: an arm that was drawn"),
        (lambda: ips(REWARDS, [0.5, NAN, 0.5, 0.5], TARGET), r"propensities\[1\] is nan: every entry must be a finite"),
        (lambda: ips(REWARDS, 1.5, TARGET), r"propensities\[0\] is 1\.5"),
        (lambda: ips([], [], []), "rewards is empty: there is no decision"),
        (lambda: raw_mean([]), "rewards is empty"),
        (lambda: raw_mean(None), "rewards is None"),
        (lambda: raw_mean([0.5]), "there is 1 decision: a standard error needs at least 2"),
        (lambda: raw_mean([0.5, 1.0], ["a", "a"]), "there is 1 cluster"),
        (lambda: snips([1.0, NAN], 0.5, 0.5), r"rewards\[1\] is nan"),
        (lambda: snips([1.0, "x"], 0.5, 0.5), "rewards is not made of numbers"),
        (lambda: snips(REWARDS, 0.5, [0.5, 0.5]), "target has 2 entries for 4 decisions"),
        (lambda: snips(REWARDS, 0.5, 1.5), r"target\[0\] is 1\.5: every entry must be from 0 to 1"),
        (lambda: snips(REWARDS, 0.5, 0.0), "target is 0 for every decision: the policy draws only arms that the log never"),
        (lambda: ips([1.0, 0.0], [1e-310, 0.5], 1.0), r"propensities\[0\] is 1e-310 where the target is 1: their ratio"),
        (
            lambda: ips([1.0, 1e200], 0.5, 0.5),
            r"rewards\[1\] is 1e\+200: every entry must be a finite number within ±1e\+50",
        ),
        (lambda: doubly_robust(REWARDS, ARMS, 0.5, [0.5, 0.5], [0, -1e60]), r"q\[0, 1\] is -1e\+60: every entry must be"),
        (
            lambda: adaptive_doubly_robust(REWARDS, ARMS, [[1.0, 1e-310], *[[0.5, 0.5]] * 3], [0.5, 0.5], [0, 0]),
            r"allocations\[0, 1\] is 1e-310: decision 0 could not draw arm 1",
        ),
        (lambda: ips(REWARDS, 0.5, 0.5, clip=0.0), "clip is 0.0"),
        (lambda: ips(REWARDS, 0.5, 0.5, level=1.0), "level is 1.0"),
        (lambda: ips(REWARDS, 0.5, 0.5, [1, 2]), r"clusters has shape \(2,\)"),
        (lambda: ips(REWARDS, 0.5, 0.5, [1.0, 2.0, NAN, 3.0]), "clusters holds a label that is not finite"),
        (lambda: ips(REWARDS, 0.5, 0.5, ["a", "b", None, "c"]), "clusters holds labels of different kinds"),
        (lambda: target_of([0.5, 0.3, 0.2], ARMS), "arm 2 was never tried in 4 decisions"),
        (lambda: target_of([0.5, 0.6], ARMS), r"policy\[0\] adds up to 1\.1"),
        (lambda: target_of([1.5, -0.5], ARMS), r"policy\[0, 0\] is 1\.5"),
        (lambda: target_of([0.5, 0.5], [0, 2]), r"arms\[1\] is 2: it must be the index of an arm"),
        (lambda: target_of([0.5, 0.5], [0, 0.5]), r"arms\[1\] is 0\.5"),
        (lambda: doubly_robust(REWARDS, ARMS, 0.5, fixed_arm(2, 3), [0, 0, 0]), "arm 2 was never tried"),
        (lambda: doubly_robust(REWARDS, ARMS, 0.5, [0.5, 0.5], [0, NAN]), r"q\[0, 1\] is nan"),
        (lambda: doubly_robust(REWARDS, ARMS, 0.5, [0.5, 0.5], [[0, 0]] * 3), r"q has shape \(3, 2\)"),
        (lambda: doubly_robust(REWARDS, ARMS, None, [0.5, 0.5], [0, 0]), "propensities is None"),
        (lambda: adaptive_doubly_robust(REWARDS, ARMS, None, [0.5, 0.5], [0, 0]), "allocations is None"),
        (
            lambda: adaptive_doubly_robust(REWARDS, ARMS, [[0.5, 0.5], [0, 1], [1, 0], [0.5, 0.5]], [0.5, 0.5], [0, 0]),
            r"allocations\[1, 0\] is 0: decision 1 could not draw arm 0",
        ),
        (lambda: running_means(REWARDS, ARMS, 2, prior=(0.5, 0.0)), "prior is"),
        (lambda: running_means(REWARDS, ARMS, 0), "k is 0"),
        (lambda: fixed_arm(2, 2), "arm is 2"),
        (lambda: uniform(0), "k is 0"),
        (lambda: with_floor([[0.005, 0.995]], 0.01, 0.1), r"allocations\[0, 0\] is 0\.005: it must be at least the floor"),
        (lambda: with_floor([[0.5, 0.5]], 0.3, 0.1), "floors must be"),
        (lambda: with_floor([[0.5, 0.5]], 0.1, 0.3), "floors must be"),
        (
            lambda: rejection_replay(REWARDS, ARMS, [1.0, 0.0], Always([1.0, 0.0]), np.random.default_rng(0)),
            r"allocations\[1, 1\] is 0: decision 1 drew arm 1",
        ),
        (
            lambda: rejection_replay(REWARDS, ARMS, [0.5, 0.5], Always([0.5, 0.6]), np.random.default_rng(0)),
            "the learner allocated",
        ),
        (lambda: ThompsonLearner(2, discount=0.0), "discount is 0.0"),
        (lambda: ThompsonLearner(0), "k is 0"),
        (lambda: estimate_arms([], [], [], 2), "rewards is empty"),
        (
            lambda: estimate_arms(REWARDS, ARMS, [0.5, 0.5, 0.6, 0.5], 2, allocations=[0.5, 0.5]),
            r"allocations\[2, 0\] is 0\.5 and propensities\[2\] is 0\.6: decision 2 was not drawn from that vector",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
