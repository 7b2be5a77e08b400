"""Verdicts, rules of definitions, and every move of the state machine, against figures worked out by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from bandit.canary import Assessment, start, step
from bandit.guardrails import Measures, Outcome, Tally, intolerable, judge, minimum_sample
from bandit.inference import lower_bound, upper_bound
from bandit.ramp import HOUR_US, Guardrail, Metric, Problem, Ramp, Stage, default_stages, validate
from bandit.ramp_state import (
    AUTOMATIC,
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

RETRY = Guardrail(Metric.RETRY, limit=0.1)
RELATIVE = Guardrail(Metric.RETRY, ratio=1.2)
COST = Guardrail(Metric.COST, limit=0.02, clip_usd=0.1)
DEFAULT = Ramp(default_stages())
T0 = 1_700_000_000_000_000


def tally(n: int, retries: float, with_feedback: int | None = None) -> Tally:
    return Tally(n, n if with_feedback is None else with_feedback, {Metric.RETRY: retries})


def measures(n: int, retries: float, with_feedback: int | None = None, control: Tally | None = None) -> Measures:
    return Measures(tally(n, retries, with_feedback), control or Tally())


def outcome(guardrail: Guardrail, found: Measures, strict: bool = False) -> Outcome:
    return judge(guardrail, found, alpha=0.01, miss=0.05, strict=strict).outcome


# Minimum samples


@pytest.mark.parametrize(
    ("limit", "miss", "expected"),
    [
        # -log(.05) = 2.9957; KL(.1 || .2) = .1 log(1/2) + .9 log(9/8) = .036690: 81.6.
        (0.10, 0.05, 82),
        # .15 log(1/2) + .85 log(85/70) = .061058: 49.1. .12 log(1/2) + .88 log(88/76) = .045834: 65.4.
        (0.15, 0.05, 50),
        (0.12, 0.05, 66),
        # .01 log(1/2) + .99 log(99/98) = .0031193: 960.4.
        (0.01, 0.05, 961),
        (0.10, 0.01, 126),
        # From 1/3 up: halfway to 1. .5 log(2/3) + .5 log 2 = .143841: 20.8. .9 log(90/95) + .1 log 2 = .020654: 145.04.
        (0.5, 0.05, 21),
        (0.9, 0.05, 146),
    ],
)
def test_minimum_samples(limit: float, miss: float, expected: int) -> None:
    assert minimum_sample(limit, miss) == expected


def test_what_is_intolerable() -> None:
    assert intolerable(0.1) == 0.2
    assert intolerable(1 / 3) == pytest.approx(2 / 3)
    assert intolerable(0.6) == pytest.approx(0.8)
    assert all(limit < intolerable(limit) < 1 for limit in (1e-9, 0.3, 0.5, 0.99))


@pytest.mark.parametrize(("limit", "miss", "name"), [(0.0, 0.05, "limit"), (1.0, 0.05, "limit"), (0.1, math.nan, "miss")])
def test_bad_limits_are_named(limit: float, miss: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*: it must be greater than 0 and less than 1"):
        minimum_sample(limit, miss)


# Verdicts


@pytest.mark.parametrize(
    ("n", "retries", "expected", "reason"),
    [
        (0, 0, Outcome.INSUFFICIENT, "retry unknown (0 decisions): a pass takes at least 82"),
        (81, 0, Outcome.INSUFFICIENT, "retry 0 of 81 decisions: a pass takes at least 82"),
        (82, 8, Outcome.PASS, "retry 0.09756 of 82 decisions: within the limit of 0.1"),
        (82, 9, Outcome.INSUFFICIENT, "retry 0.1098 of 82 decisions: over the limit of 0.1, not yet beyond doubt"),
        (120, 12, Outcome.PASS, "retry 0.1 of 120 decisions: within the limit of 0.1"),
        # Three retries of three: (1 + m + m^2 + m^3) / (4 m^3) = 277.75 at m = .1, over 100. Two of two: 37, under it.
        (3, 3, Outcome.FAIL, "retry 1 of 3 decisions: surely over 0.1"),
        (2, 2, Outcome.INSUFFICIENT, "a pass takes at least 82"),
        (1000, 200, Outcome.FAIL, "surely over"),
    ],
)
def test_absolute_guardrails(n: int, retries: int, expected: Outcome, reason: str) -> None:
    verdict = judge(RETRY, measures(n, retries), alpha=0.01, miss=0.05)
    assert verdict.outcome is expected
    assert reason in verdict.reason
    assert (verdict.limit, verdict.minimum, verdict.control) == (0.1, 82, None)
    assert verdict.challenger.n == n
    assert verdict.challenger.mean == (None if n == 0 else retries / n)
    assert verdict.challenger.lower == lower_bound(retries, n, 0.01)
    assert verdict.challenger.upper == upper_bound(retries, n, 0.01)


def test_a_guardrails_share_of_alpha_decides() -> None:
    # At m = .1 the average ratio of three retries of three is 277.75.
    assert judge(RETRY, measures(3, 3), 1 / 277, 0.05).outcome is Outcome.FAIL
    assert judge(RETRY, measures(3, 3), 1 / 278, 0.05).outcome is Outcome.INSUFFICIENT


def test_strict_wants_the_upper_bound_within_the_limit() -> None:
    found = measures(120, 8)
    assert outcome(RETRY, found) is Outcome.PASS
    assert upper_bound(8, 120, 0.01) > 0.1
    verdict = judge(RETRY, found, 0.01, 0.05, strict=True)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "may be as much as 0.1" in verdict.reason
    assert upper_bound(50, 1000, 0.01) < 0.1
    assert outcome(RETRY, measures(1000, 50), strict=True) is Outcome.PASS
    # No strictness makes up for a sample that is too small.
    assert outcome(RETRY, measures(81, 0), strict=True) is Outcome.INSUFFICIENT


@pytest.mark.parametrize("metric", [Metric.ERROR, Metric.SLOW])
def test_rates_of_calls_are_of_reported_calls(metric: Metric) -> None:
    guardrail = Guardrail(metric, limit=0.1, latency_over_us=2_000_000 if metric is Metric.SLOW else None)

    def found(reported: int, total: int) -> Measures:
        return Measures(Tally(1000, 1000, {metric: total}, {metric: reported}), Tally())

    assert outcome(guardrail, found(81, 0)) is Outcome.INSUFFICIENT
    assert outcome(guardrail, found(100, 10)) is Outcome.PASS
    assert outcome(guardrail, found(3, 3)) is Outcome.FAIL
    silent = judge(guardrail, Measures(Tally(1000, 1000), Tally()), 0.01, 0.05)
    assert silent.outcome is Outcome.INSUFFICIENT
    assert silent.reason.startswith(f"{metric.value} unknown (0 call reports)")


def test_costs_are_in_usd() -> None:
    # Clipped at 10 cents, the limit of 2 cents is .2 of the clip: KL(.2 || .4) = .2 log(1/2) + .8 log(4/3) = .091516: 32.7.
    found = Measures(Tally(200, 200, {Metric.COST: 20.0}, {Metric.COST: 100}), Tally())
    verdict = judge(COST, found, 0.01, 0.05)
    assert verdict.outcome is Outcome.PASS
    assert verdict.minimum == 33
    assert verdict.challenger.mean == pytest.approx(0.02)
    assert verdict.challenger.lower == pytest.approx(0.1 * lower_bound(20, 100, 0.01))
    assert verdict.challenger.upper == pytest.approx(0.1 * upper_bound(20, 100, 0.01))
    assert verdict.reason == "cost $0.02 of 100 call reports: within the limit of $0.02"
    dear = Measures(Tally(200, 200, {Metric.COST: 50.0}, {Metric.COST: 100}), Tally())
    assert outcome(COST, dear) is Outcome.FAIL


def test_relative_guardrails_compare_with_the_control_of_the_stage() -> None:
    control = tally(4000, 400)
    assert outcome(RELATIVE, measures(1000, 120, control=control)) is Outcome.PASS
    assert outcome(RELATIVE, measures(1000, 121, control=control)) is Outcome.INSUFFICIENT
    assert outcome(RELATIVE, measures(1000, 250, control=control)) is Outcome.FAIL
    assert outcome(RELATIVE, measures(1000, 250, control=tally(4000, 900))) is Outcome.PASS
    verdict = judge(RELATIVE, measures(1000, 120, control=control), 0.01, 0.05)
    assert verdict.limit == pytest.approx(0.12)
    assert verdict.minimum is None
    assert verdict.control is not None
    assert verdict.control.mean == 0.1
    assert verdict.control.upper == upper_bound(400, 4000, 0.005)
    assert verdict.challenger.lower == lower_bound(120, 1000, 0.005)
    assert (
        verdict.reason
        == "retry 0.12 of 1000 decisions, the control's retry 0.1 of 4000 decisions: within 1.2 times the control's"
    )


def test_relative_guardrails_fail_exactly_where_the_bounds_part() -> None:
    control = tally(500, 50)
    threshold = 1.2 * upper_bound(50, 500, 0.005)
    first = next(s for s in range(1001) if lower_bound(s, 1000, 0.005) > threshold)
    assert outcome(RELATIVE, measures(1000, first, control=control)) is Outcome.FAIL
    assert outcome(RELATIVE, measures(1000, first - 1, control=control)) is Outcome.INSUFFICIENT


def test_relative_guardrails_pass_once_twice_the_allowed_is_ruled_out() -> None:
    control = tally(500, 50)
    ceiling = 2 * 1.2 * lower_bound(50, 500, 0.025)
    first = next(n for n in range(1, 1000) if upper_bound(0.1 * n, n, 0.025) < ceiling)
    assert first > 100
    few = judge(RELATIVE, measures(first - 1, 0.1 * (first - 1), control=control), 0.01, 0.05)
    assert few.outcome is Outcome.INSUFFICIENT
    assert "too few to rule out twice what is allowed" in few.reason
    assert outcome(RELATIVE, measures(first, 0.1 * first, control=control)) is Outcome.PASS


def test_relative_guardrails_need_both_arms() -> None:
    alone = judge(RELATIVE, measures(100_000, 1000), 0.01, 0.05)
    assert alone.outcome is Outcome.INSUFFICIENT
    assert alone.limit is None
    assert alone.reason.endswith("both arms need evidence")
    assert outcome(RELATIVE, Measures(Tally(), tally(100_000, 1000))) is Outcome.INSUFFICIENT
    # Every decision of the challenger is retried: still no failure while the control may be as bad.
    assert outcome(RELATIVE, measures(1000, 1000)) is Outcome.INSUFFICIENT
    # No retry of either: twice nothing cannot be ruled out.
    assert outcome(RELATIVE, measures(10_000, 0, control=tally(10_000, 0))) is Outcome.INSUFFICIENT


def test_relative_guardrails_strict() -> None:
    control = tally(4000, 400)
    found = measures(1000, 100, control=control)
    assert outcome(RELATIVE, found) is Outcome.PASS
    assert outcome(RELATIVE, found, strict=True) is Outcome.INSUFFICIENT
    # Under 1.2 times the control's estimate, but not under 1.2 times what the control surely has.
    assert 1.2 * lower_bound(400, 4000, 0.005) < upper_bound(5200, 50_000, 0.005) < 0.12
    assert outcome(RELATIVE, measures(50_000, 5200, control=control), strict=True) is Outcome.INSUFFICIENT
    assert upper_bound(3500, 50_000, 0.005) <= 1.2 * lower_bound(400, 4000, 0.005)
    assert outcome(RELATIVE, measures(50_000, 3500, control=control), strict=True) is Outcome.PASS


def test_a_relative_cost() -> None:
    guardrail = Guardrail(Metric.COST, ratio=1.5, clip_usd=0.5)

    def calls(n: int, usd: float) -> Tally:
        return Tally(n, n, {Metric.COST: usd / 0.5}, {Metric.COST: n})

    verdict = judge(guardrail, Measures(calls(1000, 55.0), calls(1000, 50.0)), 0.01, 0.05)
    assert verdict.outcome is Outcome.PASS
    assert verdict.limit == pytest.approx(0.075)
    assert verdict.challenger.mean == pytest.approx(0.055)
    assert judge(guardrail, Measures(calls(1000, 150.0), calls(1000, 50.0)), 0.01, 0.05).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tally(10, 11), "with_feedback is 11: it must be at least 0 and at most decisions, which is 10"),
        (lambda: Tally(-1, 0), "with_feedback is 0"),
        (lambda: Tally(10, 1, {Metric.RETRY: 11}), r"totals\[RETRY\] is 11: .* at most the 10 observations"),
        (lambda: Tally(10, 1, {Metric.RETRY: math.nan}), r"totals\[RETRY\] is nan"),
        (lambda: Tally(10, 1, {Metric.ERROR: 1}), r"totals\[ERROR\] is 1: .* at most the 0 observations"),
        (lambda: Tally(10, 1, {}, {Metric.ERROR: 11}), r"reported\[ERROR\] is 11"),
        (lambda: Tally(10, 1, {}, {Metric.RETRY: 5}), r"reported\[RETRY\] is 5: only calls are reported"),
        (lambda: judge(RETRY, Measures(Tally(10, 1), Tally()), 0.01, 0.05), "totals lacks RETRY: a missing sum is not 0"),
        (lambda: judge(Guardrail(Metric.RETRY), measures(1, 0), 0.01, 0.05), "retry has neither limit nor ratio"),
    ],
)
def test_impossible_evidence_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Definitions


def test_the_default_stages() -> None:
    stages = default_stages()
    assert [stage.cap for stage in stages] == [0.01, 0.05, 0.20, 0.50, 1.0]
    assert [stage.duration_us // HOUR_US for stage in stages] == [2, 6, 24, 48, 0]
    assert [stage.guardrails for stage in stages] == [
        (Guardrail(Metric.RETRY, limit=limit),) for limit in (0.15, 0.12, 0.10, 0.10, 0.10)
    ]
    assert validate(DEFAULT) == []
    assert (DEFAULT.alpha, DEFAULT.miss, DEFAULT.strict, DEFAULT.approval) == (0.05, 0.05, False, False)
    assert DEFAULT.alpha_each == pytest.approx(0.01)


def one(*guardrails: Guardrail, **changes: object) -> Ramp:
    return Ramp((replace(Stage(1.0, 0, guardrails), **changes),))  # type: ignore[arg-type]


RAIL = ("stages", 0, "guardrails", 0)


@pytest.mark.parametrize(
    ("ramp", "steps", "rule"),
    [
        (Ramp(()), ("stages",), "at least one stage"),
        (Ramp((Stage(0.5, 0, (RETRY,)),)), ("stages", 0, "cap"), "0.5 must be 1: the last stage"),
        (Ramp((Stage(0.0, 0, (RETRY,)), Stage(1.0, 0, (RETRY,)))), ("stages", 0, "cap"), "0.0 must be greater than 0"),
        (Ramp((Stage(0.2, 0, (RETRY,)),) * 2 + (Stage(1.0, 0, (RETRY,)),)), ("stages", 1, "cap"), "greater than 0.2"),
        (one(RETRY, duration_us=-1), ("stages", 0, "duration_us"), "-1 must be at least 0"),
        (one(), ("stages", 0, "guardrails"), "by the clock alone"),
        (one(RETRY, min_decisions=0), ("stages", 0, "min_decisions"), "0 must be at least 1"),
        (one(RETRY, RELATIVE), ("stages", 0, "guardrails", 1, "metric"), "retry stands in this stage already"),
        (one(Guardrail(Metric.RETRY)), RAIL, "exactly one of limit and ratio"),
        (one(Guardrail(Metric.RETRY, limit=0.1, ratio=1.0)), RAIL, "exactly one of limit and ratio"),
        (one(Guardrail(Metric.RETRY, limit=0.0)), (*RAIL, "limit"), "0.0 must be greater than 0 and less than 1"),
        (one(Guardrail(Metric.ERROR, limit=1.0)), (*RAIL, "limit"), "1.0 must be"),
        (one(Guardrail(Metric.ERROR, limit=math.nan)), (*RAIL, "limit"), "nan must be"),
        (one(Guardrail(Metric.RETRY, ratio=0.99)), (*RAIL, "ratio"), "0.99 must be at least 1"),
        (one(Guardrail(Metric.RETRY, ratio=math.inf)), (*RAIL, "ratio"), "inf must be at least 1, and finite"),
        (one(Guardrail(Metric.SLOW, limit=0.1)), (*RAIL, "latency_over_us"), "slow must have one"),
        (one(Guardrail(Metric.SLOW, limit=0.1, latency_over_us=0)), (*RAIL, "latency_over_us"), "0 must be greater than 0"),
        (one(replace(RETRY, latency_over_us=5)), (*RAIL, "latency_over_us"), "5 belongs to slow, not to retry"),
        (one(Guardrail(Metric.COST, limit=0.1)), (*RAIL, "clip_usd"), "cost must have one"),
        (one(replace(RETRY, clip_usd=0.5)), (*RAIL, "clip_usd"), "0.5 belongs to cost, not to retry"),
        (one(replace(COST, limit=0.0)), (*RAIL, "limit"), "0.0 must be greater than 0, in USD"),
        (one(replace(COST, clip_usd=0.02)), (*RAIL, "clip_usd"), "0.02 must be greater than the limit, 0.02"),
        (one(replace(COST, clip_usd=math.inf)), (*RAIL, "clip_usd"), "inf must be greater than 0, and finite"),
        (replace(DEFAULT, alpha=0.5), ("alpha",), "0.5 must be greater than 0 and less than 0.5"),
        (replace(DEFAULT, miss=0.0), ("miss",), "0.0 must be greater than 0 and less than 0.5"),
        (replace(DEFAULT, min_coverage=1.5), ("min_coverage",), "1.5 must be in"),
        (replace(DEFAULT, warn_after_us=-1), ("warn_after_us",), "-1 must be at least 0"),
    ],
)
def test_rules_of_definitions(ramp: Ramp, steps: tuple[str | int, ...], rule: str) -> None:
    problems = validate(ramp)
    assert [problem.steps for problem in problems] == [steps]
    assert rule in problems[0].message
    with pytest.raises(ValueError, match=r"^ramp\.stages|^ramp\.[a-z_]+: "):
        start(ramp, T0)


def test_every_problem_is_reported() -> None:
    ramp = Ramp((Stage(2.0, -1, ()), Stage(1.0, 0, (replace(COST, ratio=0.5, limit=None),))), alpha=7)
    assert [problem.steps for problem in validate(ramp)] == [
        ("stages", 0, "cap"),
        ("stages", 0, "duration_us"),
        ("stages", 0, "guardrails"),
        ("stages", 1, "guardrails", 0, "ratio"),
        ("stages", 1, "cap"),
        ("alpha",),
    ]
    assert isinstance(validate(ramp)[0], Problem)


def test_costs_may_exceed_one_dollar() -> None:
    assert validate(one(Guardrail(Metric.COST, limit=3.0, clip_usd=20.0))) == []
    assert validate(one(Guardrail(Metric.COST, ratio=1.5, clip_usd=20.0))) == []
    assert validate(one(Guardrail(Metric.SLOW, ratio=1.0, latency_over_us=1), RETRY, COST)) == []


# The machine

HEALTHY = measures(1000, 50)
BAD = measures(1000, 300)


def at(stage: int, phase: Phase = Phase.RAMPING, **changes: object) -> RampState:
    return replace(RampState(phase, stage, T0, 7), **changes)  # type: ignore[arg-type]


def moved(assessment: Assessment) -> Transition:
    assert assessment.transition is not None
    return assessment.transition


def test_a_healthy_ramp_takes_its_time_and_no_longer() -> None:
    state, now = start(DEFAULT, T0), T0
    for stage, hours in enumerate((2, 6, 24, 48, 0)):
        assert (state.phase, state.stage, state.stage_since_us, state.version) == (Phase.RAMPING, stage, now, stage + 1)
        if hours:
            early = step(DEFAULT, state, HEALTHY, now + hours * HOUR_US - 1)
            assert (early.outcome, early.transition) == (Outcome.INSUFFICIENT, None)
            assert early.missing == (f"{hours}.0 h of at least {hours}.0 h have passed",)
            assert early.next_check_us == now + hours * HOUR_US
        now += hours * HOUR_US
        found = step(DEFAULT, state, HEALTHY, now)
        assert found.outcome is Outcome.PASS
        assert found.elapsed_us == hours * HOUR_US
        assert (moved(found).actor, moved(found).at_us, moved(found).version) == (AUTOMATIC, now, stage + 1)
        assert moved(found).verdicts == found.verdicts
        assert f"stage {stage + 1} of 5" in moved(found).reason
        state = apply(state, moved(found))
    assert state == RampState(Phase.PROMOTED, 4, now, 6)


def test_failing_needs_no_time_no_sample_and_no_coverage() -> None:
    # Four retries of four at the limit of .15: (1 + m + ... + m^4) / (5 m^4) = 464.6, over 100; three of three: 87.
    found = step(DEFAULT, at(0), measures(4, 4, with_feedback=0), T0)
    assert found.outcome is Outcome.FAIL
    transition = moved(found)
    assert (transition.from_phase, transition.from_stage) == (Phase.RAMPING, 0)
    assert (transition.to_phase, transition.to_stage) == (Phase.ROLLED_BACK, 0)
    assert transition.reason.startswith("stage 1 of 5 (up to 0.01 of the traffic) failed: retry 1 of 4 decisions")
    assert found.next_check_us is None
    assert step(DEFAULT, at(0), measures(3, 3), T0).transition is None
    assert challenger_limits(DEFAULT, apply(at(0), transition)) == (0.0, 0.0)


def test_alpha_is_shared_by_all_guardrails_of_the_ramp() -> None:
    other = Guardrail(Metric.REPHRASE, limit=0.3)
    alone, shared = one(RETRY), one(RETRY, other)
    found = Measures(Tally(3, 3, {Metric.RETRY: 3, Metric.REPHRASE: 0}), Tally())
    # The average ratio is 277.75 (above), so .0036 is the least alpha that fails.
    for ramp, alpha, expected in [
        (alone, 0.0037, Outcome.FAIL),
        (alone, 0.0035, Outcome.INSUFFICIENT),
        (shared, 0.0074, Outcome.FAIL),
        (shared, 0.0070, Outcome.INSUFFICIENT),
    ]:
        assert step(replace(ramp, alpha=alpha), at(0), found, T0).outcome is expected


def test_one_failing_guardrail_fails_the_stage_and_all_must_pass() -> None:
    ramp = one(RETRY, Guardrail(Metric.ERROR, limit=0.1))

    def found(retries: int, errors: int, reported: int) -> Measures:
        totals = {Metric.RETRY: retries, Metric.ERROR: errors}
        return Measures(Tally(1000, 1000, totals, {Metric.ERROR: reported}), Tally())

    assert step(ramp, at(0), found(50, 5, 100), T0).outcome is Outcome.PASS
    half = step(ramp, at(0), found(50, 5, 60), T0)
    assert half.outcome is Outcome.INSUFFICIENT
    assert half.missing == ("error 0.08333 of 60 call reports: a pass takes at least 82",)
    bad = step(ramp, at(0), found(50, 60, 60), T0)
    assert bad.outcome is Outcome.FAIL
    assert [verdict.outcome for verdict in bad.verdicts] == [Outcome.PASS, Outcome.FAIL]
    assert "retry" not in moved(bad).reason


def test_silence_holds_and_warns() -> None:
    silent = measures(10**6, 0, with_feedback=0)
    warned_at = T0 + 2 * HOUR_US + 24 * HOUR_US
    quiet = step(DEFAULT, at(0), silent, warned_at - 1)
    assert (quiet.outcome, quiet.transition, quiet.warning) == (Outcome.INSUFFICIENT, None, "")
    assert quiet.next_check_us == warned_at
    assert quiet.coverage == 0.0
    loud = step(DEFAULT, at(0), silent, warned_at)
    assert (loud.outcome, loud.transition, loud.next_check_us) == (Outcome.INSUFFICIENT, None, None)
    assert loud.warning == (
        "stage 1 of 5 (up to 0.01 of the traffic) has no verdict 24.0 h after its time: "
        "0.00% of 1000000 decisions have feedback, at least 10.00% must"
    )
    assert step(DEFAULT, at(0), silent, T0 + 10**6 * HOUR_US).transition is None


def test_nothing_matured_holds() -> None:
    found = step(DEFAULT, at(0), Measures(Tally(), Tally()), T0 + 3 * HOUR_US)
    assert (found.outcome, found.coverage) == (Outcome.INSUFFICIENT, None)
    assert found.missing[0] == "no decision has matured"
    assert step(replace(DEFAULT, min_coverage=0.0), at(4), Measures(Tally(), Tally()), T0).outcome is Outcome.INSUFFICIENT


def test_coverage_is_a_share_of_the_challengers_decisions() -> None:
    later = T0 + 2 * HOUR_US
    assert step(DEFAULT, at(0), measures(1000, 50, with_feedback=100), later).outcome is Outcome.PASS
    found = step(DEFAULT, at(0), measures(1000, 50, with_feedback=99), later)
    assert found.outcome is Outcome.INSUFFICIENT
    assert found.missing == ("9.90% of 1000 decisions have feedback, at least 10.00% must",)


def test_a_stage_may_ask_for_more_decisions() -> None:
    ramp = one(RETRY, min_decisions=500)
    few = step(ramp, at(0), measures(499, 20), T0)
    assert few.missing == ("499 of at least 500 decisions have matured",)
    assert step(ramp, at(0), measures(500, 20), T0).outcome is Outcome.PASS
    # It never asks for fewer than a verdict takes.
    assert step(one(RETRY, min_decisions=1), at(0), measures(81, 0), T0).outcome is Outcome.INSUFFICIENT
    assert step(ramp, at(0), measures(3, 3), T0).outcome is Outcome.FAIL


def test_a_clock_that_goes_back_advances_nothing() -> None:
    found = step(DEFAULT, at(4), HEALTHY, T0 - 1)
    assert (found.outcome, found.transition, found.elapsed_us) == (Outcome.INSUFFICIENT, None, 0)
    assert found.missing == ("the clock stands before the start of the stage",)
    assert found.next_check_us == T0
    failed = moved(step(DEFAULT, at(4), BAD, T0 - 5))
    assert (failed.to_phase, failed.at_us) == (Phase.ROLLED_BACK, T0)


def test_evidence_above_the_limit_but_not_beyond_doubt_holds() -> None:
    found = step(DEFAULT, at(0), measures(100, 20), T0 + 2 * HOUR_US)
    assert (found.outcome, found.transition) == (Outcome.INSUFFICIENT, None)
    assert "not yet beyond doubt" in found.missing[0]


def test_looking_changes_nothing() -> None:
    assert step(DEFAULT, at(1), HEALTHY, T0 + HOUR_US) == step(DEFAULT, at(1), HEALTHY, T0 + HOUR_US)


# Approval

APPROVED = replace(DEFAULT, approval=True)


def test_the_last_stage_waits_for_approval() -> None:
    found = step(APPROVED, at(4), HEALTHY, T0)
    assert moved(found).to_phase is Phase.AWAITING_APPROVAL
    waiting = apply(at(4), moved(found))
    assert (waiting.stage_since_us, waiting.version, waiting.approved) == (T0, 8, False)
    assert challenger_limits(APPROVED, waiting) == (0.5, 1.0)
    later = step(APPROVED, waiting, HEALTHY, T0 + 1000 * HOUR_US)
    assert (later.outcome, later.transition, later.warning, later.next_check_us) == (Outcome.PASS, None, "", None)
    failed = moved(step(APPROVED, waiting, BAD, T0 + HOUR_US))
    assert (failed.from_phase, failed.to_phase) == (Phase.AWAITING_APPROVAL, Phase.ROLLED_BACK)
    given = approve(APPROVED, waiting, "ann", T0 + HOUR_US)
    assert apply(waiting, given) == RampState(Phase.PROMOTED, 4, T0, 9, approved=True)
    assert (given.actor, given.at_us, given.reason) == ("ann", T0 + HOUR_US, "approved")


def test_other_stages_do_not_wait() -> None:
    assert moved(step(APPROVED, at(0), HEALTHY, T0 + 2 * HOUR_US)).to_phase is Phase.RAMPING


def test_approval_ahead_of_time_is_noted_and_moves_nothing() -> None:
    state = at(3)
    noted = apply(state, approve(APPROVED, state, "ann", T0 + HOUR_US, "reviewed the answers"))
    assert noted == RampState(Phase.RAMPING, 3, T0, 8, approved=True)
    last = apply(noted, moved(step(APPROVED, noted, HEALTHY, T0 + 48 * HOUR_US)))
    assert (last.stage, last.approved) == (4, True)
    assert moved(step(APPROVED, last, HEALTHY, T0 + 48 * HOUR_US)).to_phase is Phase.PROMOTED
    with pytest.raises(ValueError, match="approve: it is approved already"):
        approve(APPROVED, last, "ann", T0)


def test_approval_that_nobody_wants_is_refused() -> None:
    with pytest.raises(ValueError, match="approve: this ramp is promoted without approval"):
        approve(DEFAULT, at(0), "ann", T0)


# Operators


def test_advance_goes_one_stage_on() -> None:
    transition = advance(DEFAULT, at(1), "ann", T0 + 5, "traffic is low")
    assert apply(at(1), transition) == RampState(Phase.RAMPING, 2, T0 + 5, 8)
    assert (transition.actor, transition.reason, transition.verdicts) == ("ann", "traffic is low", ())
    with pytest.raises(ValueError, match="advance: stage 5 is the last one, promote instead"):
        advance(DEFAULT, at(4), "ann", T0)


@pytest.mark.parametrize("phase", [Phase.RAMPING, Phase.AWAITING_APPROVAL])
def test_promote_and_roll_back_end_an_open_ramp(phase: Phase) -> None:
    state = at(4, phase)
    assert apply(state, promote(state, "ann", T0)) == RampState(Phase.PROMOTED, 4, T0, 8, approved=True)
    assert apply(state, roll_back(state, "ann", T0)) == RampState(Phase.ROLLED_BACK, 4, T0, 8)


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED])
def test_what_has_ended_stays(phase: Phase) -> None:
    state = at(4, phase)
    for found in (HEALTHY, BAD):
        assessment = step(DEFAULT, state, found, T0 + HOUR_US)
        assert (assessment.outcome, assessment.transition, assessment.verdicts) == (None, None, ())
        assert (assessment.next_check_us, assessment.warning) == (None, "")
    refused = pytest.raises(ValueError, match=f"the ramp is {phase.value}, it must be ramping")
    with refused:
        approve(APPROVED, state, "ann", T0)
    with refused:
        advance(DEFAULT, state, "ann", T0)
    with refused:
        promote(state, "ann", T0)
    with refused:
        roll_back(state, "ann", T0)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ABORTED])
def test_abort_always_wins(phase: Phase) -> None:
    state = at(2, phase)
    aborted = apply(state, abort(state, "ann", T0 - 10, "complaints"))
    assert aborted == RampState(Phase.ABORTED, 2, T0, 8)
    assert challenger_limits(DEFAULT, aborted) == (0.0, 0.0)
    with pytest.raises(ValueError, match="abort: the ramp is aborted"):
        abort(aborted, "ann", T0)


def test_of_two_writers_one_is_refused() -> None:
    state = at(0)
    first, second = roll_back(state, "ann", T0), moved(step(DEFAULT, state, HEALTHY, T0 + 2 * HOUR_US))
    with pytest.raises(ValueError, match=r"transition\.version is 7: the state is at version 8"):
        apply(apply(state, first), second)


def test_limits_of_the_challenger() -> None:
    assert [challenger_limits(DEFAULT, at(stage)) for stage in range(5)] == [
        (0.005, 0.01),
        (0.025, 0.05),
        (0.1, 0.2),
        (0.25, 0.5),
        (0.5, 1.0),
    ]
    assert challenger_limits(DEFAULT, at(4, Phase.PROMOTED)) == (0.0, 1.0)
    assert challenger_limits(DEFAULT, at(4, Phase.ROLLED_BACK)) == (0.0, 0.0)


@pytest.mark.parametrize("stage", [-1, 5])
def test_a_state_of_another_ramp_is_refused(stage: int) -> None:
    with pytest.raises(ValueError, match=rf"state\.stage is {stage}: it must be one of the ramp's 5 stages"):
        step(DEFAULT, at(stage), HEALTHY, T0)
