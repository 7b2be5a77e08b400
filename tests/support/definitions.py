"""Definitions of experiments for property tests: any valid one, with every optional field now there, now absent."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st

from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import AllocationRule, AssignmentRule, Experiment, Guardrail, RampRule, RewardRule, ShadowRule

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,20}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
LABELS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
CONFIGS = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | NUMBERS | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def durations(most_s: int) -> st.SearchStrategy[Duration]:
    seconds = st.integers(1, most_s - 1) | st.sampled_from(
        [whole for whole in (60, 3600, 86_400, 7 * 86_400) if whole < most_s]
    )
    return st.builds(lambda s, n: Duration(seconds=s, nanos=n), seconds, st.just(0) | st.integers(0, 999_999_999))


RATES = st.floats(0, 1, exclude_min=True, exclude_max=True)


@st.composite
def guardrails(draw: st.DrawFn, metrics: list[int]) -> list[Guardrail]:
    """Valid guardrails on some of these metrics, none twice."""
    found = []
    for metric in draw(st.lists(st.sampled_from(metrics), unique=True, min_size=1)):
        rail = Guardrail(metric=metric)  # type: ignore[arg-type]
        if draw(st.booleans()):
            rail.ratio = draw(st.floats(1, 1e9))
        else:
            rail.limit = draw(RATES)
        if metric == Guardrail.METRIC_SLOW:
            rail.latency_over.CopyFrom(draw(durations(3600)))
        if metric == Guardrail.METRIC_COST:
            rail.clip_usd = draw(st.floats(1, 100))
        found.append(rail)
    return found


@st.composite
def ramps(draw: st.DrawFn, challenger: str) -> RampRule:
    """Valid ramps, with every optional field now there, now absent."""
    own, common = Guardrail.Metric.values()[1:4], Guardrail.Metric.values()[4:]
    ramp = RampRule(challenger_arm_id=draw(st.sampled_from(["", challenger])))
    ramp.strict, ramp.approval = draw(st.booleans()), draw(st.booleans())
    if draw(st.booleans()):
        caps = sorted(draw(st.lists(RATES, max_size=3, unique=True)))
        for cap in [*caps, 1.0]:
            stage = ramp.stages.add(cap=cap, guardrails=draw(guardrails(own)))
            if draw(st.booleans()):
                stage.duration.CopyFrom(draw(durations(7_776_000)))
            if draw(st.booleans()):
                stage.min_decisions = draw(st.integers(1, 2**53))
    if draw(st.booleans()):
        ramp.guardrails.extend(draw(guardrails(common)))
    if draw(st.booleans()):
        ramp.alpha = draw(st.floats(0, 0.5, exclude_min=True, exclude_max=True))
    if draw(st.booleans()):
        ramp.min_coverage = draw(st.floats(0, 1))
    if draw(st.booleans()):
        ramp.warn_after.CopyFrom(draw(durations(7_776_000)))
    return ramp


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    """Valid experiments, with every optional field now there, now absent."""

    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | strategy)

    arm_ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    experiment = Experiment(experiment_id=draw(IDS), description=draw(TEXT))
    control = draw(st.integers(-1, len(arm_ids) - 1))
    for i, arm_id in enumerate(arm_ids):
        arm = experiment.arms.add(arm_id=arm_id, model=draw(LABELS), family=draw(LABELS))
        arm.role = types.ROLE_CONTROL if i == control else draw(st.sampled_from([0, types.ROLE_CHALLENGER]))
        if (config := maybe(CONFIGS)) is not None:
            arm.config.SetInParent()
            arm.config.update(config)
        # The first arm is uncapped, so the caps always add up.
        if i and (cap := maybe(st.floats(0, 1, exclude_min=True))) is not None:
            arm.cap = cap
        if (cost := maybe(st.floats(0, allow_infinity=False))) is not None:
            arm.cost_usd = cost
    kind = draw(st.sampled_from(AllocationRule.Kind.values()))
    fixed = kind == AllocationRule.KIND_FIXED
    if fixed or draw(st.booleans()):
        experiment.allocation.SetInParent()
        experiment.allocation.kind = kind
        if (floor := maybe(st.floats(0, 0.12))) is not None:
            experiment.allocation.floor = floor
        if (prior := maybe(st.tuples(st.floats(0.01, 1e9), st.floats(0.01, 1e9)))) is not None:
            experiment.allocation.prior.alpha, experiment.allocation.prior.beta = prior
        if kind == AllocationRule.KIND_TOP_TWO and (share := maybe(st.floats(0, 1, exclude_min=True))) is not None:
            experiment.allocation.leader_share = share
        if kind in (AllocationRule.KIND_UNSPECIFIED, AllocationRule.KIND_THOMPSON, AllocationRule.KIND_TOP_TWO):
            for arm_id in draw(st.lists(st.sampled_from(arm_ids), unique=True)):
                alpha, beta = draw(st.tuples(st.floats(0.01, 1e9), st.floats(0.01, 1e9)))
                experiment.allocation.priors[arm_id].alpha, experiment.allocation.priors[arm_id].beta = alpha, beta
        if not fixed and kind != AllocationRule.KIND_UNIFORM and draw(st.booleans()):
            length = draw(durations(315_360_000).filter(lambda found: found.seconds >= 3600))
            getattr(experiment.allocation.discount, draw(st.sampled_from(["half_life", "window"]))).CopyFrom(length)
        if not fixed and kind != AllocationRule.KIND_UNIFORM and draw(st.booleans()):
            segments = experiment.allocation.segments
            segments.names.extend(draw(st.lists(IDS.map(lambda name: name[:64]), min_size=1, max_size=20, unique=True)))
            if (weight := maybe(st.floats(0, 1))) is not None:
                segments.weight = weight
            if (largest := maybe(st.floats(0, 1e6))) is not None:
                segments.largest = largest
        if fixed:
            shares = [draw(st.integers(1, 100)) for _ in arm_ids]
            experiment.allocation.weights.update({a: s / sum(shares) for a, s in zip(arm_ids, shares, strict=True)})
    if fixed or draw(st.booleans()):
        experiment.assignment.SetInParent()
        kinds = [AssignmentRule.KIND_STICKY_HASH, AssignmentRule.KIND_STICKY_STORED]
        if experiment.allocation.kind == AllocationRule.KIND_UNIFORM and len(arm_ids) > 1:
            kinds += [AssignmentRule.KIND_INTERLEAVED]
        if not fixed:
            kinds += [AssignmentRule.KIND_UNSPECIFIED, AssignmentRule.KIND_PER_REQUEST]
        experiment.assignment.kind = draw(st.sampled_from(kinds))
        if experiment.assignment.kind == AssignmentRule.KIND_INTERLEAVED:
            for arm in experiment.arms:
                arm.ClearField("cap")
        experiment.assignment.unit = draw(st.sampled_from(AssignmentRule.Unit.values()))
        sticky = experiment.assignment.kind == AssignmentRule.KIND_STICKY_STORED
        if sticky and (ttl := maybe(durations(315_360_000))) is not None:
            experiment.assignment.ttl.CopyFrom(ttl)
    if draw(st.booleans()):
        experiment.reward_rule.SetInParent()
        for signal in draw(st.lists(st.sampled_from(types.Signal.values()[1:]), unique=True)):
            experiment.reward_rule.signals.add(signal=signal, reward=maybe(st.floats(0, 1)))
        if (window := maybe(durations(7_776_000))) is not None:
            experiment.reward_rule.attribution_window.CopyFrom(window)
        experiment.reward_rule.evidence_unit = draw(st.sampled_from(RewardRule.EvidenceUnit.values()))
        if (share := maybe(st.integers(0, 1_000_000))) is not None:
            experiment.reward_rule.unit_share = share
        add_maturing(draw, experiment.reward_rule)
    if control >= 0 and experiment.assignment.kind != AssignmentRule.KIND_INTERLEAVED:
        if draw(st.booleans()):
            experiment.assignment.holdout = draw(st.floats(0, 0.5))
        if len(arm_ids) == 2 and draw(st.booleans()):
            experiment.ramp.CopyFrom(draw(ramps(arm_ids[1 - control])))
    add_shadow(draw, experiment)
    return experiment


def add_shadow(draw: st.DrawFn, experiment: Experiment) -> None:
    """Add shadow arms, among the others, and the rule that they need; or the rule alone; or nothing."""
    taken = {arm.arm_id for arm in experiment.arms}
    arm_ids = draw(st.lists(IDS.filter(lambda arm_id: arm_id not in taken), max_size=2, unique=True))
    for arm_id in arm_ids:
        arms = list(experiment.arms)
        arms.insert(draw(st.integers(0, len(arms))), types.Arm(arm_id=arm_id, model=draw(LABELS), role=types.ROLE_SHADOW))
        del experiment.arms[:]
        experiment.arms.extend(arms)
    if not arm_ids and draw(st.booleans()):
        return
    rule = ShadowRule(text=draw(st.sampled_from(types.TextMode.values()[1:])))
    if draw(st.booleans()):
        rule.rate = draw(st.floats(0, 1))
    if rule.text == types.TEXT_MODE_TRUNCATED and draw(st.booleans()):
        rule.text_limit = draw(st.integers(1, 100_000))
    if draw(st.booleans()):
        rule.daily_budget_usd = draw(st.floats(0, exclude_min=True, allow_infinity=False))
        for arm in experiment.arms:
            if arm.role == types.ROLE_SHADOW or draw(st.booleans()):
                arm.cost_usd = draw(st.floats(0, 100))
    experiment.shadow.CopyFrom(rule)


def add_maturing(draw: st.DrawFn, rule: RewardRule) -> None:
    """Add what is derived and when it counts, within the attribution window."""
    window_us = rule.attribution_window.ToMicroseconds() if rule.HasField("attribution_window") else 7 * 86_400 * 10**6
    if draw(st.booleans()):
        rule.derived.SetInParent()
        if draw(st.booleans()):
            rule.derived.retry_within.CopyFrom(draw(durations(3600)))
        if draw(st.booleans()):
            rule.derived.rephrased_similarity = draw(st.floats(0, 1, exclude_min=True))
            rule.derived.rephrased_within.CopyFrom(draw(durations(86_400)))
        if draw(st.booleans()):
            rule.derived.abandon_after.FromMicroseconds(draw(st.integers(10**6, min(window_us, 2_592_000 * 10**6))))
    if draw(st.booleans()):
        rule.mature_after.FromMicroseconds(draw(st.integers(1, window_us)))
        if draw(st.booleans()):
            rule.no_feedback = draw(st.floats(0, 1))
