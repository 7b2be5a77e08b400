"""How often a ramp errs when it is looked at after every decision, and how many decisions its verdicts take.

Claims
    A challenger within its limits is ever rolled back with probability at most alpha, over the whole ramp; one at twice a
    limit ever passes that stage with probability at most miss. Both hold for relative guardrails, for rates that drift and
    for fractions of an observation.

Method
    Absolute guardrails by enumeration: the law of the sum after n decisions, with what has passed or failed taken out, goes
    on from n to n + 1. It is exact up to the last decision enumerated, so these tests have no false alarms, and a claim over
    all n is checked up to there. The others by seeded simulation, each with its chance of a false alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaincc, betaln
from scipy.stats import binom

from bandit.canary import start, step
from bandit.guardrails import Measures, Outcome, Tally, intolerable, judge, minimum_sample
from bandit.inference import lower_bound, rate_interval, upper_bound
from bandit.ramp import Guardrail, Metric, Ramp, default_stages
from bandit.ramp_state import AUTOMATIC, Phase, RampState, apply

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DOCUMENT = Path(__file__).parents[2] / "docs" / "canary.md"
RAMP = Ramp(default_stages())
#: The share of alpha of one of the default stages' guardrails.
EACH = RAMP.alpha_each
LIMITS = [stage.guardrails[0].limit or 0.0 for stage in RAMP.stages]
FALSE_ALARM = 1e-4


@cache
def failing_sums(limit: float, alpha: float, looks: int) -> Ints:
    """The least sum that fails after n decisions, for n from 0 to `looks`; n + 1 where none does."""
    sums = np.ones(looks + 1, dtype=np.int64)
    least = 0
    for n in range(1, looks + 1):
        # More decisions without a retry only lower the bound, so the search goes on from where it was.
        while least <= n and lower_bound(least, n, alpha) <= limit:
            least += 1
        sums[n] = least
        least = min(least, n)
    return sums


def first_verdicts(rates: Floats, fails: Ints, limit: float, minimum: int | None) -> tuple[Floats, Floats]:
    """P(the first verdict is a failure at look n), and likewise a pass, for n from 0; without `minimum` nothing passes."""
    law = np.zeros(int(fails.max()) + 2)
    law[0] = 1.0
    failed, passed = np.zeros(len(rates)), np.zeros(len(rates))
    for n in range(1, len(rates)):
        law[1:] = law[1:] * (1.0 - rates[n]) + law[:-1] * rates[n]
        law[0] *= 1.0 - rates[n]
        failed[n] = law[fails[n] :].sum()
        law[fails[n] :] = 0.0
        if minimum is not None and n >= minimum:
            least = int(np.floor(n * limit + 1e-9)) + 1
            passed[n] = law[:least].sum()
            law[:least] = 0.0
    return failed, passed


def verdicts_at(rate: float, limit: float, looks: int, alpha: float = EACH) -> tuple[Floats, Floats]:
    """`first_verdicts` of a constant rate under one of the gate's absolute guardrails."""
    rates = np.full(looks + 1, rate)
    return first_verdicts(rates, failing_sums(limit, alpha, looks), limit, minimum_sample(limit, RAMP.miss))


# Absolute guardrails, by enumeration


def test_the_enumeration_is_the_gates() -> None:
    """At 600 random sums around the boundaries `judge` says what the enumeration assumes."""
    rng = np.random.default_rng(1)
    for limit in (0.15, 0.10):
        fails, minimum = failing_sums(limit, EACH, 1500), minimum_sample(limit, RAMP.miss)
        for n in rng.integers(1, 1500, 150):
            for s in {int(fails[n]), int(fails[n]) - 1, int(n * limit), int(n * limit) + 1}:
                if not 0 <= s <= n:
                    continue
                expected = Outcome.INSUFFICIENT
                if s >= fails[n]:
                    expected = Outcome.FAIL
                elif n >= minimum and s <= np.floor(n * limit + 1e-9):
                    expected = Outcome.PASS
                found = Measures(Tally(int(n), int(n), {Metric.RETRY: s}), Tally())
                verdict = judge(Guardrail(Metric.RETRY, limit=limit), found, EACH, RAMP.miss)
                assert verdict.outcome is expected, (limit, n, s, verdict)


