"""Verdicts: what a judge that compares two answers at a time says of two arms, and how far it can be trusted.

Model
    A pair is one answer of the arm in question and one of the other arm to the same prompt. A judge is shown both and says
    A (the one shown first), B or tie. The verdict of a pair is that of its one judgment, or, judged in both orders, what
    both say if they say the same and a tie if they do not. A winner in one order and a tie in the other is a tie too: a
    preference that ends when the answers change places is not one for an answer, and half a win for it would let a judge
    who likes the first place decide by where it happens to be unsure. If any of its judgments is no verdict, neither is the
    pair: a tie would be made of a failure.

    net        the share of valid pairs that the arm wins less the share that it loses
    position   of judgments without ties, the share in which the answer shown first wins. In one random order it is 1/2
               for a judge that does not look at positions, however unequal the arms are. In both orders a judge that prefers
               an answer names it once first and once second: what is left beside 1/2 is bias.
    users      mean reward of the other arm's answers, which were served, where the judge preferred them, less the mean where
               it rejected them

Assumes
    Pairs are a random sample, and units, of which a pair may share one, are independent. What users are shown is the other
    arm's answer alone. The prior from verdicts assumes that the judge prefers answers as users reward them
    (Bradley-Terry with the odds of a reward for strengths); nothing in the verdicts tests that but `users`.

Source
    Zheng et al. (2023), "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena", sections 3.3 and 3.4, for position bias
    and for calling verdicts that swap a tie; Bradley & Terry (1952), "Rank analysis of incomplete block designs", for odds;
    Clopper & Pearson (1934) for the exact interval; `bandit.score_intervals` for the others.

Shapes
    P   pairs, J   judgments
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandit.interleave import sign_test
from bandit.score_intervals import LEVEL, Estimate, clustered_net, clustered_rate, difference, exact_rate, net_interval

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Fewer valid pairs are no ground for a conclusion: of 30 alike, an interval still reaches a tenth beyond them.
FEWEST_PAIRS: Final = 30
#: The greatest share of judged pairs that may be invalid: which pairs a judge fails on is hardly by chance.
MOST_INVALID: Final = 0.1
#: At this share for one place, half of the verdicts are the position's: .75 = .5 + .5 / 2.
MOST_FOR_ONE_PLACE: Final = 0.75


class Verdict(IntEnum):
    """What a judge said, numbered as in the proto."""

    PENDING = 0
    A = 1
    B = 2
    TIE = 3
    INVALID = 4


class Conclusion(Enum):
    """What verdicts can say."""

    ARM = "arm"
    OTHER = "other"
    UNDECIDED = "undecided"
    UNUSABLE = "unusable"


class Flaw(Enum):
    """Why verdicts are unusable."""

    TOO_FEW_PAIRS = "too few pairs"
    TOO_MANY_INVALID = "too many invalid pairs"
    POSITION = "the position decides"


@dataclass(frozen=True, slots=True)
class Judgments:
    """What a judge was asked and said; `unit` and `reward` are those of the pairs."""

    #: (J,) the pair, from 0 to P - 1.
    pair: Indices
    #: (J,) whether the arm in question was shown first.
    arm_first: Flags
    #: (J,) whether it repeats a judgment of the same order.
    repeat: Flags
    #: (J,) a `Verdict` each.
    verdict: Indices
    #: (P,) equal numbers are one unit.
    unit: Indices
    #: (P,) the user's reward of the other arm's answer, in [0, 1]; NaN where there is none.
    reward: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Raise ValueError where shapes, pairs or verdicts do not fit."""
        shapes = {name: getattr(self, name).shape for name in ("pair", "arm_first", "repeat", "verdict")}
        if len(set(shapes.values())) != 1 or self.pair.ndim != 1 or self.unit.shape != self.reward.shape:
            raise ValueError(f"shapes are {shapes}, unit {self.unit.shape}, reward {self.reward.shape}: (J,) and (P,) each")
        if self.pair.size and not (self.pair.min() >= 0 and self.pair.max() < self.unit.size):
            raise ValueError(f"pair holds {self.pair.min()} to {self.pair.max()}: it must be from 0 to {self.unit.size - 1}")
        if self.verdict.size and not (self.verdict.min() >= Verdict.PENDING and self.verdict.max() <= Verdict.INVALID):
            raise ValueError(f"verdict holds {self.verdict.min()} to {self.verdict.max()}: it must be from 0 to 4")


