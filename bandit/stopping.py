"""Stopping: when an experiment has nothing left to learn that would pay for going on.

Model
    Stop if the value remaining is below a threshold, or the leader is the best with a given probability; but not before
    every arm has had its outcomes and the experiment its time, and only when a check is due. Checks are rare on purpose:
    P(best) of equal arms wanders, and looked at after every decision it reaches 0.95 sooner or later more often than not.

    It is a rule of decision, not a claim of significance. The intervals beside it are: each arm's confidence sequence on
    its own outcomes, all arms at once, at every look.

    What is believed and what was observed are told apart: posteriors decide, and outcomes are counted and bounded.
    So a prior, whichever arm it is of, never passes for outcomes.

Assumes
    Posteriors hold the outcomes given. For the intervals: means that do not drift. Where evidence is discounted, means are
    taken to drift: then no intervals are given.

Source
    Scott (2015), "Multi-armed bandit experiments in the online service economy", for value remaining and its threshold;
    Deng, Lu & Chen (2016), "Continuous monitoring of A/B tests without pain", for what optional stopping does; Howard,
    Ramdas, McAuliffe & Sekhon (2021) for the intervals, by `bandit.sequences.arm_bounds`.

Shapes
    K             number of arms
    alpha, beta   (K,)   parameters of the posteriors
    successes, n  (K,)   sums of rewards and numbers of outcomes, no prior among them
    *_us          integer microseconds
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from bandit.posterior import compare, value_remaining
from bandit.sequences import arm_bounds

DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
#: Sums may be off by this much, relative to their size.
_ROUNDING: Final = 1e-9
#: Why there are no bounds where evidence is discounted.
_DISCOUNTED: Final = "the evidence is discounted, because means may drift: bounds of all outcomes are of no mean of now"


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """When to stop."""

    #: Stop if the value remaining is less than this fraction of the leader's mean.
    value_remaining: float = 0.01
    #: The quantile at which value remaining is taken.
    quantile: float = 0.95
    #: Or stop if the leader is the best with this probability or more.
    probability_best: float = 0.95
    #: Not before this long after the start.
    least_us: int = 14 * DAY_US
    #: Not before every arm has this many outcomes.
    least_outcomes: float = 100.0
    #: Not sooner than this after the last check.
    check_every_us: int = DAY_US
    #: The intervals of all arms miss, ever, with this probability at most.
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name in ("value_remaining", "quantile", "probability_best", "alpha"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be greater than 0 and less than 1")
        for name in ("least_us", "least_outcomes", "check_every_us"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or more")


class Verdict(Enum):
    """What a look at the experiment came to."""

    STOP = "stop"
    CONTINUE = "continue"
    TOO_EARLY = "too early"
    NOT_DUE = "not due"


@dataclass(frozen=True, slots=True)
class StoppingDecision:
    """A verdict with everything it was made from; sequences are aligned with the arms."""

    #: Stop, or why not.
    verdict: Verdict
    #: The reason in words, with its numbers.
    reason: str
    #: Index of the arm most likely to be best; the lowest of those that tie.
    leader: int
    #: P(the leader is best).
    probability_best: float
    #: The value remaining, a fraction of the leader's mean.
    value_remaining: float
    #: E[best mean - the leader's mean]: what stopping now gives up, in units of reward.
    expected_loss: float
    #: Time since the start.
    elapsed_us: int
    #: Outcomes of each arm.
    outcomes: tuple[float, ...]
    #: Each arm's mean reward in its own outcomes; the mean of its posterior where there are none.
    means: tuple[float, ...]
    #: Ends of the anytime-valid intervals of the arms' means; None where they are withheld.
    lower: tuple[float, ...] | None
    upper: tuple[float, ...] | None
    #: Why there are no intervals, in words; empty if there are.
    withheld: str = ""

    @property
    def stop(self) -> bool:
        """Whether to stop."""
        return self.verdict is Verdict.STOP

    @property
    def checked(self) -> bool:
        """Whether this look was a check: the caller then keeps its time as the last one."""
        return self.verdict is not Verdict.NOT_DUE


def decide(
    alpha: Sequence[float],
    beta: Sequence[float],
    successes: Sequence[float],
    n: Sequence[float],
    started_us: int,
    now_us: int,
    last_check_us: int | None = None,
    rule: StoppingRule | None = None,
    *,
    discounted: bool = False,
) -> StoppingDecision:
    """Return whether to stop at `now_us`, given the posteriors, the outcomes in them and the time of the last check.

    `last_check_us` is None before the first check. `discounted` says that the posteriors weigh old outcomes less: the
    intervals are then withheld. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    rule = rule or StoppingRule()
    comparison = compare(alpha, beta)
    if len(alpha) < 2:
        raise ValueError("alpha has 1 entry: an experiment that can stop has at least 2 arms")
    _check_outcomes(successes, n, alpha, beta, discounted)
    if now_us < started_us:
        raise ValueError(f"now_us is {now_us}: it must not be before started_us, which is {started_us}")
    if last_check_us is not None and last_check_us > now_us:
        raise ValueError(f"last_check_us is {last_check_us}: it must not be after now_us, which is {now_us}")
    best = comparison.probability_best
    leader = int(np.flatnonzero(best >= best.max() - 1e-9)[0])
    remaining = value_remaining(alpha, beta, rule.quantile)
    probability = float(best[leader])
    since_us = None if last_check_us is None else now_us - last_check_us
    verdict, reason = _verdict(rule, leader, probability, remaining, now_us - started_us, n, since_us)
    bounds = None if discounted else arm_bounds(successes, n, rule.alpha)
    return StoppingDecision(
        verdict=verdict,
        reason=reason,
        leader=leader,
        probability_best=probability,
        value_remaining=remaining,
        expected_loss=float(comparison.expected_loss[leader]),
        elapsed_us=now_us - started_us,
        outcomes=tuple(map(float, n)),
        means=tuple(
            float(s / count) if count else float(a / (a + b))
            for s, count, a, b in zip(successes, n, alpha, beta, strict=True)
        ),
        lower=None if bounds is None else tuple(low for low, _ in bounds),
        upper=None if bounds is None else tuple(high for _, high in bounds),
        withheld=_DISCOUNTED if discounted else "",
    )


