"""How soon an experiment may stop: Scott's page of 4 % against one of 5 %.

Model
    100 visits a day, divided by P(best) as it was the evening before, no floor. Every evening `bandit.stopping.decide` says
    whether to stop, by the rule that experiments have unless they say otherwise: value remaining under 1 %, or P(best) at
    least .95, after 14 days and 100 outcomes of every arm. The arm that then leads is named. Days saved are those of a
    test of fixed size less those that the run took.

    The fixed size is that of a two-sided test at 5 % that finds the difference with 95 %, by `bandit.planning_formulas`.

Assumes
    Conversions are known in the evening. Scott divides traffic twice a day and has no least number of outcomes.

Source
    Scott, "Multi-armed bandit experiments", the manual of Google Analytics Content Experiments (2013), from 500 runs: about
    176 days saved on average against a test of 22,330 visits, and the better page named in 96 % of runs.
    The rule is that of Scott (2015).
"""

import math

import numpy as np

from bandit.planning_formulas import ab_size
from bandit.posterior import probability_best
from bandit.stopping import DAY_US, StoppingRule, decide
from benchmarks.evidence.findings import ERRORS, Beside, Section, mean_of, near, share_error
from benchmarks.evidence.lab import Lab

RATES, VISITS = (0.04, 0.05), 100
FIXED_VISITS = 2.0 * ab_size(RATES[0], RATES[1] - RATES[0], 0.05, 0.95)
FIXED_DAYS = FIXED_VISITS / VISITS
_VISITS, _SAVED, _RIGHT, _RUNS = 22_330.0, 176.0, 0.96, 500
#: Nobody runs an experiment of this difference for longer; a run that gets here counts with so many days.
_LONGEST = 3_000
_BESIDE = "Scott (2013), 500 runs"


def measure(lab: Lab) -> Section:
    """Compare days saved and the share of right answers with Scott's."""
    runs, jobs = (16, 24) if not lab.quick else (4, 4)
    parts = lab.spread(stops, [(runs,)] * jobs, f"4 % against 5 %, 100 visits a day: {runs * jobs} runs")
    days = np.concatenate([part[0] for part in parts])
    right = np.concatenate([part[1] for part in parts])
    saved, error = mean_of(FIXED_DAYS - days)
    # Both means are of random runs; those of Scott spread as ours do.
    theirs = float(days.std(ddof=1)) / math.sqrt(_RUNS)
    why = f"{ERRORS:g} standard errors of a difference"
    share, share_of_theirs = float(right.mean()), share_error(_RIGHT, _RUNS)
    of_ours = share_error(_RIGHT, right.size)
    return Section(
        [
            # It is printed to ten visits.
            near("Size of the fixed test", FIXED_VISITS, None, _VISITS, 5.0, "visits", Beside(_VISITS, None, _BESIDE)),
            near(
                "4 % against 5 %: days saved against a test of fixed size",
                saved,
                error,
                _SAVED,
                ERRORS * math.hypot(error, theirs),
                "days",
                Beside(_SAVED, None, _BESIDE),
                why,
            ),
            near(
                "4 % against 5 %: the better page is named",
                share,
                of_ours,
                _RIGHT,
                ERRORS * math.hypot(of_ours, share_of_theirs),
                "of runs",
                Beside(_RIGHT, None, _BESIDE),
                why,
            ),
        ],
        {"days": days.tolist(), "fixed_days": FIXED_DAYS},
    )


def stops(rng: np.random.Generator, runs: int) -> tuple[list[int], list[bool]]:
    """Return the days that each run took, and whether it named the better page."""
    found = [stop(rng, StoppingRule()) for _ in range(runs)]
    return [days for days, _ in found], [leader == 1 for _, leader in found]


def stop(rng: np.random.Generator, rule: StoppingRule) -> tuple[int, int]:
    """Return the days that one run took and the arm it named."""
    alpha, beta = np.ones(2), np.ones(2)
    leader = 0
    for day in range(1, _LONGEST + 1):
        visits = rng.multinomial(VISITS, probability_best(alpha, beta))
        won = rng.binomial(visits, RATES)
        alpha += won
        beta += visits - won
        # Before that no rule stops, and asking costs time.
        if day * DAY_US < rule.least_us:
            continue
        successes, outcomes = alpha - 1.0, alpha + beta - 2.0
        verdict = decide(
            alpha.tolist(), beta.tolist(), successes.tolist(), outcomes.tolist(), 0, day * DAY_US, (day - 1) * DAY_US, rule
        )
        leader = verdict.leader
        if verdict.stop:
            return day, leader
    return _LONGEST, leader
