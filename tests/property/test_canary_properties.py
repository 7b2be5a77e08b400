"""What must hold of every rate, and of every ramp whatever happens to it."""

import math
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.canary import start, step
from bandit.guardrails import Measures, Outcome, Tally, judge, minimum_sample
from bandit.inference import confidence_sequence, lower_bound, rate_interval, upper_bound
from bandit.ramp import Guardrail, Metric, Ramp, Stage, validate
from bandit.ramp_state import (
    Phase,
    RampState,
    Transition,
    abort,
    advance,
    apply,
    approve,
    challenger_limits,
    promote,
    roll_back,
)

Counts = tuple[float, float]

share = st.one_of(st.floats(0, 1), st.floats(-14, 0).map(lambda e: 10**e), st.floats(-14, 0).map(lambda e: 1 - 10**e))
size = st.one_of(st.integers(0, 50), st.integers(0, 10**9)).map(float)
counts: st.SearchStrategy[Counts] = st.tuples(share, size).map(lambda pair: (pair[0] * pair[1], pair[1]))
alpha = st.one_of(st.sampled_from([0.05, 0.01, 0.0005]), st.floats(1e-9, 0.99))


@settings(deadline=None)
@given(counts, alpha)
def test_intervals_hold_the_mean_and_one_sided_bounds_are_inside(both: Counts, level: float) -> None:
    s, n = both
    lower, upper = confidence_sequence(s, n, level)
    mean = s / n if n else 0.5
    assert 0 <= lower <= lower_bound(s, n, level) * (1 + 1e-9)
    assert lower_bound(s, n, level) <= mean * (1 + 1e-12)
    assert mean * (1 - 1e-12) <= upper_bound(s, n, level)
    assert upper_bound(s, n, level) * (1 - 1e-9) <= upper <= 1
    wilson = rate_interval(s, n, 1 - level)
    assert 0 <= wilson[0] <= mean * (1 + 1e-12)
    assert mean * (1 - 1e-12) <= wilson[1] <= 1


@settings(deadline=None)
@given(counts, alpha)
def test_a_mirror_image_has_mirrored_bounds(both: Counts, level: float) -> None:
    s, n = both
    lower, upper = confidence_sequence(s, n, level)
    mirrored = confidence_sequence(n - s, n, level)
    assert math.isclose(1 - mirrored[0], upper, rel_tol=0, abs_tol=1e-12)
    assert math.isclose(1 - mirrored[1], lower, rel_tol=0, abs_tol=1e-12)
    assert math.isclose(1 - lower_bound(n - s, n, level), upper_bound(s, n, level), rel_tol=0, abs_tol=1e-12)


@settings(deadline=None)
@given(counts, alpha, alpha)
def test_more_confidence_means_wider(both: Counts, one: float, other: float) -> None:
    s, n = both
    low, high = min(one, other), max(one, other)
    assert confidence_sequence(s, n, low)[0] <= confidence_sequence(s, n, high)[0] * (1 + 1e-9)
    assert confidence_sequence(s, n, low)[1] >= confidence_sequence(s, n, high)[1] * (1 - 1e-9)
    assert lower_bound(s, n, low) <= lower_bound(s, n, high) * (1 + 1e-9)
    assert upper_bound(s, n, low) >= upper_bound(s, n, high) * (1 - 1e-9)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), alpha)
def test_a_success_raises_the_lower_bound_and_a_failure_lowers_it(s: int, f: int, level: float) -> None:
    now = lower_bound(s, s + f, level)
    assert lower_bound(s + 1, s + f + 1, level) > now
    assert lower_bound(s, s + f + 1, level) <= now


@given(st.floats(0.001, 0.99), st.floats(0.001, 0.4), st.floats(0.001, 0.4))
def test_a_smaller_miss_takes_a_larger_sample(limit: float, one: float, other: float) -> None:
    assert minimum_sample(limit, min(one, other)) >= minimum_sample(limit, max(one, other)) >= 1


# Ramps


@st.composite
def ramps(draw: st.DrawFn) -> Ramp:
    caps = [*sorted(draw(st.sets(st.sampled_from([0.001, 0.01, 0.05, 0.2, 0.5, 0.9]), max_size=3))), 1.0]
    retry = st.one_of(
        st.floats(0.02, 0.95).map(lambda limit: Guardrail(Metric.RETRY, limit=limit)),
        st.floats(1, 4).map(lambda ratio: Guardrail(Metric.RETRY, ratio=ratio)),
    )
    cost = st.one_of(
        st.floats(0.01, 0.9).map(lambda limit: Guardrail(Metric.COST, limit=limit, clip_usd=1.0)),
        st.floats(1, 4).map(lambda ratio: Guardrail(Metric.COST, ratio=ratio, clip_usd=2.0)),
    )
    rails = st.one_of(st.tuples(retry), st.tuples(cost), st.tuples(retry, cost))
    stages = [Stage(cap, draw(st.integers(0, 50)), draw(rails), draw(st.sampled_from([None, 100]))) for cap in caps]
    return Ramp(
        tuple(stages),
        alpha=draw(st.floats(0.001, 0.49)),
        strict=draw(st.booleans()),
        approval=draw(st.booleans()),
        min_coverage=draw(st.floats(0, 1)),
        warn_after_us=draw(st.integers(0, 30)),
    )


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    decisions = draw(st.one_of(st.integers(0, 20), st.integers(0, 10**6)))
    calls = draw(st.integers(0, decisions))
    heard = draw(st.integers(0, decisions))
    rate = draw(st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]))
    return Tally(decisions, heard, {Metric.RETRY: round(rate * decisions), Metric.COST: rate * calls}, {Metric.COST: calls})


