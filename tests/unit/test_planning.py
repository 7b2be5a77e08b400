"""Plans: sizes against exact power, forecasts by hand, and what is recommended when, with its reason."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, gamma

from bandit.crossover import sensitivity_gain
from bandit.guardrails import minimum_sample
from bandit.planning import Forecast, Plan, Strategy, plan
from bandit.planning_formulas import Ending, _chance_of_few, ab_size, pair_size, pairs_a_turn, thompson_flow
from bandit.situation import History, Question, Risk

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
QUESTION = Question(effect=0.02, baseline=0.62, traffic_per_day=5000.0, feedback_delay_us=2 * HOUR_US, risk=Risk.LOW)


def forecast(found: Plan, strategy: Strategy) -> Forecast:
    result = found.of(strategy).forecast
    assert result is not None
    return result


def test_ab_size_by_hand() -> None:
    # (1.959964 sqrt(2 .325 .675) + .841621 sqrt(.25 .75 + .4 .6))^2 / .15^2
    assert ab_size(0.25, 0.15, 0.05, 0.8) == pytest.approx(151.869, abs=1e-3)
    # (1.959964 sqrt(2 .63 .37) + .841621 sqrt(.62 .38 + .64 .36))^2 / .02^2
    assert ab_size(0.62, 0.02, 0.05, 0.8) == pytest.approx(9146.69, abs=0.01)


def z_test_rejects(n: int, p1: float, p2: float) -> float:
    """The exact chance that the pooled two-sided z-test at .05 rejects, over all pairs of counts."""
    k = np.arange(n + 1)
    pooled = (k[:, None] + k) / (2 * n)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (k - k[:, None]) / n / np.sqrt(pooled * (1 - pooled) * 2 / n)
    return float(binom.pmf(k, n, p1) @ (np.abs(np.nan_to_num(z)) > 1.959964) @ binom.pmf(k, n, p2))


@pytest.mark.parametrize(("baseline", "effect"), [(0.25, 0.15), (0.62, 0.08), (0.1, 0.07)])
def test_the_ab_size_has_the_power_that_it_promises(baseline: float, effect: float) -> None:
    n = round(ab_size(baseline, effect, 0.05, 0.8))
    assert z_test_rejects(n, baseline, baseline + effect) == pytest.approx(0.8, abs=0.015)
    assert z_test_rejects(n, baseline, baseline) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(("correlation", "accuracy"), [(0.0, 1.0), (0.5, 1.0), (0.3, 0.8)])
def test_the_pair_size_has_the_power_that_it_promises(correlation: float, accuracy: float) -> None:
    p, q, effect = 0.6, 0.66, 0.06
    n = round(pair_size(p, effect, 0.05, 0.8, correlation, accuracy))
    # The two kinds of pairs that differ, from the joint law of two correlated successes, then through the judge.
    both = p * q + correlation * (p * (1 - p) * q * (1 - q)) ** 0.5
    better, worse = q - both, p - both
    seen = accuracy * better + (1 - accuracy) * worse
    differ = np.arange(1, n + 1)
    power = 0.0
    for d, chance in zip(differ, binom.pmf(differ, n, better + worse), strict=True):
        half = 1.959964 * d**0.5 / 2
        share = seen / (better + worse)
        upper, lower = np.floor(d / 2 + half), np.ceil(d / 2 - half)
        power += chance * (binom.sf(upper, d, share) + binom.cdf(lower - 1, d, share))
    assert power == pytest.approx(0.8, abs=0.02)


def test_a_judge_who_guesses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"accuracy is 0\.5"):
        pair_size(0.5, 0.1, 0.05, 0.8, 0.0, 0.5)


def test_without_feedback_the_flow_shares_out() -> None:
    # A million decisions before the first outcome; about a thousand outcomes later it is decided.
    flow = thompson_flow(4, 0.1, 0.25, 1e6)
    assert flow.outcomes == pytest.approx(1e6, rel=2e-3)
    assert flow.regret == pytest.approx(0.1 * 0.75 * 1e6, rel=1e-3)


def test_the_flow_scales_as_the_diffusion_does() -> None:
    # Half the effect: four times the outcomes and twice the regret, but for the prior's two.
    wide, narrow = thompson_flow(3, 0.02, 0.2), thompson_flow(3, 0.01, 0.2)
    assert narrow.outcomes / wide.outcomes == pytest.approx(4, rel=0.05)
    assert narrow.regret / wide.regret == pytest.approx(2, rel=0.05)
    late = [thompson_flow(2, 0.05, 0.2, delay) for delay in (0.0, 300.0, 3000.0)]
    assert late[0].regret < late[1].regret < late[2].regret


def test_the_forecasts_by_hand() -> None:
    found = plan(QUESTION)
    ab = forecast(found, Strategy.AB)
    assert (ab.per_arm, ab.sample_size) == (9147, 18294)
    assert ab.days == pytest.approx(18294 / 5000 + 2 / 24)
    # Half of the decisions lose .02, those included that are made while the last feedback is on its way.
    assert ab.expected_regret == ab.harm == pytest.approx(0.01 * (18294 + 5000 * 2 / 24), abs=0.01)
    assert (ab.false_positive, ab.miss) == (0.05, pytest.approx(0.2))

    canary = forecast(found, Strategy.CANARY)
    stages = [(0.01, 2, 0.15), (0.05, 6, 0.12), (0.2, 24, 0.1), (0.5, 48, 0.1), (1.0, 0, 0.1)]
    sizes = [minimum_sample(limit) for _, _, limit in stages]
    lasts = [max(hours / 24, n / cap / 5000) + 2 / 24 for n, (cap, hours, _) in zip(sizes, stages, strict=True)]
    assert canary.sample_size == sum(sizes)
    assert canary.days == pytest.approx(sum(lasts))
    assert canary.harm == pytest.approx(0.02 * 5000 * sum(x * cap for x, (cap, _, _) in zip(lasts, stages, strict=True)))
    assert (canary.false_positive, canary.miss) == (0.05, 0.05)

    shadow = forecast(found, Strategy.SHADOW)
    assert shadow.per_arm == pytest.approx(pair_size(0.62, 0.02, 0.05, 0.8, 0.0, 0.8), abs=1)
    assert shadow.days == pytest.approx(shadow.per_arm / 5000)
    assert shadow.harm == 0.0
    assert shadow.expected_regret == pytest.approx(0.01 * shadow.per_arm)

    offline = forecast(found, Strategy.OFFLINE)
    assert (offline.days, offline.decisions, offline.expected_regret, offline.harm) == (0.0, 0, 0.0, 0.0)

    bandit = forecast(found, Strategy.BANDIT)
    assert (bandit.days, bandit.decisions) == (14, 70_000), "the rule's least time"
    sure = thompson_flow(2, 0.02, 0.62 * 0.38, 5000 * 2 / 24, 0.01, Ending(tolerance=0.005))
    # What is left to learn after that costs little; the floor costs .02 of every hundredth decision.
    floor = 0.02 * 0.01 * (70_000 - sure.outcomes)
    assert sure.regret + floor < bandit.expected_regret < sure.regret + 5 * floor
    assert bandit.false_positive is None


def test_a_bandit_waits_for_the_time_of_its_rule_and_pays_the_floor() -> None:
    # So great an effect is plain within the hour; the rule has the worse arm served until the 14th day, .01 of the time.
    found = plan(Question(effect=0.2, baseline=0.5, traffic_per_day=5000.0, feedback_delay_us=0))
    bandit = forecast(found, Strategy.BANDIT)
    assert (bandit.days, bandit.decisions) == (14, 70_000)
    assert bandit.expected_regret > 0.2 * 0.01 * 70_000
    reasons = found.of(Strategy.BANDIT).reasons
    assert any("waits for 14 days and 100 outcomes of every arm; meanwhile each keeps 0.01" in one for one in reasons)
    assert any(one.startswith("it is sure after 0.0") for one in reasons)
    # An A/B test is done in an hour and loses a tenth of that.
    assert found.recommended is Strategy.AB


def test_a_bandit_waits_for_the_outcomes_of_the_worse_arm() -> None:
    # At 100 a day and a floor of .01 the worse arm has hardly more than one a day: 14 days would not do.
    found = plan(Question(effect=0.2, baseline=0.5, traffic_per_day=100.0, feedback_delay_us=0))
    bandit = forecast(found, Strategy.BANDIT)
    assert 40 < bandit.days < 100
    assert bandit.days == round(bandit.days), "the rule looks once a day"
    covered = plan(Question(effect=0.2, baseline=0.5, traffic_per_day=200.0, feedback_delay_us=0), History(coverage=0.5))
    half = forecast(covered, Strategy.BANDIT)
    assert (half.sample_size, half.days) == (bandit.sample_size, bandit.days)
    assert half.expected_regret == pytest.approx(2 * bandit.expected_regret)


def test_a_flow_ends_as_it_is_told() -> None:
    plain = thompson_flow(2, 0.05, 0.2)
    assert plain.outcomes == plain.sure
    assert thompson_flow(2, 0.05, 0.2, ending=Ending(tolerance=0.05)).sure < 0.5 * plain.sure
    for least in (0.5 * plain.sure, 3 * plain.sure):
        later = thompson_flow(2, 0.05, 0.2, ending=Ending(least=least))
        assert later.outcomes == pytest.approx(max(least, plain.sure), rel=1e-3)
        assert later.sure == pytest.approx(plain.sure, rel=1e-3)
    looked = thompson_flow(2, 0.05, 0.2, ending=Ending(every=1000.0))
    assert looked.outcomes % 1000 == 0
    assert 0 <= looked.outcomes - plain.outcomes < 1000
    # A floor of f sends each arm at least f of the decisions: n known outcomes of each take n / f at most.
    each = thompson_flow(3, 0.3, 0.2, floor=0.02, ending=Ending(least_each=500.0))
    assert 0.8 * 500 / 0.02 < each.outcomes < 1.02 * 500 / 0.02


def test_an_effect_below_the_value_that_the_rule_leaves_is_planned_with_less() -> None:
    # 1 % of .64 is more than a quarter of .02: the rule would often end before it had found that.
    small = plan(QUESTION).of(Strategy.BANDIT).reasons
    assert any(f"give the rule value_remaining {0.02 / 4 / 0.64:.2g}: the default, 0.01, is" in one for one in small)
    assert any("a value remaining below 0.78%" in one for one in small)
    large = plan(replace(QUESTION, effect=0.03)).of(Strategy.BANDIT).reasons
    assert any("a value remaining below 1.00%" in one for one in large)
    assert not any("give the rule" in one for one in large)


@pytest.mark.parametrize(("others", "missing", "explored"), [(1, 40.0, 70.0), (3, 90.0, 60.0), (99, 5.0, 80.0)])
def test_the_chance_that_an_arm_has_few_outcomes(others: int, missing: float, explored: float) -> None:
    enough = gamma.sf(missing, 2.0, scale=explored / 2.0) ** others
    assert _chance_of_few(others, missing, explored) == pytest.approx(1.0 - enough, rel=1e-9)
    assert _chance_of_few(others, 0.0, explored) == 0.0
    assert _chance_of_few(others, missing, 0.0) == 1.0


def test_very_many_arms_have_a_floor_that_is_allowed() -> None:
    said = plan(replace(QUESTION, arms=60)).of(Strategy.BANDIT).reasons[1]
    assert f"each keeps {0.25 / 60:.2g} of" in said


def test_interleaving_needs_what_lies_within_sessions() -> None:
    history = History(icc=0.4, turns_per_session=6.0)
    found = plan(QUESTION, history)
    # Sessions that keep their arm take 1 + 5 .4 = 3 times as many outcomes, drafts 1 - .4 times as many: 5 times fewer.
    assert forecast(found, Strategy.AB).per_arm == pytest.approx(3 * ab_size(0.62, 0.02, 0.05, 0.8), abs=1)
    assert forecast(found, Strategy.INTERLEAVING).per_arm == pytest.approx(0.6 * ab_size(0.62, 0.02, 0.05, 0.8), abs=1)
    assert "5 times as sensitive" in found.of(Strategy.INTERLEAVING).reasons[0]
    assert any("the last one of a session too" in reason for reason in found.of(Strategy.INTERLEAVING).reasons)
    alone = plan(QUESTION).of(Strategy.INTERLEAVING)
    assert alone.forecast is None
    assert "sessions have 1 turns" in alone.reasons[0]
    assert f"{sensitivity_gain(6, 0.4):.3g} times" == "5 times"
    # Three arms fit twice into seven turns: the seventh is not used. An A/B test uses it: (1 + 6 .4) / .6 * 6 / 7.
    three = plan(replace(QUESTION, arms=3), History(icc=0.4, turns_per_session=7.0)).of(Strategy.INTERLEAVING)
    assert "4.86 times as sensitive" in three.reasons[0]


def test_a_pair_takes_two_outcomes() -> None:
    # Of 5 turns two pairs, each known with chance .3^2: 2 .09 / 5 pairs a decision.
    found = plan(QUESTION, History(icc=0.4, turns_per_session=5.0, coverage=0.3))
    pairs = np.ceil(0.6 * ab_size(0.62, 0.02, 0.05, 0.8))
    of = forecast(found, Strategy.INTERLEAVING)
    assert (of.per_arm, of.sample_size) == (pairs, 2 * pairs)
    assert of.days == pytest.approx(pairs / (2 * 0.09 / 5) / 5000 + 2 / 24)
    assert any("0.09 of such pairs have both" in reason for reason in found.of(Strategy.INTERLEAVING).reasons)
    # Lengths that vary may all be odd: of 5 turns on average 4 at least are in pairs. Even ones of 4 and 6 lose none.
    vary = History(icc=0.4, turns_per_session=5.0, coverage=0.3, weighted_outcomes_per_session=1 + 0.3 * (5.2 - 1))
    assert forecast(plan(QUESTION, vary), Strategy.INTERLEAVING).days == pytest.approx(of.days, rel=1e-6)
    even = replace(vary, turns_per_session=6.0, weighted_outcomes_per_session=1 + 0.3 * (8 - 1))
    assert forecast(plan(QUESTION, even), Strategy.INTERLEAVING).days == pytest.approx(
        pairs / (2.5 * 0.09 / 6) / 5000 + 2 / 24
    )


@pytest.mark.parametrize("arms", [2, 3, 4, 5])
def test_pairs_a_turn_by_enumeration(arms: int) -> None:
    """Every place of two arms in a block that breaks off, against the formula; and the least over lengths is the least."""
    for turns in range(arms, 4 * arms + 1):
        left = turns % arms
        orders = [(i, j) for i in range(arms) for j in range(arms) if i != j]
        both = sum(i < left and j < left for i, j in orders) / len(orders)
        assert pairs_a_turn(turns, arms, vary=False) == pytest.approx((turns // arms + both) / turns)
        assert pairs_a_turn(turns, arms, vary=True) <= pairs_a_turn(turns, arms, vary=False) + 1e-12
    reached = [t for t in range(arms, 2 * arms) if pairs_a_turn(t, arms, True) > pairs_a_turn(t, arms, False) - 1e-12]
    assert reached, "some length has no more than the least"
    between = pairs_a_turn(arms + 0.25, arms, vary=False) * (arms + 0.25)
    ends = [pairs_a_turn(arms + more, arms, vary=False) * (arms + more) for more in (0, 1)]
    assert between == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_sessions_count_as_often_as_they_have_outcomes() -> None:
    # Sessions of 1, 2 and 9 outcomes: (1 + 4 + 81) / 12 outcomes are in the session of an outcome, not 4.
    measured = History(icc=0.3, turns_per_session=4.0, weighted_outcomes_per_session=86 / 12)
    wanted = (1 + (86 / 12 - 1) * 0.3) * ab_size(0.62, 0.02, 0.05, 0.8)
    found = plan(QUESTION, measured)
    assert forecast(found, Strategy.AB).per_arm == pytest.approx(wanted, abs=1)
    assert not any("equally long" in reason for reason in (*found.reasons, *found.of(Strategy.AB).reasons))


def test_turns_that_were_given_by_hand_are_taken_to_be_equal_and_the_plan_says_so() -> None:
    # Of 4 turns, 40 % with an outcome, an outcome meets 3 * .4 others: 1 + 1.2 icc. Geometric lengths meet twice as many.
    found = plan(QUESTION, History(icc=0.3, turns_per_session=4.0, coverage=0.4))
    assert forecast(found, Strategy.AB).per_arm == pytest.approx(1.36 * ab_size(0.62, 0.02, 0.05, 0.8), abs=1)
    said = "sessions are taken to be equally long, 4 turns each"
    for reasons in (found.reasons, found.of(Strategy.AB).reasons, found.of(Strategy.INTERLEAVING).reasons):
        assert sum(reason.startswith(said) for reason in reasons) == 1
    assert any("geometric ones an A/B test takes 1.26 times as many outcomes" in reason for reason in found.reasons)
    alone = plan(QUESTION, History(icc=0.3))
    assert not any("equally long" in reason for reason in alone.reasons)


def test_a_baseline_of_ones_own_keeps_no_variance_of_another() -> None:
    question = Question(effect=0.01, baseline=0.05, traffic_per_day=5000.0, feedback_delay_us=0)
    per_arm = forecast(plan(question), Strategy.AB).per_arm
    assert per_arm == pytest.approx(ab_size(0.05, 0.01, 0.05, 0.8), abs=1)
    # Rewards of 0 and 1 stay so; fractions that had half of that variance at .5 have half of it at .05.
    assert forecast(plan(question, History(baseline=0.5, variance=0.25)), Strategy.AB).per_arm == per_arm
    halved = plan(question, History(baseline=0.5, variance=0.125))
    assert halved.situation.variance == pytest.approx(0.05 * 0.95 / 2)
    # The same baseline said twice changes nothing.
    assert plan(question, History(baseline=0.05, variance=0.03)).situation.variance == 0.03


def test_more_arms_share_alpha() -> None:
    found = plan(replace(QUESTION, arms=4))
    assert forecast(found, Strategy.AB).per_arm == pytest.approx(ab_size(0.62, 0.02, 0.05 / 3, 0.8), abs=1)
    assert forecast(found, Strategy.CANARY).days == pytest.approx(3 * forecast(plan(QUESTION), Strategy.CANARY).days)


def test_low_risk_begins_with_a_canary() -> None:
    found = plan(QUESTION)
    assert (found.recommended, found.then) == (Strategy.CANARY, Strategy.BANDIT)
    assert "low risk tolerance" in found.reasons[0]
    assert [one.strategy for one in found.strategies] == list(Strategy)


@pytest.mark.parametrize("risk", [Risk.MEDIUM, Risk.HIGH])
def test_who_bears_risk_learns_at_once(risk: Risk) -> None:
    found = plan(replace(QUESTION, risk=risk))
    assert (found.recommended, found.then) == (Strategy.BANDIT, None)


@pytest.mark.parametrize("risk", list(Risk))
def test_late_feedback_speaks_against_a_bandit_and_the_reason_says_so(risk: Risk) -> None:
    prompt = plan(replace(QUESTION, risk=risk))
    late = plan(replace(QUESTION, risk=risk, feedback_delay_us=2 * DAY_US))
    assert Strategy.BANDIT in (prompt.recommended, prompt.then)
    assert Strategy.BANDIT not in (late.recommended, late.then)
    assert Strategy.AB in (late.recommended, late.then)
    said = [reason for reason in late.reasons if reason.startswith("no bandit: feedback takes 2 days of the")]
    assert len(said) == 1
    assert any("feedback takes 2 days" in reason for reason in late.of(Strategy.BANDIT).reasons)
    assert not any("feedback takes" in reason for reason in prompt.of(Strategy.BANDIT).reasons)


def test_sessions_of_several_turns_make_interleaving_the_soonest() -> None:
    found = plan(replace(QUESTION, risk=Risk.MEDIUM), History(icc=0.4, turns_per_session=6.0))
    assert found.recommended is Strategy.INTERLEAVING
    assert "interleaving answers in" in found.reasons[0]


def test_thin_traffic_ends_offline() -> None:
    thin = replace(QUESTION, traffic_per_day=20.0)
    for risk in Risk:
        found = plan(replace(thin, risk=risk))
        assert (found.recommended, found.then) == (Strategy.OFFLINE, None)
        assert any("no live comparison answers within 60 days" in reason for reason in found.reasons)
    # Pairs take fewer requests than arms apart if the judge is good: shadow traffic is still in time.
    paired = plan(Question(0.03, 0.62, 320.0, 0, Risk.MEDIUM, judge_accuracy=1.0, horizon_days=13.5))
    assert paired.recommended is Strategy.SHADOW


def test_a_cautious_team_with_little_traffic_screens_first() -> None:
    found = plan(Question(0.05, 0.62, 50.0, 2 * HOUR_US, Risk.LOW))
    assert (found.recommended, found.then) == (Strategy.OFFLINE, Strategy.BANDIT)
    assert "a canary would take" in found.reasons[0]


def test_a_history_fills_the_gaps_and_gives_way_to_the_question() -> None:
    history = History(0.62, 0.2, 0.1, 4.0, 2 * HOUR_US, 5000.0, 0.5)
    found = plan(Question(effect=0.02), history).situation
    assert (found.baseline, found.variance, found.icc, found.turns_per_session) == (0.62, 0.2, 0.1, 4.0)
    assert (found.traffic_per_day, found.delay_days, found.coverage) == (5000.0, pytest.approx(2 / 24), 0.5)
    assert plan(replace(QUESTION, baseline=0.5, traffic_per_day=100.0), history).situation.baseline == 0.5
    # Less variance takes fewer outcomes; half the outcomes take twice the decisions.
    only = plan(QUESTION, History(variance=0.62 * 0.38 / 2, coverage=0.5))
    assert forecast(only, Strategy.AB).per_arm == pytest.approx(9146.69 / 2, abs=1)
    assert forecast(only, Strategy.AB).days == pytest.approx(9147 / 5000 * 2 + 2 / 24, abs=1e-3)


@pytest.mark.parametrize(
    ("question", "history", "message"),
    [
        (replace(QUESTION, baseline=None), None, "baseline is missing: give it, or a history that has it"),
        (replace(QUESTION, traffic_per_day=None), History(), "traffic_per_day is missing"),
        (replace(QUESTION, feedback_delay_us=None), None, "feedback_delay_us is missing"),
        (replace(QUESTION, baseline=1.0), None, r"baseline is 1\.0: it must be greater than 0 and less than 1"),
        (replace(QUESTION, baseline=float("nan")), None, "baseline is nan"),
        (replace(QUESTION, effect=0.0), None, r"effect is 0\.0"),
        (replace(QUESTION, effect=0.38), None, r"effect is 0\.38: baseline \+ effect must be less than 1"),
        (replace(QUESTION, traffic_per_day=0.0), None, r"traffic_per_day is 0\.0: it must be greater than 0, and finite"),
        (replace(QUESTION, traffic_per_day=float("inf")), None, "traffic_per_day is inf"),
        (replace(QUESTION, feedback_delay_us=-1), None, "feedback_delay_us is -1"),
        (replace(QUESTION, arms=1), None, "arms is 1: it must be a whole number from 2 to 100"),
        (replace(QUESTION, alpha=0.5), None, r"alpha is 0\.5"),
        (replace(QUESTION, power=0.4), None, r"power is 0\.4"),
        (replace(QUESTION, horizon_days=0.0), None, r"horizon_days is 0\.0"),
        (replace(QUESTION, judge_accuracy=0.5), None, r"judge_accuracy is 0\.5"),
        (QUESTION, History(variance=0.3), r"variance is 0\.3"),
        (QUESTION, History(icc=1.0), r"icc is 1\.0"),
        (QUESTION, History(turns_per_session=0.5), r"turns_per_session is 0\.5"),
        (QUESTION, History(coverage=0.0), r"coverage is 0\.0"),
        (
            QUESTION,
            History(weighted_outcomes_per_session=0.5),
            r"weighted_outcomes_per_session is 0\.5: it must be at least 1",
        ),
        (QUESTION, History(weighted_outcomes_per_session=float("nan")), "weighted_outcomes_per_session is nan"),
        (QUESTION, History(baseline=0.0, variance=0.1), r"variance is 0\.1: a history whose baseline is 0\.0"),
    ],
)
def test_bad_input_is_named(question: Question, history: History | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(question, history)


@pytest.mark.parametrize("effect", [1e-6, 0.3])
@pytest.mark.parametrize("traffic", [1e-3, 1e9])
@pytest.mark.parametrize("delay", [0, 10**4 * DAY_US])
@pytest.mark.parametrize("arms", [2, 100])
def test_extremes_have_plans_too(effect: float, traffic: float, delay: int, arms: int) -> None:
    found = plan(Question(effect, 0.5, traffic, delay, arms=arms), History(icc=0.99, turns_per_session=1e4))
    for one in found.strategies:
        values = one.forecast
        assert values is not None
        for value in (values.days, values.expected_regret, values.harm, values.decisions):
            assert 0.0 <= value < float("inf")
