"""Cross-over analysis against plain loops, scipy's paired tests and enumeration of every order."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test, t, ttest_ind, ttest_rel

from bandit import crossover
from bandit.crossover import first_turn_estimate, paired_difference, randomisation_test, sensitivity_gain
from bandit.turns import Turns


def blocks_of_two(differences: list[float], session: list[int] | None = None) -> Turns:
    """Blocks in which arm 0 leads arm 1 by the given differences, each a session of its own unless told."""
    names = list(range(len(differences))) if session is None else session
    place: dict[int, int] = defaultdict(int)
    rows: list[tuple[int, int, int, float]] = []
    for number, (name, d) in enumerate(zip(names, differences, strict=True)):
        first = number % 2
        rows += [(name, place[name], first, d * (1 - first)), (name, place[name] + 1, 1 - first, d * first)]
        place[name] += 2
    return Turns.of(2, *(list(column) for column in zip(*rows, strict=True)))


def three_arms() -> Turns:
    """Sessions of various lengths, some outcomes unobserved, rows in no order."""
    rng = np.random.default_rng(3)
    rows = []
    for session, length in enumerate((1, 2, 3, 4, 7, 9, 9, 12, 30)):
        for turn in range(length):
            if turn % 3 == 0:
                order = rng.permutation(3)
            rows.append((f"s-{session}", turn, int(order[turn % 3]), float(rng.normal()), bool(rng.random() < 0.8)))
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    return Turns.of(3, *(list(column) for column in zip(*shuffled, strict=True)))


def by_session(turns: Turns, a: int, b: int) -> list[list[float]]:
    """The differences of every session, by dictionaries and loops."""
    found: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for session, turn, arm, outcome, observed in zip(
        turns.session, turns.turn, turns.arm, turns.outcome, turns.observed, strict=True
    ):
        if observed:
            found[int(session), int(turn) // turns.arms][int(arm)] = float(outcome)
    grouped: dict[int, list[float]] = defaultdict(list)
    for (session, _), outcomes in found.items():
        if a in outcomes and b in outcomes:
            grouped[session].append(outcomes[a] - outcomes[b])
    return list(grouped.values())


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (2, 0), (1, 2)])
def test_the_paired_difference_by_loops(a: int, b: int) -> None:
    turns = three_arms()
    sessions = by_session(turns, a, b)
    flat = [d for session in sessions for d in session]
    mean = sum(flat) / len(flat)
    squares = sum(sum(d - mean for d in session) ** 2 for session in sessions)
    stderr = (len(sessions) / (len(sessions) - 1) * squares) ** 0.5 / len(flat)
    one = paired_difference(turns, a, b, level=0.9)
    assert (one.n_sessions, one.n_blocks) == (len(sessions), len(flat))
    assert one.estimate == pytest.approx(mean)
    assert one.stderr == pytest.approx(stderr)
    assert one.upper - one.estimate == pytest.approx(stderr * t.ppf(0.95, len(sessions) - 1))
    assert one.estimate - one.lower == pytest.approx(one.upper - one.estimate)


def test_one_block_a_session_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(size=(25, 2))
    order = np.stack([rng.permutation(2) for _ in y])
    turns = Turns.of(
        2, np.repeat(np.arange(25), 2), np.tile([0, 1], 25), order.ravel(), np.take_along_axis(y, order, 1).ravel()
    )
    one = paired_difference(turns, 0, 1)
    theirs = ttest_rel(y[:, 0], y[:, 1])
    interval = theirs.confidence_interval()
    assert (one.lower, one.upper) == pytest.approx((interval.low, interval.high))
    assert one.estimate / one.stderr == pytest.approx(theirs.statistic)


def test_repeating_every_block_of_a_session_adds_no_precision() -> None:
    """The same differences again in the same sessions: more blocks, not more knowledge."""
    d = [0.3, -0.1, 0.8, 0.2]
    once = paired_difference(blocks_of_two(d), 0, 1)
    often = paired_difference(blocks_of_two(d * 5, [0, 1, 2, 3] * 5), 0, 1)
    assert often.stderr == pytest.approx(once.stderr)
    assert (often.n_sessions, often.n_blocks) == (4, 20)


def test_differences_that_never_vary_have_no_spread() -> None:
    one = paired_difference(blocks_of_two([0.0, 0.0, 0.0]), 0, 1)
    assert (one.estimate, one.stderr, one.lower, one.upper) == (0.0, 0.0, 0.0, 0.0)


def test_first_turns_are_welchs_test() -> None:
    y, arm = np.random.default_rng(5).normal(size=40), np.arange(40) % 3
    turns = Turns.of(3, np.arange(40), np.zeros(40, dtype=int), arm, y)
    one = first_turn_estimate(turns, 2, 0, level=0.8)
    theirs = ttest_ind(y[arm == 2], y[arm == 0], equal_var=False)
    interval = theirs.confidence_interval(0.8)
    assert (one.lower, one.upper) == pytest.approx((interval.low, interval.high))
    assert one.estimate / one.stderr == pytest.approx(theirs.statistic)
    assert one.n_sessions == one.n_blocks == 27


def test_first_turns_look_at_nothing_else() -> None:
    rows = [(s, turn, (s + turn) % 2, 100.0 * turn + (s % 2) + 0.1 * s, s != 7) for s in range(8) for turn in (0, 1)]
    one = first_turn_estimate(Turns.of(2, *(list(c) for c in zip(*rows, strict=True))), 1, 0)
    # Arm 1 opens sessions 1, 3, 5 (7 is not observed): 1.1, 1.3, 1.5; arm 0 opens 0, 2, 4, 6: 0, .2, .4, .6.
    assert one.estimate == pytest.approx(1.0)
    assert one.n_sessions == 7


def test_first_turns_that_never_vary() -> None:
    one = first_turn_estimate(Turns.of(2, [0, 1, 2, 3], [0] * 4, [0, 0, 1, 1], [1.0, 1.0, 0.0, 0.0]), 0, 1)
    assert (one.estimate, one.stderr, one.lower, one.upper) == (1.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "d",
    [
        pytest.param([1.0, 1.0, 1.0, -1.0, 0.0, 0.0], id="binary"),
        pytest.param([0.5, 0.3, -0.1, 0.9, 0.2, -0.4, 0.7], id="distinct"),
        pytest.param([0.1, 0.2, 0.3, -0.3, 0.1, 0.2], id="ties-but-for-rounding"),
        pytest.param([0.7], id="one-block"),
        pytest.param([0.25, -0.25], id="balanced"),
    ],
)
def test_exact_p_is_the_share_of_all_orders(d: list[float]) -> None:
    """By enumerating every order, and by scipy's own."""
    mean = abs(sum(d))
    signs = list(product((1, -1), repeat=len(d)))
    share = sum(abs(sum(s * x for s, x in zip(sign, d, strict=True))) >= mean - 1e-9 for sign in signs) / len(signs)
    p = randomisation_test(blocks_of_two(d), 0, 1, np.random.default_rng(0))
    assert p == pytest.approx(share)
    if len(d) > 1:
        theirs = permutation_test((np.array(d),), lambda x, axis: np.abs(x.mean(axis=axis)), permutation_type="samples",
                                  n_resamples=np.inf, alternative="greater")  # fmt: skip
        assert p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("wins", "losses"), [(30, 12), (600, 540), (20_000, 19_500), (400, 0)])
