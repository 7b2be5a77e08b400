"""Rules across the fields of a definition, in the names of the proto: what is refused, where, and what is not."""

import pytest
from google.protobuf.text_format import Parse

from bandit.ramp import Guardrail, Metric, Ramp, Stage, default_stages
from router.errors import InvalidArgumentError
from router.experiment_rules import cross_field_problems
from router.messages import new_definition
from router.ramp_rules import ramp_of
from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import Experiment, RampRule

ARMS = 'experiment_id: "e" arms { arm_id: "a" role: ROLE_CONTROL } arms { arm_id: "b" } '
STAGE = "stages { cap: 1 guardrails { metric: METRIC_RETRY limit: 0.1 } } "


def experiment(text: str) -> Experiment:
    return Parse(text, Experiment())


def problems(text: str) -> list[tuple[str, str]]:
    return [(problem.path, problem.message) for problem in cross_field_problems(experiment(text))]


@pytest.mark.parametrize(
    "text",
    [
        "ramp {}",
        "ramp { approval: true warn_after { seconds: 60 } }",
        'ramp { challenger_arm_id: "b" }',
        f"ramp {{ {STAGE} }}",
        "ramp { stages { cap: 1 } guardrails { metric: METRIC_ERROR ratio: 1 } }",
        "ramp { guardrails { metric: METRIC_COST limit: 3 clip_usd: 30 } }",
        # One stage has none of its own on retries, so the common one holds there.
        "ramp { stages { cap: 0.5 guardrails { metric: METRIC_ERROR limit: 0.1 } } stages { cap: 1 guardrails { metric:"
        " METRIC_RETRY limit: 0.2 } } guardrails { metric: METRIC_RETRY limit: 0.1 } }",
        'ramp {} allocation { kind: KIND_FIXED weights { key: "a" value: 0.5 } weights { key: "b" value: 0.5 } }'
        " assignment { kind: KIND_STICKY_HASH }",
        "ramp {} assignment { kind: KIND_STICKY_STORED holdout: 0.05 }",
        "assignment { kind: KIND_INTERLEAVED } allocation { kind: KIND_UNIFORM }",
        'allocation { kind: KIND_TOP_TWO leader_share: 0.3 priors { key: "b" value { alpha: 2 beta: 3 } } } ramp {}',
        "reward_rule { mature_after { seconds: 60 } no_feedback: 0 }",
        # Absent, mature_after is as long as abandonment takes.
        "reward_rule { derived { abandon_after { seconds: 60 } } no_feedback: 0 }",
        "reward_rule { mature_after { seconds: 604800 } }",
        "reward_rule { derived { rephrased_similarity: 0.8 rephrased_within { seconds: 60 } } }",
    ],
)
def test_what_is_accepted(text: str) -> None:
    assert problems(ARMS + text) == []


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        # what `bandit.ramp` refuses, where the proto has it
        ("stages { cap: 0 guardrails { metric: METRIC_RETRY limit: 0.1 } } " + STAGE, "stages[0].cap", "0.0 must be gr"),
        ("stages { cap: -1 guardrails { metric: METRIC_RETRY limit: 0.1 } } " + STAGE, "stages[0].cap", "-1.0 must be gr"),
        (STAGE + STAGE, "stages[1].cap", "1.0 must be greater than 1.0"),
        (STAGE.replace("cap: 1", "cap: 0.5"), "stages[0].cap", "0.5 must be 1: the last stage has no cap"),
        ("stages { cap: 1 duration { seconds: -60 } guardrails { metric: METRIC_RETRY limit: 0.1 } }",
         "stages[0].duration", "-60s must be at least 0"),
        ("stages { cap: 1 }", "stages[0].guardrails", "it is empty"),
        (STAGE.replace("limit: 0.1", "limit: 1"), "stages[0].guardrails[0].limit", "1.0 must be greater than 0 and less"),
        (STAGE.replace("limit: 0.1", "limit: 0"), "stages[0].guardrails[0].limit", "0.0 must be greater than 0 and less"),
        (STAGE.replace("limit: 0.1", "ratio: 0.5"), "stages[0].guardrails[0].ratio", "0.5 must be at least 1"),
        (STAGE.replace("limit: 0.1", ""), "stages[0].guardrails[0]", "exactly one of limit and ratio"),
        (STAGE.replace("RETRY", "SLOW"), "stages[0].guardrails[0].latency_over", "a guardrail on slow must have one"),
        (STAGE.replace("limit: 0.1", "limit: 0.1 latency_over { seconds: 2 }"),
         "stages[0].guardrails[0].latency_over", "2s belongs to slow, not to retry"),
        (STAGE.replace("RETRY", "COST"), "stages[0].guardrails[0].clip_usd", "a guardrail on cost must have one"),
        (STAGE.replace("RETRY limit: 0.1", "COST limit: 2 clip_usd: 1"),
         "stages[0].guardrails[0].clip_usd", "1.0 must be greater than the limit, 2.0"),
        ("stages { cap: 1 guardrails { metric: METRIC_RETRY limit: 0.1 } guardrails { metric: METRIC_RETRY ratio: 2 } }",
         "stages[0].guardrails[1].metric", "retry stands in this stage already"),
        (STAGE + "alpha: 0.5", "alpha", "0.5 must be greater than 0 and less than 0.5"),
        (STAGE + "min_coverage: 1.5", "min_coverage", "1.5 must be in [0, 1]"),
        (STAGE + "warn_after { seconds: -1 }", "warn_after", "-1s must be at least 0"),
        (STAGE.replace("limit: 0.1", "limit: 0.1 } min_decisions: 0 guardrails { metric: METRIC_ERROR limit: 0.1"),
         "stages[0].min_decisions", "0 must be at least 1"),
        # common guardrails: found once, where they stand, however many stages they hold in
        ("guardrails { metric: METRIC_ERROR limit: 0.1 } guardrails { metric: METRIC_SLOW limit: 0.1 }",
         "guardrails[1].latency_over", "a guardrail on slow must have one"),
        (STAGE + "guardrails { metric: METRIC_ERROR limit: 2 }", "guardrails[0].limit", "2.0 must be greater than 0 and"),
        ("guardrails { metric: METRIC_ERROR limit: 0.1 } guardrails { metric: METRIC_ERROR limit: 0.2 }",
         "guardrails[1].metric", "error stands in this stage already"),
        (STAGE + "guardrails { metric: METRIC_RETRY limit: 0.2 }", "guardrails[0]", "it never holds, because every stage"),
        ("guardrails { metric: METRIC_RETRY limit: 0.2 }", "guardrails[0]", "it never holds, because every stage"),
        # who takes part
        ('challenger_arm_id: "a"', "challenger_arm_id", "'a' is the control, a ramp lets in a challenger"),
        ('challenger_arm_id: "x"', "challenger_arm_id", "no arm has this id"),
    ],
)  # fmt: skip
def test_ramps_that_are_refused(text: str, path: str, message: str) -> None:
    found = problems(f"{ARMS} ramp {{ {text} }}")
    assert len(found) == 1, found
    assert found[0][0] == f"ramp.{path}"
    assert found[0][1].startswith(message) or message in found[0][1]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('arms { arm_id: "a" } arms { arm_id: "b" } ramp { challenger_arm_id: "b" }', ["ramp"]),
        ('arms { arm_id: "a" } arms { arm_id: "b" } ramp {}', ["ramp", "ramp.challenger_arm_id"]),
        ('arms { arm_id: "a" role: ROLE_CONTROL } ramp {}', ["ramp"]),
        (ARMS + 'arms { arm_id: "c" } ramp {}', ["ramp.challenger_arm_id"]),
        (ARMS + 'arms { arm_id: "c" } ramp { challenger_arm_id: "c" }', []),
        (
            ARMS + 'ramp {} allocation { kind: KIND_FIXED weights { key: "a" value: 1 } } '
            "assignment { kind: KIND_STICKY_HASH }",
            ["allocation.weights"],
        ),
        ('arms { arm_id: "a" } arms { arm_id: "b" } assignment { holdout: 0.05 }', ["assignment.holdout"]),
        (ARMS + "assignment { kind: KIND_INTERLEAVED }", ["assignment.kind"]),
        (ARMS + "assignment { kind: KIND_INTERLEAVED } allocation { floor: 0 }", ["allocation.kind"]),
        (
            ARMS + "assignment { kind: KIND_INTERLEAVED holdout: 0.1 } allocation { kind: KIND_UNIFORM } ramp {}",
            ["assignment.holdout", "ramp"],
        ),
        (
            'arms { arm_id: "a" } assignment { kind: KIND_INTERLEAVED } allocation { kind: KIND_UNIFORM }',
            ["assignment.kind"],
        ),
        (
            'arms { arm_id: "a" cap: 0.4 } arms { arm_id: "b" cap: 0.6 } assignment { kind: KIND_INTERLEAVED }'
            " allocation { kind: KIND_UNIFORM }",
            ["arms[0].cap"],
        ),
        (ARMS + "reward_rule { no_feedback: 0 }", ["reward_rule.no_feedback"]),
        (ARMS + "reward_rule { no_feedback: 0 mature_after {} }", ["reward_rule.no_feedback"]),
        (
            ARMS + "reward_rule { no_feedback: 0 mature_after {} derived { abandon_after { seconds: 60 } } }",
            ["reward_rule.no_feedback"],
        ),
        (ARMS + "reward_rule { mature_after { seconds: 604801 } }", ["reward_rule.mature_after"]),
        (
            ARMS + "reward_rule { mature_after { seconds: 61 } attribution_window { seconds: 60 } }",
            ["reward_rule.mature_after"],
        ),
        (
            ARMS + "reward_rule { derived { abandon_after { seconds: 61 } } attribution_window { seconds: 60 } }",
            ["reward_rule.derived.abandon_after"],
        ),
        (
            ARMS + "reward_rule { derived { rephrased_within { seconds: 60 } } }",
            ["reward_rule.derived.rephrased_within"],
        ),
        ('experiment_id: "e"', ["arms"]),
        (
            ARMS + 'arms { arm_id: "c" role: ROLE_CONTROL }',
            ["arms[2].role"],
        ),
        (
            ARMS + 'allocation { kind: KIND_FIXED weights { key: "a" value: 0.7 } weights { key: "b" value: 0.2 } }'
            " assignment { kind: KIND_STICKY_HASH }",
            ["allocation.weights"],
        ),
    ],
)
def test_who_takes_part_and_what_counts(text: str, paths: list[str]) -> None:
    assert [path for path, _ in problems(text)] == paths