@pytest.mark.parametrize("looks", [3_000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_a_challenger_at_every_limit_is_rarely_rolled_back(looks: int) -> None:
    """Claim: at each stage's limit exactly, in stages that never pass, P(rolled back) <= alpha over the five stages."""
    chances = [
        float(first_verdicts(np.full(looks + 1, limit), failing_sums(limit, EACH, looks), limit, None)[0].sum())
        for limit in LIMITS
    ]
    assert max(chances) <= EACH
    assert sum(chances) <= RAMP.alpha
    assert min(chances) > 0.2 * EACH, "the guardrails are far blunter than they need be"


def test_intervals_for_one_look_would_roll_back_healthy_challengers() -> None:
    """The claim above has teeth: with the Wilson bound at the same alpha, looked at every time, it is false."""
    fails = np.ones(3_001, dtype=np.int64)
    for n in range(1, 3_001):
        least = int(0.1 * n)
        while least <= n and rate_interval(least, n, 1 - 2 * EACH)[0] <= 0.1:
            least += 1
        fails[n] = least
    assert first_verdicts(np.full(3_001, 0.1), fails, 0.1, None)[0].sum() > 5 * EACH


@pytest.mark.parametrize("period", [40, *(pytest.param(period, marks=pytest.mark.slow) for period in (2, 700))])
def test_a_rate_that_drifts_within_its_limit_is_rarely_rolled_back(period: int) -> None:
    """Claim: rates that swing between a tenth of the limit and the limit fail with probability <= the guardrail's alpha."""
    limit, looks = 0.1, 3_000
    swings = np.where(np.arange(looks + 1) % period < period / 2, limit, 0.1 * limit)
    assert first_verdicts(swings, failing_sums(limit, EACH, looks), limit, None)[0].sum() <= EACH


@pytest.mark.parametrize(
    "limit", [0.12, 0.45, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (0.01, 0.10, 0.15, 0.3, 0.7, 0.95))]
)
def test_an_intolerable_rate_rarely_passes(limit: float) -> None:
    """Claim: at twice the limit, or halfway from it to 1, the stage ever passes with probability <= miss."""
    passed = verdicts_at(intolerable(limit), limit, 3_000)[1]
    assert passed.sum() <= RAMP.miss
    assert passed.sum() > 0.1 * RAMP.miss, "the minimum sample is far larger than it need be"
    # Nothing hides behind failures: with failing switched off it holds too.
    never = np.arange(1, 3_002)
    alone = first_verdicts(np.full(3_001, intolerable(limit)), never, limit, minimum_sample(limit))[1]
    assert alone.sum() <= RAMP.miss


def test_an_intolerable_rate_that_drifts_rarely_passes() -> None:
    """Claim: rates that swing between twice and three times the limit pass with probability <= miss."""
    swings = np.where(np.arange(3_001) % 60 < 30, 0.2, 0.3)
    passed = first_verdicts(swings, failing_sums(0.1, EACH, 3_000), 0.1, minimum_sample(0.1))[1]
    assert passed.sum() <= RAMP.miss


def test_the_minimum_sample_is_near_the_least_for_zeros_and_ones() -> None:
    """The bound asks for 1.5 to 1.7 times the decisions that an exact search would, at the default limits."""
    never = np.arange(1, 1_002)
    for limit in set(LIMITS):
        rates, minimum = np.full(1_001, 2 * limit), minimum_sample(limit)
        enough, few = (first_verdicts(rates, never, limit, round(minimum / part))[1].sum() for part in (1.5, 1.7))
        assert enough <= RAMP.miss < few


# Fractions of an observation, by simulation


@pytest.mark.parametrize("shape", [0.5, *(pytest.param(shape, marks=pytest.mark.slow) for shape in (0.05, 5.0))])
def test_costs_err_no_more_than_rates(shape: float) -> None:
    """Claim: skewed costs with their mean at the limit fail with probability <= .05, and at twice the limit pass so often.

    1,000 runs of 300 calls each; a claim that were exactly true would fail 1 in 1e4 seeds, ours are far from it.
    """
    limit, runs, looks = 0.15, 1_000, 300
    rng = np.random.default_rng(3)
    most = int(binom.isf(FALSE_ALARM, runs, 0.05))
    n = np.arange(1, looks + 1)
    s = np.cumsum(rng.beta(shape, shape * (1 - limit) / limit, (runs, looks)), axis=1)
    # The lower bound exceeds the limit where the mixture against the limit is over 1 / alpha.
    f = n - s
    log_mixture = betaln(s + 1, f + 1) + np.log(betaincc(s + 1, f + 1, limit))
    log_mixture -= s * np.log(limit) + (f + 1) * np.log1p(-limit)
    fails = log_mixture > -np.log(0.05)
    for row, look in zip(rng.integers(0, runs, 100), rng.integers(0, looks, 100), strict=True):
        assert fails[row, look] == (lower_bound(s[row, look], look + 1, 0.05) > limit)
    assert fails.any(axis=1).sum() <= most
    twice = np.cumsum(rng.beta(shape, shape * (1 - 2 * limit) / (2 * limit), (runs, looks)), axis=1)
    passes = (twice <= limit * n) & (n >= minimum_sample(limit))
    assert passes.any(axis=1).sum() <= most


# Relative guardrails, by simulation


def lower_bounds(s: Ints, n: Ints, alpha: float) -> Floats:
    """`lower_bound` of many at once, by bisection of the mixture's definition to 1e-6, each pair of s and n once."""
    pairs, index = np.unique(n.astype(np.int64) << 32 | s, return_inverse=True)
    s, f = pairs & 0xFFFFFFFF, (pairs >> 32) - (pairs & 0xFFFFFFFF)
    low, high = np.zeros(len(pairs)), np.maximum(s / np.maximum(s + f, 1), 1e-9)
    needed = -np.log(alpha) - betaln(s + 1, f + 1)
    for _ in range(20):
        mu = 0.5 * (low + high)
        rejected = np.log(betaincc(s + 1, f + 1, mu)) - s * np.log(mu) - (f + 1) * np.log1p(-mu) >= needed
        low, high = np.where(rejected, mu, low), np.where(rejected, high, mu)
    return np.where(s > 0, low, 0.0)[index].reshape(n.shape)


def test_the_simulations_bounds_are_the_gates() -> None:
    rng = np.random.default_rng(4)
    n = rng.integers(1, 2_000, 200)
    s = (n * rng.random(200)).astype(np.int64)
    expected = [(lower_bound(a, b, 0.025), upper_bound(a, b, 0.025)) for a, b in zip(s, n, strict=True)]
    found = np.column_stack([lower_bounds(s, n, 0.025), 1.0 - lower_bounds(n - s, n, 0.025)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@dataclass(frozen=True)
class Looks:
    """Runs of a relative guardrail that allows 1.2 times the control's rate, at alpha = miss = .05; arrays (runs, looks)."""

    #: Decisions and retries of the challenger, decisions and retries of the control.
    counts: tuple[Ints, Ints, Ints, Ints]
    fails: NDArray[np.bool_]
    passes: NDArray[np.bool_]

    def shares(self) -> tuple[float, float]:
        """Of the runs, those that fail first and those that pass first."""
        never = self.fails.shape[1]
        failed, passed = (np.where(hit.any(axis=1), hit.argmax(axis=1), never) for hit in (self.fails, self.passes))
        return float((failed < passed).mean()), float((passed < failed).mean())


def relative_looks(control: float, challenger: float, share: float, looks: int, runs: int, seed: int) -> Looks:
    """Look after each of `looks` decisions, each of them the challenger's with probability `share`."""
    rng = np.random.default_rng(seed)
    ours = rng.random((runs, looks)) < share
    retried = rng.random((runs, looks)) < np.where(ours, challenger, control)
    n, s, m, t = (np.cumsum(hit, axis=1, dtype=np.int64) for hit in (ours, ours & retried, ~ours, ~ours & retried))
    lower, upper = lower_bounds(s, n, 0.025), 1.0 - lower_bounds(n - s, n, 0.025)
    floor, ceiling = lower_bounds(t, m, 0.025), 1.0 - lower_bounds(m - t, m, 0.025)
    passes = (upper < np.minimum(2.4 * floor, 0.5 + 0.6 * floor)) & (s * m <= 1.2 * t * n + 1e-9)
    return Looks((n, s, m, t), lower > 1.2 * ceiling, passes)


@pytest.mark.parametrize("challenger", [0.15, 0.54])
def test_the_simulation_is_the_gates(challenger: float) -> None:
    """At 150 random looks `judge` says what the simulation assumes."""
    found = relative_looks(0.15, challenger, 0.5, 1_000, 20, seed=4)
    rng = np.random.default_rng(5)
    seen = set()
    for row, look in zip(rng.integers(0, 20, 150), rng.integers(0, 1_000, 150), strict=True):
        n, s, m, t = (int(count[row, look]) for count in found.counts)
        measures = Measures(Tally(n, n, {Metric.RETRY: s}), Tally(m, m, {Metric.RETRY: t}))
        expected = Outcome.INSUFFICIENT
        if found.fails[row, look] or found.passes[row, look]:
            expected = Outcome.FAIL if found.fails[row, look] else Outcome.PASS
        assert judge(Guardrail(Metric.RETRY, ratio=1.2), measures, 0.05, 0.05).outcome is expected, (n, s, m, t)
        seen.add(expected)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("share", "looks"),
    [(0.5, 400), pytest.param(0.5, 2_500, marks=pytest.mark.slow), pytest.param(0.1, 2_500, marks=pytest.mark.slow)],
)
def test_relative_guardrails_rarely_err(share: float, looks: int) -> None:
    """Claim: at 1.2 times the control's rate P(fail) <= .05; at twice that P(pass) <= .05.

    Of 500 runs; a claim that were exactly true would fail 1 in 1e4 seeds, and ours are far from it.
    """
    most = binom.isf(FALSE_ALARM, 500, 0.05) / 500
    assert relative_looks(0.15, 0.18, share, looks, 500, seed=5).fails.any(axis=1).mean() <= most
    assert relative_looks(0.15, 0.36, share, looks, 500, seed=6).shares()[1] <= most


@pytest.mark.slow
def test_relative_guardrails_decide() -> None:
    """Claim: .54 against .15 fails within 400 decisions, equals pass within 1,500, in most runs.

    The shares are .99 and .97 of 400 runs; fewer than 75 of 100 in under 1 of 1e10 seeds.
    """
    assert relative_looks(0.15, 0.54, 0.5, 400, 100, seed=7).shares()[0] > 0.75
    assert relative_looks(0.15, 0.15, 0.5, 1_500, 100, seed=8).shares()[1] > 0.75


# The whole machine


def run(rate: float, seed: int, looks: int = 4_000) -> tuple[RampState, list[int]]:
    """A ramp with the default stages, looked at after every decision of the challenger; decisions taken in each stage.

    A hundred decisions come in the time of a stage, so that time is what a healthy one waits for.
    """
    rng = np.random.default_rng(seed)
    state, now, taken = start(RAMP, 0), 0, [0] * len(RAMP.stages)
    retries = 0
    for _ in range(looks):
        now += RAMP.stages[state.stage].duration_us // 100
        retries += int(rng.random() < rate)
        taken[state.stage] += 1
        n = taken[state.stage]
        found = step(RAMP, state, Measures(Tally(n, n, {Metric.RETRY: retries}), Tally()), now)
        if found.transition is not None:
            assert found.transition.actor == AUTOMATIC
            state, retries = apply(state, found.transition), 0
        if state.phase is not Phase.RAMPING:
            break
    return state, taken


def test_a_healthy_ramp_is_promoted() -> None:
    """Claim: at a retry rate of .05 the default stages end in promotion, in all but 1 of 1,000 ramps.

    By enumeration; then three runs of the machine itself, which fail for fewer than 1 of 300 seeds.
    """
    chances = [verdicts_at(0.05, limit, 2_000) for limit in LIMITS]
    assert sum(failed.sum() for failed, _ in chances) < 1e-3
    assert min(passed.sum() for _, passed in chances) > 0.999
    for seed in range(3):
        state, taken = run(0.05, seed)
        assert state.phase is Phase.PROMOTED
        assert taken[0] >= 100
        assert taken[4] >= minimum_sample(0.10)


def test_a_bad_ramp_fails_in_its_first_stage() -> None:
    """Claim: at a retry rate of .3, twice the first limit, half of the ramps fail within 75 decisions and .95 in stage 1."""
    failed, passed = verdicts_at(0.3, LIMITS[0], 3_000)
    assert int(np.searchsorted(failed.cumsum(), 0.5)) == 75
    assert failed.sum() >= 0.95
    assert passed.sum() <= RAMP.miss
    # Of ten runs, more than two would pass stage 1 in fewer than 1 of 1e4 seeds.
    ends = [run(0.3, seed) for seed in range(10)]
    assert sum((state.phase, state.stage) == (Phase.ROLLED_BACK, 0) for state, _ in ends) >= 8


# The document


def table() -> list[str]:
    """The rows of the table of decisions in docs/canary.md."""
    rows, looks = [], 2_000
    for index, stage in enumerate(RAMP.stages):
        limit = LIMITS[index]
        fails = failing_sums(limit, EACH, looks)
        failed = [first_verdicts(np.full(looks + 1, m * limit), fails, limit, None)[0].cumsum() for m in (1.5, 2, 3)]
        medians = [int(np.searchsorted(chance, 0.5)) for chance in failed]
        slips = [f"{verdicts_at(m * limit, limit, looks)[1].sum():.0%}" for m in (1.25, 1.5, 2)]
        cells = [str(index + 1), f"{stage.cap:.0%}", f"{limit:.2f}", str(minimum_sample(limit)), *map(str, medians), *slips]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def test_the_documents_table_is_up_to_date() -> None:
    text = DOCUMENT.read_text()
    missing = [row for row in table() if row not in text]
    assert missing == [], "put these rows into docs/canary.md"