looks = st.tuples(st.builds(Measures, tallies(), tallies()), st.integers(-10, 200))
verbs = st.sampled_from(["look"] * 6 + ["approve", "advance", "promote", "roll_back", "abort"])


def attempt(verb: str, ramp: Ramp, state: RampState, found: Measures, now_us: int) -> Transition | None:
    """The transition of one event, None if nothing follows or the verb is refused."""
    if verb == "look":
        return step(ramp, state, found, now_us).transition
    try:
        return {
            "approve": lambda: approve(ramp, state, "ann", now_us),
            "advance": lambda: advance(ramp, state, "ann", now_us),
            "promote": lambda: promote(state, "ann", now_us),
            "roll_back": lambda: roll_back(state, "ann", now_us),
            "abort": lambda: abort(state, "ann", now_us),
        }[verb]()
    except ValueError:
        return None


@settings(deadline=None)
@given(ramps(), st.lists(st.tuples(verbs, looks), max_size=15))
def test_whatever_happens_a_ramp_moves_by_its_rules(ramp: Ramp, events: list[tuple[str, tuple[Measures, int]]]) -> None:
    assert validate(ramp) == []
    states = [start(ramp, 0)]
    for verb, (found, now_us) in events:
        state = states[-1]
        transition = attempt(verb, ramp, state, found, now_us)
        if verb == "abort":
            assert (transition is None) == (state.phase is Phase.ABORTED), "abort always wins"
        if transition is None:
            continue
        assert (transition.from_phase, transition.from_stage) == (state.phase, state.stage)
        assert transition.at_us >= state.stage_since_us, "time does not go back"
        assert transition.reason
        if verb == "look":
            allowed = {
                Phase.RAMPING: {Phase.RAMPING, Phase.AWAITING_APPROVAL, Phase.PROMOTED, Phase.ROLLED_BACK},
                Phase.AWAITING_APPROVAL: {Phase.ROLLED_BACK},
            }
            assert transition.to_phase in allowed[state.phase], "what has ended moves by no look"
            if transition.to_phase is not Phase.ROLLED_BACK:
                assert now_us >= state.stage_since_us + ramp.stages[state.stage].duration_us
            if transition.to_phase is Phase.PROMOTED:
                assert state.approved or not ramp.approval
        states.append(apply(state, transition))
    for before, after in pairwise(states):
        assert after.version == before.version + 1
        assert after.stage in (before.stage, before.stage + 1)
        assert after.approved >= before.approved
        assert (after.stage_since_us == before.stage_since_us) or after.stage > before.stage
    for state in states:
        floor, cap = challenger_limits(ramp, state)
        assert 0 <= floor <= cap <= 1
        if state.phase in (Phase.RAMPING, Phase.AWAITING_APPROVAL):
            assert cap == ramp.stages[state.stage].cap
        elif state.phase is not Phase.PROMOTED:
            assert cap == 0


@settings(deadline=None)
@given(ramps(), looks, st.integers(0, 3))
def test_an_assessment_is_the_sum_of_its_parts(ramp: Ramp, look: tuple[Measures, int], stage: int) -> None:
    found, now_us = look
    state = RampState(Phase.RAMPING, min(stage, len(ramp.stages) - 1), 0, 3)
    assessment = step(ramp, state, found, now_us)
    outcomes = {verdict.outcome for verdict in assessment.verdicts}
    assert (assessment.outcome is Outcome.FAIL) == (Outcome.FAIL in outcomes)
    assert (assessment.outcome is Outcome.PASS) == (not assessment.missing)
    assert (assessment.transition is None) == (assessment.outcome is Outcome.INSUFFICIENT)
    if assessment.outcome is Outcome.PASS:
        assert outcomes == {Outcome.PASS}
        assert now_us >= ramp.stages[state.stage].duration_us
        assert assessment.coverage is not None
        assert assessment.coverage >= ramp.min_coverage
    if assessment.next_check_us is not None:
        assert assessment.next_check_us > now_us
    if assessment.transition is None and assessment.next_check_us is not None:
        before = step(ramp, state, found, assessment.next_check_us - 1)
        assert before.transition is None, "the clock changes nothing before the next check"
        assert bool(before.warning) == bool(assessment.warning)
    if assessment.warning:
        assert now_us >= ramp.stages[state.stage].duration_us + ramp.warn_after_us


@settings(deadline=None)
@given(ramps(), looks)
def test_strictness_only_holds_back(ramp: Ramp, look: tuple[Measures, int]) -> None:
    for rail in ramp.stages[0].guardrails:
        plain, strict = (judge(rail, look[0], 0.02, 0.05, strict) for strict in (False, True))
        if plain.outcome is strict.outcome:
            continue
        assert (plain.outcome, strict.outcome) == (Outcome.PASS, Outcome.INSUFFICIENT)


@settings(deadline=None)
@given(st.floats(0.02, 0.9), st.integers(0, 3000), share)
def test_a_lower_limit_is_never_kinder(limit: float, n: int, rate: float) -> None:
    severity = {Outcome.PASS: 0, Outcome.INSUFFICIENT: 1, Outcome.FAIL: 2}
    found = Measures(Tally(n, n, {Metric.RETRY: round(rate * n)}), Tally())
    rail = Guardrail(Metric.RETRY, limit=limit)
    lenient, tight = judge(rail, found, 0.01, 0.05), judge(replace(rail, limit=0.9 * limit), found, 0.01, 0.05)
    fails = [severity[verdict.outcome] == 2 for verdict in (lenient, tight)]
    assert fails[1] >= fails[0]
    if tight.outcome is Outcome.PASS and lenient.minimum is not None and n >= lenient.minimum:
        assert lenient.outcome is Outcome.PASS