def _verdict(
    rule: StoppingRule,
    leader: int,
    probability: float,
    remaining: float,
    elapsed_us: int,
    outcomes: Sequence[float],
    since_us: int | None,
) -> tuple[Verdict, str]:
    if since_us is not None and since_us < rule.check_every_us:
        return (
            Verdict.NOT_DUE,
            f"checked {_duration(since_us)} ago: the next check is due after {_duration(rule.check_every_us)}",
        )
    if elapsed_us < rule.least_us:
        return Verdict.TOO_EARLY, f"running for {_duration(elapsed_us)}: it must run for {_duration(rule.least_us)}"
    fewest = min(range(len(outcomes)), key=outcomes.__getitem__)
    if outcomes[fewest] < rule.least_outcomes:
        return (
            Verdict.TOO_EARLY,
            f"arm {fewest} has {outcomes[fewest]:g} outcomes: every arm must have {rule.least_outcomes:g}",
        )
    chance = f"arm {leader} is the best with probability {probability:.4f}"
    value = f"the value remaining is {remaining:.2%}"
    if probability >= rule.probability_best:
        return Verdict.STOP, f"{chance}, at least {rule.probability_best:g}; {value}"
    if remaining < rule.value_remaining:
        return Verdict.STOP, f"{value}, less than {rule.value_remaining:.2%}; {chance}"
    return (
        Verdict.CONTINUE,
        f"{chance}, less than {rule.probability_best:g}, and {value}, not less than {rule.value_remaining:.2%}",
    )


def _check_outcomes(
    successes: Sequence[float], n: Sequence[float], alpha: Sequence[float], beta: Sequence[float], discounted: bool
) -> None:
    """Raise ValueError for outcomes that are none, and for posteriors that cannot hold them."""
    for name, given in (("successes", successes), ("n", n)):
        if len(given) != len(alpha):
            raise ValueError(f"{name} has {len(given)} entries for {len(alpha)} arms: every arm needs one")
    for arm, (won, count) in enumerate(zip(successes, n, strict=True)):
        if not 0.0 <= count < math.inf:
            raise ValueError(f"n[{arm}] is {count}: it must be 0 or more, and finite")
        if not 0.0 <= won <= count * (1.0 + _ROUNDING):
            raise ValueError(f"successes[{arm}] is {won}: it must be from 0 to n[{arm}], which is {count:g}")
        for name, posterior, part in (("alpha", alpha[arm], won), ("beta", beta[arm], count - won)):
            if not discounted and part > posterior * (1.0 + _ROUNDING):
                raise ValueError(
                    f"{name}[{arm}] is {posterior:g}: a posterior that holds the outcomes of arm {arm} is {part:g} or more; "
                    "if they are discounted, say so"
                )


def _duration(us: int) -> str:
    return f"{us / DAY_US:.1f} days" if us >= 2 * DAY_US else f"{us / HOUR_US:.1f} hours"