def test_a_guardrail_that_this_version_does_not_know_is_left_to_the_rules_of_the_proto() -> None:
    definition = experiment(ARMS + f"ramp {{ {STAGE} }}")
    for metric in (0, 99):
        definition.ramp.stages[0].guardrails[0].metric = metric  # type: ignore[assignment]
        assert list(cross_field_problems(definition)) == []


def test_what_a_ramp_means() -> None:
    given = Parse(
        "stages { cap: 0.5 duration { seconds: 3 } min_decisions: 7 guardrails { metric: METRIC_ERROR ratio: 2 } } "
        "stages { cap: 1 guardrails { metric: METRIC_SLOW latency_over { nanos: 5000 } limit: 0.25 } } "
        "guardrails { metric: METRIC_COST limit: 0.5 clip_usd: 4 } guardrails { metric: METRIC_ERROR limit: 0.125 } "
        "alpha: 0.25 min_coverage: 0 strict: true approval: true warn_after {}",
        RampRule(),
    )
    cost, error = Guardrail(Metric.COST, limit=0.5, clip_usd=4.0), Guardrail(Metric.ERROR, limit=0.125)
    assert ramp_of(given) == Ramp(
        stages=(
            # Its own guardrail on errors comes in place of the common one.
            Stage(0.5, 3_000_000, (Guardrail(Metric.ERROR, ratio=2.0), cost), min_decisions=7),
            Stage(1.0, 0, (Guardrail(Metric.SLOW, limit=0.25, latency_over_us=5), cost, error)),
        ),
        alpha=0.25,
        min_coverage=0.0,
        strict=True,
        approval=True,
        warn_after_us=0,
    )
    assert ramp_of(RampRule()) == Ramp(default_stages())


