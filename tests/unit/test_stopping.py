"""The stopping rule: each of its conditions at its edge, its numbers, its words; and bad input."""

from collections.abc import Callable, Sequence

import pytest

from bandit.inference import confidence_sequence
from bandit.posterior import expected_loss, probability_best, value_remaining
from bandit.stopping import DAY_US, HOUR_US, StoppingDecision, StoppingRule, Verdict, decide

START = 1_700_000_000_000_000
CLEAR = ([301.0, 201.0], [201.0, 301.0])  # 300 and 200 of 500
CLOSE = ([251.0, 249.0], [251.0, 253.0])  # 250 and 248 of 500


def look(
    posterior: tuple[list[float], list[float]] = CLEAR,
    days: float = 20,
    since: int | None = None,
    rule: StoppingRule | None = None,
) -> StoppingDecision:
    now = START + int(days * DAY_US)
    return decide(*posterior, *outcomes_of(posterior), START, now, None if since is None else now - since, rule)


def outcomes_of(
    posterior: tuple[list[float], list[float]], prior: tuple[float, float] = (1, 1)
) -> tuple[list[float], list[float]]:
    """Successes and outcomes of posteriors that all began with one prior."""
    successes = [alpha - prior[0] for alpha in posterior[0]]
    return successes, [s + beta - prior[1] for s, beta in zip(successes, posterior[1], strict=True)]


def test_a_clear_winner_stops() -> None:
    found = look()
    assert found.stop
    assert found.checked
    assert found.reason == "arm 0 is the best with probability 1.0000, at least 0.95; the value remaining is 0.00%"
    assert found.probability_best == pytest.approx(probability_best(*CLEAR)[0])
    assert (found.leader, found.value_remaining) == (0, 0.0)
    assert found.expected_loss == pytest.approx(expected_loss(*CLEAR)[0])
    assert found.elapsed_us == 20 * DAY_US
    assert (found.outcomes, found.means) == ((500.0, 500.0), (0.6, 0.4))


def test_intervals_are_the_anytime_valid_ones_of_the_same_evidence() -> None:
    found = look(rule=StoppingRule(alpha=0.1))
    assert found.lower is not None
    assert found.upper is not None
    for arm, successes in enumerate((300, 200)):
        assert (found.lower[arm], found.upper[arm]) == confidence_sequence(successes, 500, 0.05)


def test_close_arms_go_on_and_indifferent_ones_stop() -> None:
    found = look(CLOSE)
    assert found.verdict is Verdict.CONTINUE
    assert found.value_remaining == pytest.approx(value_remaining(*CLOSE))
    assert found.reason == (
        f"arm 0 is the best with probability {probability_best(*CLOSE)[0]:.4f}, less than 0.95, and the value remaining is "
        f"{value_remaining(*CLOSE):.2%}, not less than 1.00%"
    )
    # A million outcomes each, 100 successes apart: whichever is taken, there is nothing left to gain.
    even = ([500_001.0, 500_101.0], [500_001.0, 499_901.0])
    found = look(even)
    assert found.stop
    assert found.leader == 1
    assert found.probability_best < 0.95
    assert found.value_remaining < 0.01
    assert found.reason.startswith(f"the value remaining is {found.value_remaining:.2%}, less than 1.00%; arm 1 is the best")


def test_thresholds_are_exact() -> None:
    chance, remaining = probability_best(*CLOSE)[0], value_remaining(*CLOSE)
    assert look(CLOSE, rule=StoppingRule(probability_best=chance)).stop
    assert not look(CLOSE, rule=StoppingRule(probability_best=chance + 1e-6)).stop
    assert look(CLOSE, rule=StoppingRule(value_remaining=remaining * 1.001)).stop
    assert not look(CLOSE, rule=StoppingRule(value_remaining=remaining)).stop


def test_not_before_its_time() -> None:
    found = look(days=13.9)
    assert found.verdict is Verdict.TOO_EARLY
    assert found.checked
    assert found.reason == "running for 13.9 days: it must run for 14.0 days"
    assert look(days=14).stop
    assert look(days=1, rule=StoppingRule(least_us=6 * HOUR_US)).stop
    assert look(days=1 / 24, rule=StoppingRule(least_us=6 * HOUR_US)).reason.startswith("running for 1.0 hours")


def test_not_before_every_arm_has_its_outcomes() -> None:
    few = ([301.0, 21.0, 30.0], [201.0, 79.5, 73.0])  # 500, 98.5 and 101 outcomes
    found = look(few)
    assert found.verdict is Verdict.TOO_EARLY
    assert found.reason == "arm 1 has 98.5 outcomes: every arm must have 100"
    assert look(([301.0, 21.0, 30.0], [201.0, 81.0, 73.0])).stop
    assert look(few, rule=StoppingRule(least_outcomes=98)).stop