@dataclass(frozen=True, slots=True)
class Pairs:
    """The verdicts of pairs; every array has shape (P,), and each pair is valid, invalid or pending."""

    #: 1: the arm, -1: the other, 0: a tie; 0 where it is not valid.
    preference: Indices
    valid: Flags
    invalid: Flags
    pending: Flags


@dataclass(frozen=True, slots=True)
class Report:
    """What verdicts say. Shares are of valid pairs; intervals are 95 %, for one look."""

    judged_pairs: int
    invalid_pairs: int
    pending_pairs: int
    arm_wins: Estimate
    other_wins: Estimate
    ties: Estimate
    net: Estimate
    conclusion: Conclusion
    #: Why they are unusable; empty where they are not.
    flaws: tuple[Flaw, ...]
    first_wins: Estimate
    position_biased: bool
    #: None where pairs are judged in one order.
    order_agreement: Estimate | None
    #: None where nothing was judged twice in the same order.
    self_agreement: Estimate | None
    #: None where no judged pair has a user's reward.
    user_agreement: Estimate | None


def report(judgments: Judgments) -> Report:
    """Count what a judge said; see `Report`."""
    pairs = combine(judgments)
    preference, unit = pairs.preference[pairs.valid], judgments.unit[pairs.valid]
    net = clustered_net(preference, unit)
    first, biased = position(judgments)
    flaws = _flaws(pairs, first)
    return Report(
        judged_pairs=int(pairs.valid.sum()),
        invalid_pairs=int(pairs.invalid.sum()),
        pending_pairs=int(pairs.pending.sum()),
        arm_wins=clustered_rate(preference > 0, unit),
        other_wins=clustered_rate(preference < 0, unit),
        ties=clustered_rate(preference == 0, unit),
        net=net,
        conclusion=Conclusion.UNUSABLE if flaws else _conclusion(net),
        flaws=flaws,
        first_wins=first,
        position_biased=biased,
        order_agreement=_order_agreement(judgments, pairs),
        self_agreement=_self_agreement(judgments),
        user_agreement=_user_agreement(judgments, pairs),
    )


def combine(judgments: Judgments) -> Pairs:
    """Return the verdict of each pair. Repeated judgments are no part of it; a pair that none is asked of is pending."""
    asked, size = ~judgments.repeat, judgments.unit.size
    asks = np.bincount(judgments.pair[asked], minlength=size)
    pending = (asks == 0) | _any(judgments, asked & (judgments.verdict == Verdict.PENDING))
    invalid = ~pending & _any(judgments, asked & (judgments.verdict == Verdict.INVALID))
    valid = ~pending & ~invalid
    for_arm = np.bincount(judgments.pair[asked], _for_arm(judgments)[asked], minlength=size).astype(np.int64)
    agreed = valid & (np.abs(for_arm) == asks)
    return Pairs(np.where(agreed, np.sign(for_arm), 0), valid, invalid, pending)


def position(judgments: Judgments) -> tuple[Estimate, bool]:
    """Return how often the answer shown first wins, among judgments that are no tie, and whether that is a bias.

    Each pair judged once is a coin of its own: the interval is exact. The two judgments of a pair are not independent: the
    pair counts as one observation, that wins for the first place, for the second or for neither. The bias is tested by an
    exact sign test of pairs at 5 %.
    """
    asked = ~judgments.repeat
    first = _for_first(judgments) * asked
    decided = int(np.count_nonzero(first))
    sums = np.bincount(judgments.pair, first, minlength=judgments.unit.size)
    biased = sign_test(int((sums > 0).sum()), int((sums < 0).sum())).p_value < 1.0 - LEVEL
    if not _both_orders(judgments):
        return exact_rate(int((first > 0).sum()), decided), biased
    if not decided:
        return Estimate(None, 0.0, 1.0, 0), False
    ahead, behind = float(sums[sums > 0].sum()) / 2.0, -float(sums[sums < 0].sum()) / 2.0
    lower, upper = net_interval(ahead, behind, decided / 2.0)
    return Estimate(float((first > 0).sum()) / decided, 0.5 + lower / 2.0, 0.5 + upper / 2.0, decided), biased