def test_retiring_the_last_arm_is_refused() -> None:
    definition = experiment(ARMS)
    definition.arms[0].state = types.ARM_STATE_RETIRED
    assert [arm.arm_id for arm in new_definition(definition).arms] == ["b"]
    definition.arms[1].state = types.ARM_STATE_RETIRED
    with pytest.raises(InvalidArgumentError, match="arms: no arm is left to serve"):
        new_definition(definition)


def test_no_number_is_refused_too() -> None:
    found = problems(ARMS + f"ramp {{ {STAGE.replace('cap: 1', 'cap: nan')} alpha: nan }}")
    assert {path for path, _ in found} == {"ramp.stages[0].cap", "ramp.alpha"}


def test_roles_that_are_not_stated_are_challengers() -> None:
    definition = experiment(ARMS + "ramp {}")
    definition.arms[1].role = types.ROLE_CHALLENGER
    assert cross_field_problems(definition) == []


RULE = "shadow { text: TEXT_MODE_OFF } "
ALONE = ARMS.replace('"b"', '"b" role: ROLE_SHADOW')
SHADOWED = ARMS + 'arms { arm_id: "s" role: ROLE_SHADOW } shadow { text: TEXT_MODE_OFF } '


@pytest.mark.parametrize(
    "text",
    [
        "",
        # Two arms compete: floors, caps, weights and turns are theirs.
        "allocation { floor: 0.24 }",
        'allocation { kind: KIND_FIXED weights { key: "a" value: 0.9 } weights { key: "b" value: 0.1 } }'
        " assignment { kind: KIND_STICKY_HASH }",
        "assignment { kind: KIND_INTERLEAVED } allocation { kind: KIND_UNIFORM }",
        "ramp {}",  # one challenger
        'allocation { priors { key: "b" value { alpha: 2 beta: 3 } } }',
    ],
)
def test_shadow_arms_do_not_compete(text: str) -> None:
    assert problems(SHADOWED + text) == []


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (SHADOWED + "allocation { floor: 0.25 }", "allocation.floor", "2 arms with a floor of 0.25"),
        (ALONE + RULE + "assignment { kind: KIND_INTERLEAVED }"
         " allocation { kind: KIND_UNIFORM }", "assignment.kind", "there is only one"),
        ('experiment_id: "e" arms { arm_id: "a" cap: 0.5 } arms { arm_id: "s" role: ROLE_SHADOW }' + RULE,
         "arms", "the caps add up to 0.5"),
        ('experiment_id: "e" arms { arm_id: "s" role: ROLE_SHADOW }' + RULE,
         "arms", "every arm is a shadow arm"),
        (SHADOWED + 'allocation { kind: KIND_FIXED weights { key: "a" value: 0.9 } weights { key: "s" value: 0.1 } }'
         " assignment { kind: KIND_STICKY_HASH }", "allocation.weights.s", "a shadow arm never answers"),
        (SHADOWED + 'ramp { challenger_arm_id: "s" }', "ramp.challenger_arm_id", "'s' is a shadow arm"),
        (ALONE + RULE + "ramp {}", "ramp", "no challenger"),
        (ALONE, "arms[1].role", "'b' is a shadow arm: shadow must say"),
    ],
)  # fmt: skip
def test_what_is_refused_of_shadow_arms(text: str, path: str, message: str) -> None:
    found = problems(text)
    assert [said for at, said in found if at == path and message in said], found
    assert len(found) == 1