def test_binary_outcomes_give_the_sign_test_exactly(wins: int, losses: int) -> None:
    d = [1.0] * wins + [-1.0] * losses + [0.0] * 7
    p = randomisation_test(blocks_of_two(d), 0, 1, np.random.default_rng(0))
    assert p == pytest.approx(binomtest(wins, wins + losses).pvalue, rel=1e-6)


def test_p_is_never_zero() -> None:
    rng = np.random.default_rng(6)
    assert randomisation_test(blocks_of_two([1.0] * 20_000), 0, 1, rng) > 0.0
    distinct = np.linspace(1.0, 2.0, 200).tolist()
    assert randomisation_test(blocks_of_two(distinct), 0, 1, rng, draws=99) == 1 / 100


def test_nothing_to_compare_is_no_evidence() -> None:
    rng = np.random.default_rng(7)
    assert randomisation_test(Turns.of(2, [0], [0], [0], [1.0]), 0, 1, rng) == 1.0
    assert randomisation_test(blocks_of_two([0.0, 0.0]), 0, 1, rng) == 1.0


@pytest.mark.parametrize("worth", [0, 10**9], ids=["binomials", "bits"])
def test_drawn_orders_agree_with_all_of_them(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim: the p of drawn orders is the exact p. 20,000 draws within 5 standard errors: a false alarm in 1.7e6 seeds."""
    rng = np.random.default_rng(8)
    turns = blocks_of_two((rng.integers(-3, 5, 45) / 4).tolist())
    exact = randomisation_test(turns, 0, 1, rng)
    monkeypatch.setattr(crossover, "_MOST_SUMS", 1)
    monkeypatch.setattr(crossover, "_CHUNK", 45 * 999)
    monkeypatch.setattr(crossover, "_WORTH_A_BINOMIAL", worth)
    drawn = randomisation_test(turns, 0, 1, rng, draws=20_000)
    assert 0.01 < exact < 0.9
    assert abs(drawn - exact) <= 5 * (exact * (1 - exact) / 20_000) ** 0.5
    assert drawn != exact


def test_every_null_is_rejected_as_often_as_it_says() -> None:
    """Fixed outcomes that no arm can change; over all 64 designs, p <= x happens with probability at most x."""
    pairs = [(0.0, 1.0), (1.0, 1.0), (0.2, 0.9), (1.0, 0.0), (0.3, 0.1), (0.5, 0.0)]
    p_values = []
    for design in product((0, 1), repeat=6):
        arm = [value for first in design for value in (first, 1 - first)]
        turns = Turns.of(2, [0] * 8 + [1] * 4, [*range(8), *range(4)], arm, [y for pair in pairs for y in pair])
        p_values.append(randomisation_test(turns, 0, 1, np.random.default_rng(0)))
    for x in p_values:
        assert np.mean([p <= x for p in p_values]) == pytest.approx(x)


def test_sensitivity_gain_by_hand() -> None:
    assert sensitivity_gain(4, 0.2) == pytest.approx(2.0)
    assert sensitivity_gain(10, 0.1) == pytest.approx(19 / 9)
    assert sensitivity_gain(10, 0.5) == pytest.approx(11.0)
    assert sensitivity_gain(7, 0.0) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda turns: paired_difference(turns, 0, 2), "b is 2: with 2 arms"),
        (lambda turns: paired_difference(turns, -1, 1), "a is -1"),
        (lambda turns: paired_difference(turns, 1, 1), "a and b are both 1"),
        (lambda turns: paired_difference(turns, 0, 1, level=1.0), "level is 1.0"),
        (lambda turns: paired_difference(blocks_of_two([1.0, 2.0], [5, 5]), 0, 1), "turns has 1 sessions with arms 0 and 1"),
        (lambda turns: paired_difference(Turns.of(2, [], [], [], []), 0, 1), "turns has 0 sessions"),
        (lambda turns: first_turn_estimate(turns, 0, 2), "b is 2"),
        (lambda turns: first_turn_estimate(turns, 0, 1, level=0.0), "level is 0.0"),
        (lambda turns: first_turn_estimate(turns, 0, 1), "turns has 1 first turns of arm 1"),
        (lambda turns: randomisation_test(turns, 0, 5, np.random.default_rng(0)), "b is 5"),
        (lambda turns: randomisation_test(turns, 0, 1, np.random.default_rng(0), draws=0), "draws is 0"),
        (lambda turns: sensitivity_gain(1, 0.5), "m is 1"),
        (lambda turns: sensitivity_gain(4, 1.0), "icc is 1.0"),
        (lambda turns: sensitivity_gain(4, -0.1), "icc is -0.1"),
        (lambda turns: sensitivity_gain(4, float("nan")), "icc is nan"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(blocks_of_two([1.0, 0.0, 0.5]))
