"""How often the drift alarm is wrong, and how soon it is right.

Every arm is looked at after every hour, as the router would.
"""

import numpy as np
import pytest
from scipy.stats import binom

from bandit.discount import BUCKET_US
from bandit.drift import drift
from bandit.reward import MICROS, Evidence

#: Together they take minutes; unit tests have the same formulas against independent values.
pytestmark = pytest.mark.slow


def first_alarm(
    rates: list[float],
    per_hour: int,
    rng: np.random.Generator,
    alpha: float,
    fractions: bool = False,
    kept: int | None = None,
) -> int | None:
    """The hour, from 1, after which an arm of these hourly means first gives an alarm; `kept` hours are known singly."""
    buckets = []
    for k, rate in enumerate(rates):
        n = int(rng.poisson(per_hour))
        # Beta rewards have the same mean and vary less than 0 and 1.
        successes = rng.beta(2 * rate, 2 * (1 - rate), n).sum() if fractions else rng.binomial(n, rate)
        s = int(successes * MICROS)
        buckets.append((k * BUCKET_US, Evidence(s, n * MICROS - s, n)))
        base = None
        if kept is not None and len(buckets) > kept:
            base = (0, sum((evidence for _, evidence in buckets[:-kept]), Evidence()))
        if drift(buckets if base is None else buckets[-(kept or 0) :], (k + 1) * BUCKET_US, alpha, base=base).alarm:
            return k + 1
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "fractions"), [(0.5, False), (0.05, False), (0.5, True)])
def test_constant_arms_hardly_ever_alarm(rate: float, fractions: bool) -> None:
    """Claim: with alpha .1 an arm of constant mean, looked at after each of 40 hours, alarms with probability at most .1.

    At .1 exactly, more alarms in 200 arms than the 1 - 1e-4 quantile come once in 1e4 seeds.
    """
    rng = np.random.default_rng(31)
    alarms = sum(first_alarm([rate] * 40, 10, rng, 0.1, fractions) is not None for _ in range(200))
    assert alarms <= binom.isf(1e-4, 200, 0.1)


def test_hours_that_are_summed_up_as_time_goes_by_add_no_alarms() -> None:
    """Claim: the same where only the last 10 of 60 hours are known singly; with a share of .1, as above."""
    rng = np.random.default_rng(33)
    alarms = sum(first_alarm([0.5] * 60, 10, rng, 0.1, kept=10) is not None for _ in range(200))
    assert alarms <= binom.isf(1e-4, 200, 0.1)


def test_a_drop_is_found_within_a_day() -> None:
    """Claim: a mean that falls from .7 to .5 after two days, at 40 outcomes an hour, alarms within 24 hours nearly always.

    At least 95 of 100 arms; the share measured is .99 or more, and then fewer than 95 come once in 1e3 seeds or rarer.
    Before the fall at most alpha = .01 of them alarm: more than 6 come once in 1e4 seeds.
    """
    rng = np.random.default_rng(32)
    found = [first_alarm([0.7] * 48 + [0.5] * 24, 40, rng, 0.01) for _ in range(100)]
    assert sum(at is not None and at <= 48 for at in found) <= 6
    assert sum(at is not None and at > 48 for at in found) >= 95
    delays = [at - 48 for at in found if at is not None and at > 48]
    assert np.median(delays) <= 12