def many(count: int, kind: str, shadows: int = 0) -> str:
    arms = "".join(f'arms {{ arm_id: "{i}" }} ' for i in range(count))
    mirrored = "".join(f'arms {{ arm_id: "s{i}" role: ROLE_SHADOW }} ' for i in range(shadows))
    return f'experiment_id: "e" {arms}{mirrored} allocation {{ kind: {kind} floor: 0.001 }} ' + (RULE if shadows else "")


def test_top_two_takes_twenty_arms_that_compete() -> None:
    assert problems(many(20, "KIND_TOP_TWO", shadows=3)) == []
    ((path, message),) = problems(many(21, "KIND_TOP_TWO"))
    assert (path, "at most 20 arms, and 21 compete" in message) == ("allocation.kind", True)
    assert problems(many(21, "KIND_THOMPSON")) == []


def test_only_what_learns_can_forget() -> None:
    discount = "discount { half_life { seconds: 7200 } }"
    assert problems(ARMS + f"allocation {{ {discount} }} ramp {{}} reward_rule {{ mature_after {{ seconds: 60 }} }}") == []
    ((path, message),) = problems(ARMS + f"allocation {{ kind: KIND_UNIFORM {discount} }}")
    assert (path, "only a thompson or top_two allocation" in message) == ("allocation.discount", True)


def test_only_top_two_has_a_leader_and_only_what_learns_has_priors() -> None:
    assert problems(ARMS + "allocation { leader_share: 0.5 }") == [
        ("allocation.leader_share", "only a top_two allocation has a leader")
    ]
    priors = 'priors { key: "a" value { alpha: 2 beta: 3 } }'
    ((path, message),) = problems(ARMS + f"allocation {{ kind: KIND_UNIFORM {priors} }}")
    assert (path, message) == ("allocation.priors", "only a thompson or top_two allocation looks at priors")
