"""Metrics: the periods that a request asks for, the rates in them, and what a reader should know before comparing."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from bandit.coverage import coverage_test
from bandit.inference import rate_interval
from bandit.reward import MICROS
from router.errors import InvalidArgumentError
from router.experiment import Arm, Definition
from router.services.times import time_us
from router.storage.metrics import ArmCounts, HeldOutOutcomes, Recorded, RuleRewards, Span
from router.v1 import posteriors_pb2 as pb

#: The most periods of one reply.
MOST_PERIODS: Final = 1_000
#: Coverage is flagged below this p.
COVERAGE_LEVEL: Final = 0.01
#: An arm with fewer decisions is said to have too few: of 100, an interval around 50 % reaches 10 points to either side.
FEW_DECISIONS: Final = 100

#: An arm's number, and whether its units are held out.
Group = tuple[int, bool]


def span_of(request: pb.GetMetricsRequest, recorded: Recorded, now_us: int) -> Span | None:
    """Return the time that a request asks for; None if nothing was ever decided and it does not say.

    Raises InvalidArgumentError naming the field of a time that is none, that is not before the other one, or of too many
    periods.
    """
    start_us = time_us(request.start_time, "start_time") if request.HasField("start_time") else recorded.first_us
    stated_end = request.HasField("end_time")
    # Other replicas' clocks may be ahead, and what they stored is to be included.
    end_us = time_us(request.end_time, "end_time") if stated_end else max(now_us, (recorded.last_us or 0) + 1)
    period_us = _period_us(request) if request.HasField("period") else None
    if start_us is None:
        return None
    if not request.HasField("start_time"):
        start_us -= start_us % period_us if period_us is not None else 0
    if start_us >= end_us:
        if not stated_end:
            raise InvalidArgumentError.of_field("start_time", "must be before now, where no end_time is given")
        if not request.HasField("start_time"):
            return None
        raise InvalidArgumentError.of_field("end_time", "must be after start_time")
    span = Span(start_us, end_us, period_us or end_us - start_us)
    if span.periods > MOST_PERIODS:
        raise InvalidArgumentError.of_field(
            "period", f"makes {span.periods:,} periods of this time, the limit is {MOST_PERIODS:,}"
        )
    return span


def _period_us(request: pb.GetMetricsRequest) -> int:
    period = request.period
    if not 0 <= period.nanos < 1_000_000_000 or period.seconds > 315_576_000_000:
        raise InvalidArgumentError.of_field("period", "must be a duration: nanos from 0 to 999,999,999")
    return period.seconds * 1_000_000 + period.nanos // 1_000


def rule_rewards(definition: Definition) -> list[RuleRewards]:
    """Return what every version of the reward rule says."""
    return [
        RuleRewards(
            version,
            {signal.name.lower(): micros for signal, micros in rule.signal_micros.items() if micros is not None},
            rule.no_feedback_micros,
            rule.mature_after // timedelta(microseconds=1),
        )
        for version, rule in definition.reward_rules.items()
    ]


def with_held_out(counts: Iterable[ArmCounts], held_out: Iterable[HeldOutOutcomes]) -> list[ArmCounts]:
    """Return the counts with the outcomes of units that are held out."""
    found = {(row.period, row.arm): row for row in held_out}
    result = []
    for row in counts:
        of = found.get((row.period, row.arm)) if row.holdout else None
        result.append(row if of is None else row._replace(outcomes=of.outcomes, reward_micros=of.reward_micros))
    return result


def metrics_of(definition: Definition, span: Span, counts: Iterable[ArmCounts]) -> list[pb.ArmMetrics]:
    """Return the entries of a reply: by period, then by arm in the order of the definition, held out units after others."""
    place = {arm.number: i for i, arm in enumerate(definition.arms)}
    arms = {arm.number: arm for arm in definition.arms}
    known = [row for row in counts if row.arm in arms]
    return [
        _entry(arms[row.arm], span, row) for row in sorted(known, key=lambda row: (row.period, place[row.arm], row.holdout))
    ]


def _entry(arm: Arm, span: Span, row: ArmCounts) -> pb.ArmMetrics:
    entry = pb.ArmMetrics(
        arm_id=arm.arm_id,
        version=arm.version,
        interactions=row.interactions,
        holdout=row.holdout,
        coverage=rate_message(row.covered, row.interactions),
        retry=rate_message(row.retries, row.interactions),
        rephrase=rate_message(row.rephrases, row.interactions),
        abandonment=rate_message(row.abandonments, row.interactions),
        follow_up=rate_message(row.follow_ups, row.interactions),
        completion=rate_message(row.completions, row.interactions),
        outcomes=row.outcomes,
        mean_reward=row.reward_micros / MICROS / row.outcomes if row.outcomes else None,
    )
    start_us, end_us = span.period(row.period)
    entry.start_time.FromMicroseconds(start_us)
    entry.end_time.FromMicroseconds(end_us)
    return entry


def rate_message(count: int, n: int) -> pb.Rate:
    """Return a share of n decisions, n > 0, with its interval."""
    lower, upper = rate_interval(count, n)
    return pb.Rate(count=count, value=count / n, lower=lower, upper=upper)


def warnings_of(definition: Definition, counts: Sequence[ArmCounts], held_out: Sequence[HeldOutOutcomes]) -> list[str]:
    """Return what a reader should know before comparing arms over the whole time."""
    if not counts:
        return ["no decisions were made in this time"]
    decisions: Counter[Group] = Counter()
    covered: defaultdict[Group, int] = defaultdict(int)
    for row in counts:
        decisions[row.arm, row.holdout] += row.interactions
        covered[row.arm, row.holdout] += row.covered
    arms = {arm.number: arm for arm in definition.arms}
    groups = [(arm, held) for arm in arms for held in (False, True) if decisions[arm, held]]
    names = {(arm, held): _name(definition, arms[arm], held=held) for arm, held in groups}
    warnings = [
        f"{names[group]} has {decisions[group]:,} decisions: below {FEW_DECISIONS} they tell little"
        for group in groups
        if decisions[group] < FEW_DECISIONS
    ]
    warnings += [
        f"{arm.arm_id} has no decisions in this time" for arm in definition.active_arms if not decisions[arm.number, False]
    ]
    p = coverage_test([covered[group] for group in groups], [decisions[group] for group in groups])
    if p is not None and p < COVERAGE_LEVEL:
        shares = ", ".join(f"{names[group]} {covered[group] / decisions[group]:.1%}" for group in groups)
        warnings.append(
            f"feedback covers the arms differently ({shares}; chi-squared p = {p:.2g}, flagged below {COVERAGE_LEVEL}):"
            " their rates may differ for that reason alone"
        )
    if unknown := sum(row.unknown for row in held_out):
        warnings.append(
            f"{unknown:,} decisions for units that are held out were rewarded with numbers that the log does not hold:"
            " they are left out of outcomes and mean_reward"
        )
    return warnings


def _name(definition: Definition, arm: Arm, *, held: bool) -> str:
    versions = sum(other.arm_id == arm.arm_id for other in definition.arms)
    name = f"{arm.arm_id} version {arm.version}" if versions > 1 else arm.arm_id
    return f"{name} (held out)" if held else name