def test_checked_daily() -> None:
    found = look(since=3 * HOUR_US)
    assert found.verdict is Verdict.NOT_DUE
    assert not found.stop
    assert not found.checked
    assert found.reason == "checked 3.0 hours ago: the next check is due after 24.0 hours"
    assert found.probability_best > 0.99
    assert look(since=DAY_US).stop
    assert not look(since=DAY_US - 1).stop
    assert look(since=3 * HOUR_US, rule=StoppingRule(check_every_us=HOUR_US)).stop


def test_arms_without_outcomes_have_the_prior_mean_and_the_whole_interval() -> None:
    found = decide([301.0, 2.0], [201.0, 1.0], [299.0, 0.0], [499.0, 0.0], START, START)
    assert found.outcomes == (499.0, 0.0)
    assert found.means == pytest.approx((299 / 499, 2 / 3))
    assert found.lower is not None
    assert found.upper is not None
    assert (found.lower[1], found.upper[1]) == (0.0, 1.0)


def test_a_prior_of_an_arm_is_no_outcome() -> None:
    """Arm 1 began with Beta(60, 40): a hundred imagined outcomes that must neither be counted nor bounded."""
    found = decide([301.0, 90.0], [201.0, 60.0], [300.0, 30.0], [500.0, 50.0], START, START + 20 * DAY_US)
    assert found.verdict is Verdict.TOO_EARLY
    assert found.reason == "arm 1 has 50 outcomes: every arm must have 100"
    assert (found.outcomes, found.means) == ((500.0, 50.0), (0.6, 0.6))
    assert found.lower is not None
    assert found.upper is not None
    assert (found.lower[1], found.upper[1]) == confidence_sequence(30, 50, 0.025)
    assert found.probability_best == pytest.approx(max(probability_best([301.0, 90.0], [201.0, 60.0])))


def test_discounted_evidence_decides_and_bounds_nothing() -> None:
    """500 outcomes each, which weigh as 50 now."""
    weighed = ([31.0, 21.0], [21.0, 31.0])
    found = decide(*weighed, [300.0, 200.0], [500.0, 500.0], START, START + 20 * DAY_US, discounted=True)
    assert found.probability_best == pytest.approx(probability_best(*weighed)[0])
    assert found.outcomes == (500.0, 500.0)
    assert (found.lower, found.upper) == (None, None)
    assert found.withheld.startswith("the evidence is discounted")
    assert look().withheld == ""


def test_a_tie_is_led_by_the_lowest_index() -> None:
    assert look(([51.0, 51.0], [51.0, 51.0])).leader == 0


def asked(
    alpha: Sequence[float] = (2.0, 2.0),
    beta: Sequence[float] = (2.0, 2.0),
    successes: Sequence[float] = (1.0, 1.0),
    n: Sequence[float] = (1.0, 1.0),
    started_us: int = 0,
    last_check_us: int | None = None,
) -> StoppingDecision:
    """Decide at 1."""
    return decide(alpha, beta, successes, n, started_us, 1, last_check_us)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asked(n=[1.0, 1.0, 1.0]), "n has 3 entries for 2 arms"),
        (lambda: asked(successes=[1.0]), "successes has 1 entries for 2 arms"),
        (lambda: asked(successes=[1.0, 1.5]), r"successes\[1\] is 1\.5: it must be from 0 to n\[1\], which is 1"),
        (lambda: asked(successes=[-1.0, 0.0]), r"successes\[0\] is -1\.0"),
        (lambda: asked(successes=[float("nan"), 0.0]), r"successes\[0\] is nan"),
        (lambda: asked(n=[float("inf"), 1.0]), r"n\[0\] is inf: it must be 0 or more, and finite"),
        (lambda: asked(n=[float("nan"), 1.0]), r"n\[0\] is nan"),
        (
            lambda: asked(successes=[3.0, 0.0], n=[3.0, 1.0]),
            r"alpha\[0\] is 2: .* arm 0 is 3 or more; if they are discounted",
        ),
        (lambda: asked(successes=[0.0, 0.0], n=[1.0, 3.0]), r"beta\[1\] is 2"),
        (lambda: asked([2.0], [2.0], [1.0], [1.0]), "alpha has 1 entry"),
        (lambda: asked([2.0, float("nan")]), r"alpha\[1\] is nan"),
        (lambda: asked(beta=[2.0]), "beta has 1 entries"),
        (lambda: asked(started_us=2), "now_us is 1: it must not be before started_us"),
        (lambda: asked(last_check_us=2), "last_check_us is 2: it must not be after now_us"),
        (lambda: StoppingRule(probability_best=1.0), "probability_best is 1.0"),
        (lambda: StoppingRule(value_remaining=0.0), "value_remaining is 0.0"),
        (lambda: StoppingRule(least_us=-1), "least_us is -1"),
        (lambda: StoppingRule(least_outcomes=float("nan")), "least_outcomes is nan"),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