def verdict_prior(control_mean: float, win_rate: float, weight: float) -> tuple[float, float]:
    """Return alpha and beta of a prior for an arm, worth `weight` outcomes, from how often it beats the control.

    `win_rate` counts ties as half. The mean has the odds of the control's mean times those of the win rate. It assumes that
    the judge prefers answers as users reward them. Raises ValueError naming the argument, its value and the rule it breaks.
    """
    for name, value in (("control_mean", control_mean), ("win_rate", win_rate)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} is {value}: it must be greater than 0 and less than 1, or there are no odds")
    if not 0.0 < weight < math.inf:
        raise ValueError(f"weight is {weight}: it must be a finite number greater than 0")
    for_arm, against = control_mean * win_rate, (1.0 - control_mean) * (1.0 - win_rate)
    return weight * for_arm / (for_arm + against), weight * against / (for_arm + against)


def _flaws(pairs: Pairs, first: Estimate) -> tuple[Flaw, ...]:
    valid, invalid = int(pairs.valid.sum()), int(pairs.invalid.sum())
    found = {
        Flaw.TOO_FEW_PAIRS: valid < FEWEST_PAIRS,
        Flaw.TOO_MANY_INVALID: invalid > MOST_INVALID * (valid + invalid),
        Flaw.POSITION: first.lower > MOST_FOR_ONE_PLACE or first.upper < 1.0 - MOST_FOR_ONE_PLACE,
    }
    return tuple(flaw for flaw, there in found.items() if there)


def _conclusion(net: Estimate) -> Conclusion:
    if net.lower > 0.0:
        return Conclusion.ARM
    return Conclusion.OTHER if net.upper < 0.0 else Conclusion.UNDECIDED


def _order_agreement(judgments: Judgments, pairs: Pairs) -> Estimate | None:
    """Return the share of valid pairs of which both orders say the same, a tie in both included."""
    if not _both_orders(judgments):
        return None
    asked = ~judgments.repeat
    said = _for_arm(judgments)
    least, most = np.full(judgments.unit.size, 1), np.full(judgments.unit.size, -1)
    np.minimum.at(least, judgments.pair[asked], said[asked])
    np.maximum.at(most, judgments.pair[asked], said[asked])
    return clustered_rate((least == most)[pairs.valid], judgments.unit[pairs.valid])


def _self_agreement(judgments: Judgments) -> Estimate | None:
    """Return the share of valid repeated judgments that say what the same order said before."""
    if not judgments.repeat.any():
        return None
    place = 2 * judgments.pair + judgments.arm_first
    before = np.zeros(2 * judgments.unit.size, dtype=np.int64)
    before[place[~judgments.repeat]] = judgments.verdict[~judgments.repeat]
    again, pair = judgments.verdict[judgments.repeat], judgments.pair[judgments.repeat]
    earlier = before[place[judgments.repeat]]
    valid = np.isin(again, _VALID) & np.isin(earlier, _VALID)
    return clustered_rate((again == earlier)[valid], judgments.unit[pair][valid])


def _user_agreement(judgments: Judgments, pairs: Pairs) -> Estimate | None:
    """Return the mean reward of served answers that were preferred less that of those rejected."""
    rewarded = ~np.isnan(judgments.reward)
    preferred, rejected = rewarded & (pairs.preference < 0), rewarded & (pairs.preference > 0)
    if not (preferred.any() and rejected.any()):
        return None
    rates = (clustered_rate(judgments.reward[group], judgments.unit[group]) for group in (preferred, rejected))
    return difference(*rates)


_VALID: Final = (Verdict.A, Verdict.B, Verdict.TIE)


def _for_first(judgments: Judgments) -> Indices:
    """Return 1 where a judgment is for the answer shown first, -1 where it is for the second, else 0."""
    said: Indices = (judgments.verdict == Verdict.A).astype(np.int64) - (judgments.verdict == Verdict.B)
    return said


def _for_arm(judgments: Judgments) -> Indices:
    """Return 1 where a judgment is for the arm in question, -1 where it is for the other, else 0."""
    said: Indices = np.where(judgments.arm_first, 1, -1) * _for_first(judgments)
    return said


def _both_orders(judgments: Judgments) -> bool:
    return bool((np.bincount(judgments.pair[~judgments.repeat], minlength=1) > 1).any())


def _any(judgments: Judgments, of: Flags) -> Flags:
    return np.bincount(judgments.pair[of], minlength=judgments.unit.size) > 0
