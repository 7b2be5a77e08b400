"""Experiment files: what each mistake is called and where, what a good file means, and what the example promises."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from bandit.reward import DEFAULT_SIGNAL_MICROS, MICROS
from router import experiment_rules as rules
from router.config import (
    ExperimentFileError,
    FileProblem,
    commented_example,
    dump_experiment_file,
    experiment_json_schema,
    load_experiment_file,
)
from router.config.rollout_shape import GuardrailShape, RampShape
from router.config.shape import AllocationShape, ArmShape, AssignmentShape, SignalName
from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import AllocationRule, AssignmentRule, BetaPrior, Experiment, Guardrail, ShadowRule

DESIGN = """\
experiment: support-model
arms:
  - {id: haiku,  model: claude-haiku-4-5-20251001, family: anthropic, role: control,    config: {max_tokens: 1024}}
  - {id: sonnet, model: claude-sonnet-4-6,         family: anthropic, role: challenger, config: {max_tokens: 1024}}
allocation: {kind: thompson, floor: 0.01, prior: {alpha: 1, beta: 1}}   # fixed: {kind: fixed, weights: {haiku: 0.9}}
assignment: {kind: per_request}
"""
#: Completes a fragment to a file: three lines come before the fragment.
BASE = "experiment: e\narms:\n  - {id: a}\n"


def problems_of(text: str | bytes) -> tuple[FileProblem, ...]:
    with pytest.raises(ExperimentFileError) as caught:
        load_experiment_file(text, "exp.yaml")
    return caught.value.problems


def load(text: str) -> Experiment:
    return load_experiment_file(text).experiment


def test_the_documented_file_maps_one_to_one() -> None:
    experiment = load(DESIGN)
    assert experiment.experiment_id == "support-model"
    assert [arm.arm_id for arm in experiment.arms] == ["haiku", "sonnet"]
    haiku = experiment.arms[0]
    assert (haiku.model, haiku.family, haiku.role) == ("claude-haiku-4-5-20251001", "anthropic", types.ROLE_CONTROL)
    assert dict(haiku.config) == {"max_tokens": 1024}
    assert experiment.allocation.kind == AllocationRule.KIND_THOMPSON
    assert (experiment.allocation.prior.alpha, experiment.allocation.prior.beta) == (1, 1)
    assert experiment.assignment.kind == AssignmentRule.KIND_PER_REQUEST
    for absent, message in [("cap", haiku), ("cost_usd", haiku), ("ttl", experiment.assignment)]:
        assert not message.HasField(absent), absent
    assert not experiment.HasField("reward_rule")


def test_every_key() -> None:
    file = load_experiment_file(
        "experiment: e\n"
        "description: 'Two, fixed'\n"
        "arms:\n"
        "  - {id: a, cap: 0.5, cost_usd: 0.002, config: {stop: [x, null], deep: {on_error: retry, t: 1e-1}}}\n"
        "  - {id: 'b', config: {}}\n"
        "allocation: {kind: fixed, floor: 0, weights: {a: 0.25, b: .75}}\n"
        "assignment: {kind: sticky_stored, ttl: 36h, unit: session}\n"
        "rewards: {thumbs_up: 0.5, follow_up_question: null, task_completed: 1}\n"
        "attribution_window: 1500ms\n"
        "state: paused\n"
    )
    experiment = file.experiment
    assert (file.state, file.source) == ("paused", "<text>")
    assert (experiment.arms[0].cap, experiment.arms[0].cost_usd) == (0.5, 0.002)
    assert experiment.arms[0].config["deep"]["t"] == 0.1
    assert list(experiment.arms[0].config["stop"]) == ["x", None]
    assert experiment.arms[1].HasField("config")
    assert experiment.allocation.HasField("floor")
    assert dict(experiment.allocation.weights) == {"a": 0.25, "b": 0.75}
    assert experiment.assignment.ttl.seconds == 36 * 3600
    assert experiment.assignment.unit == AssignmentRule.UNIT_SESSION
    signals = [(s.signal, s.reward if s.HasField("reward") else None) for s in experiment.reward_rule.signals]
    assert signals == [
        (types.SIGNAL_THUMBS_UP, 0.5),
        (types.SIGNAL_FOLLOW_UP_QUESTION, None),
        (types.SIGNAL_TASK_COMPLETED, 1.0),
    ]
    assert experiment.reward_rule.attribution_window.ToTimedelta().total_seconds() == 1.5


#: Completes a fragment about a ramp to a file: five lines come before the fragment.
RAMP = "experiment: e\narms:\n  - {id: a, role: control}\n  - {id: b}\nramp:\n"


def test_every_key_of_a_rollout() -> None:
    text = (
        "experiment: e\n"
        "arms: [{id: a, role: control}, {id: b}, {id: c}]\n"
        "assignment: {holdout: 0.05}\n"
        "derived: {retry_within: 10s, abandon_after: 30m, rephrased_similarity: 0.8, rephrased_within: 5m}\n"
        "mature_after: 45m\n"
        "no_feedback: 0\n"
        "ramp:\n"
        "  challenger: c\n"
        "  stages:\n"
        "    - {cap: 0.05, duration: 2h, guardrails: [{metric: retry, limit: 0.15}], min_decisions: 100}\n"
        "    - {cap: 1}\n"
        "  guardrails:\n"
        "    - {metric: slow, latency_over: 250ms, ratio: 1.5}\n"
        "    - {metric: cost, limit: 0.02, clip_usd: 0.2}\n"
        "  alpha: 0.1\n"
        "  min_coverage: 0\n"
        "  strict: true\n"
        "  approval: true\n"
        "  warn_after: 6h\n"
    )
    experiment = load(text)
    derived, rule, ramp = experiment.reward_rule.derived, experiment.reward_rule, experiment.ramp
    assert experiment.assignment.holdout == 0.05
    assert (derived.retry_within.seconds, derived.abandon_after.seconds) == (10, 1800)
    assert (derived.rephrased_similarity, derived.rephrased_within.seconds) == (0.8, 300)
    assert (rule.mature_after.seconds, rule.no_feedback, rule.HasField("no_feedback")) == (2700, 0, True)
    assert ramp.challenger_arm_id == "c"
    first, last = ramp.stages
    assert (first.cap, first.duration.seconds, first.min_decisions) == (0.05, 7200, 100)
    assert [(rail.metric, rail.limit) for rail in first.guardrails] == [(Guardrail.METRIC_RETRY, 0.15)]
    assert (last.cap, last.HasField("duration"), last.HasField("min_decisions")) == (1, False, False)
    slow, cost = ramp.guardrails
    assert (slow.metric, slow.latency_over.ToMilliseconds(), slow.ratio) == (Guardrail.METRIC_SLOW, 250, 1.5)
    assert (cost.metric, cost.limit, cost.clip_usd) == (Guardrail.METRIC_COST, 0.02, 0.2)
    assert (ramp.alpha, ramp.min_coverage, ramp.strict, ramp.approval) == (0.1, 0, True, True)
    assert ramp.HasField("min_coverage")
    assert ramp.warn_after.seconds == 6 * 3600
    written = dump_experiment_file(experiment)
    assert load(written) == experiment
    # What an operator reads: durations and whole numbers as people write them, in the order of the documentation.
    assert yaml.safe_load(written) == yaml.safe_load(text.replace("mature_after: 45m", "mature_after: 45m"))
    assert list(yaml.safe_load(written)["ramp"]) == list(RampShape.model_fields)


def test_an_empty_ramp_is_a_ramp() -> None:
    experiment = load(RAMP.replace("ramp:\n", "ramp: {}\n"))
    assert experiment.HasField("ramp")
    text = dump_experiment_file(experiment)
    assert "ramp: {}\n" in text
    assert load(text) == experiment
    assert not load(BASE).HasField("ramp")


@pytest.mark.parametrize(
    ("fragment", "line", "path", "message", "hint"),
    [
        ("  chalenger: b\n", 6, "ramp.chalenger", "unknown key", "did you mean 'challenger'?"),
        ("  stages:\n    - {cap: 1, durration: 1h}\n", 7, "ramp.stages[0].durration", "unknown key", "'duration'"),
        ("  guardrails: [{metric: retry, limt: 1}]\n", 6, "ramp.guardrails[0].limt", "unknown key", "'limit'"),
        (
            "  stages:\n    - cap: 1\n      guardrails:\n        - {metric: slo, limit: 0.1}\n",
            9,
            "ramp.stages[0].guardrails[0].metric",
            "must be retry, rephrase, abandonment, error, slow or cost, not 'slo'",
            "did you mean 'slow'?",
        ),
        ("  stages: []\n", 6, "ramp.stages", "is empty", "leave the key out"),
        ("  stages: [{duration: 1h}]\n", 6, "ramp.stages[0].cap", "is required", ""),
        ("  stages: [{cap: 1, min_decisions: 1.5}]\n", 6, "ramp.stages[0].min_decisions", "a whole number, not 1.5", ""),
        ("  stages: [{cap: 1, min_decisions: 0}]\n", 6, "ramp.stages[0].min_decisions", "greater than or equal to 1", ""),
        ("  strict: 1\n", 6, "ramp.strict", "must be true or false, not 1", ""),
        ("  warn_after: 24\n", 6, "ramp.warn_after", "24 has no unit", "2h"),
        ("  alpha: 0.5\n", 6, "ramp.alpha", "0.5 must be greater than 0 and less than 0.5", ""),
        ("  guardrails: [{metric: error}]\n", 6, "ramp.guardrails[0]", "must have limit or ratio", ""),
        (
            "  guardrails:\n    - {metric: error, limit: 0.1, ratio: 2}\n",
            7,
            "ramp.guardrails[0]",
            "has limit and ratio, it must have exactly one of them",
            "",
        ),
        # rules across fields, in the words of the file
        ("  challenger: a\n", 6, "ramp.challenger", "'a' is the control", ""),
        ("  challenger: bb\n", 6, "ramp.challenger", "no arm has this id", "did you mean 'b'?"),
        (
            "  stages:\n    - {cap: 0.5}\n    - {cap: 0.2}\n    - {cap: 1}\n  guardrails: [{metric: retry, limit: 0.1}]\n",
            8,
            "ramp.stages[1].cap",
            "0.2 must be greater than 0.5, the cap of the stage before",
            "",
        ),
        ("  guardrails: [{metric: slow, limit: 0.1}]\n", 6, "ramp.guardrails[0].latency_over", "must have one", ""),
    ],
)
def test_mistakes_in_ramps(fragment: str, line: int, path: str, message: str, hint: str) -> None:
    expect(RAMP + fragment, line, path, message, hint)


def test_two_bounds_show_beside_an_unknown_key() -> None:
    problems = problems_of(RAMP + "  guardrails:\n    - {metric: error, limit: 0.1, ratio: 2, x: 1}\n")
    assert [(p.line, p.path) for p in problems] == [(7, "ramp.guardrails[0]"), (7, "ramp.guardrails[0].x")]


@pytest.mark.parametrize(
    ("fragment", "line", "path", "message", "hint"),
    [
        # keys
        ("flor: 1\n", 4, "flor", "unknown key", "use experiment, description"),
        ("alocation: {}\n", 4, "alocation", "unknown key", "did you mean 'allocation'?"),
        ("allocation:\n  kind: thompson\n  flor: 0.1\n", 6, "allocation.flor", "unknown key", "did you mean 'floor'?"),
        ("allocation: {prior: {alpha: 1, beta: 1, gama: 1}}\n", 4, "allocation.prior.gama", "unknown key", "use alpha"),
        (
            "allocation: {discount: {half_life: 1d, window: 2d}}\n",
            4,
            "allocation.discount",
            "has half_life and window, it",
            "",
        ),
        ("allocation: {discount: {half_life: 59m}}\n", 4, "allocation.discount.half_life", "must be", ""),
        ("allocation: {discount: {}}\n", 4, "allocation.discount.rule", "exactly one field is required in oneof", ""),
        (
            "allocation: {discount: {halflife: 1d}}\n",
            4,
            "allocation.discount.halflife",
            "unknown key",
            "did you mean 'half_",
        ),
        ("rewards: {thumbs_upp: 1}\n", 4, "rewards.thumbs_upp", "unknown key", "did you mean 'thumbs_up'?"),
        ("state: draft\nstate: paused\n", 5, "state", "duplicate key, line 4 has it already", ""),
        ("allocation: {weights: {1: 1}}\n", 4, "allocation.weights.1", "a key must be text", "put it in quotes"),
        ("? [a]\n: 1\n", 4, '["?"]', "a key must be text", ""),
        (
            "allocation: {weights: {no: 1}}\n",
            4,
            "allocation.weights.no",
            "some readers of YAML take no for false",
            "write false",
        ),
        # types and values
        ("description: 5\n", 4, "description", "must be text, not 5", "put it in quotes"),
        ("description: no\n", 4, "description", "some readers of YAML take no for false", "quote it"),
        ("description: null\n", 4, "description", "has no value", "leave the key out"),
        ("allocation:\n", 4, "allocation", "has no value", "leave the key out"),
        ("allocation: 3\n", 4, "allocation", "must be a mapping, not 3", ""),
        ("allocation: {floor: '0.1'}\n", 4, "allocation.floor", "must be a number, not '0.1'", "remove the quotes"),
        ("allocation: {floor: true}\n", 4, "allocation.floor", "must be a number, not true", ""),
        ("allocation: {floor: .nan}\n", 4, "allocation.floor", ".nan is not a finite number", ""),
        ("allocation: {floor: -.INF}\n", 4, "allocation.floor", "-.INF is not a finite number", ""),
        ("allocation: {floor: 1e999}\n", 4, "allocation.floor", "1e999 is not a finite number", ""),
        (
            "allocation: {floor: 0x1}\n",
            4,
            "allocation.floor",
            "readers of YAML differ about the number 0x1",
            "decimals",
        ),
        (
            "allocation: {prior: {alpha: 010, beta: 1}}\n",
            4,
            "allocation.prior.alpha",
            "differ about the number 010",
            "",
        ),
        (
            "allocation: {prior: {alpha: 1:30, beta: 1}}\n",
            4,
            "allocation.prior.alpha",
            "differ about the number 1:30",
            "",
        ),
        ("allocation: {prior: {alpha: 1}}\n", 4, "allocation.prior.beta", "is required", ""),
        (
            "allocation: {prior: {alpha: 9007199254740993, beta: 1}}\n",
            4,
            "allocation.prior.alpha",
            "too large",
            "quotes",
        ),
        (f"allocation: {{prior: {{alpha: {'9' * 5000}, beta: 1}}}}\n", 4, "allocation.prior.alpha", "too large", ""),
        ("allocation: {weights: [1]}\n", 4, "allocation.weights", "must be a mapping, not a list", ""),
        (
            "allocation: {kind: tompson}\n",
            4,
            "allocation.kind",
            "must be thompson, top_two, fixed or uniform, not 'tompson'",
            "did you mean 'thompson'?",
        ),
        ("state: concluded\n", 4, "state", "must be draft, shadow, running or paused, not 'concluded'", ""),
        # durations
        ("attribution_window: 7\n", 4, "attribution_window", "7 has no unit", "write it as 500ms, 30s, 10m, 2h or 30d"),
        ("attribution_window: 7w\n", 4, "attribution_window", "is not a duration", "30d"),
        ("attribution_window: 1h30m\n", 4, "attribution_window", "is not a duration", "30d"),
        ("attribution_window: -1s\n", 4, "attribution_window", "is not a duration", "30d"),
        ("attribution_window: 0.0001ms\n", 4, "attribution_window", "must be greater than or equal to 1s", ""),
        ("attribution_window: 0.0000001ms\n", 4, "attribution_window", "is finer than a nanosecond", ""),
        ("attribution_window: 91d\n", 4, "attribution_window", "less than or equal to 7776000s", ""),
        ("assignment: {kind: sticky_stored, ttl: 4000000d}\n", 4, "assignment.ttl", "longer than 10,000 years", ""),
        # the proto's rules, at the file's lines
        (
            "allocation: {floor: 0.7}\n",
            4,
            "allocation.floor",
            "0.7 must be greater than or equal to 0 and less than 0.5",
            "",
        ),
        (
            "allocation: {prior: {alpha: 0, beta: 1}}\n",
            4,
            "allocation.prior.alpha",
            "0 must be greater than or equal to 0.01",
            "",
        ),
        (
            "rewards:\n  thumbs_up: 1\n  thumbs_down: -1\n",
            6,
            "rewards.thumbs_down",
            "-1 must be greater than or equal to 0",
            "",
        ),
        (f"description: {'d' * 1025}\n", 4, "description", "must be at most 1024 characters", ""),
        # rules across fields
        (
            "allocation: {weights: {a: 1}}\n",
            4,
            "allocation.weights",
            "only a fixed allocation has weights",
            "use kind: fixed",
        ),
        ("allocation: {kind: fixed}\n", 4, "allocation.kind", "a fixed allocation is an A/B test", "sticky_hash"),
        (
            "allocation: {kind: fixed, weights: {a: 1}}\nassignment: {kind: per_request}\n",
            5,
            "assignment.kind",
            "a fixed allocation is an A/B test",
            "unit: request",
        ),
        (
            "assignment: {kind: sticky_hash}\nallocation: {kind: fixed}\n",
            5,
            "allocation.weights",
            "needs the weight of each arm",
            "",
        ),
        (
            "assignment: {kind: sticky_hash}\nallocation: {kind: fixed, weights: {a: 0.9}}\n",
            5,
            "allocation.weights",
            "the weights add up to 0.9",
            "",
        ),
        (
            "assignment: {kind: sticky_hash, ttl: 1d}\n",
            4,
            "assignment.ttl",
            "only a sticky_stored assignment expires",
            "sticky_stored",
        ),
        ("assignment: {holdout: 0.6}\n", 4, "assignment.holdout", "0.6 must be greater than or equal to 0 and less", ""),
        ("derived: {retry_in: 1s}\n", 4, "derived.retry_in", "unknown key", "did you mean 'retry_within'?"),
        ("derived: {retry_within: 0s}\n", 4, "derived.retry_within", "greater than 0s", ""),
        ("derived: {abandon_after: 500ms}\n", 4, "derived.abandon_after", "greater than or equal to 1s", ""),
        ("no_feedback: null\n", 4, "no_feedback", "has no value", "leave the key out"),
        ("no_feedback: 0\n", 4, "no_feedback", "silence counts only once a decision has matured", "mature_after"),
        ("allocation: {floor: 0.49}\n", None, "", "", ""),
    ],
)
def test_mistakes_outside_arms(fragment: str, line: int | None, path: str, message: str, hint: str) -> None:
    if line is None:
        assert load(BASE + fragment)
        return
    expect(BASE + fragment, line, path, message, hint)


@pytest.mark.parametrize(
    ("arms", "rest", "line", "path", "message", "hint"),
    [
        ("[]", "", 2, "arms", "must contain at least 1 item", ""),
        ("{a: {}}", "", 2, "arms", "must be a list, not a mapping", ""),
        ("\n  - a", "", 3, "arms[0]", "must be a mapping, not 'a'", ""),
        ("\n  - {id: a}\n  - {model: m}", "", 4, "arms[1].id", "is required", ""),
        ("\n  - {id: 1}", "", 3, "arms[0].id", "must be text, not 1", "put it in quotes"),
        ("\n  - {id: on}", "", 3, "arms[0].id", "some readers of YAML take on for true", "write true, or quote it"),
        ("\n  - id:\n    model: m", "", 3, "arms[0].id", "must be text, not null", ""),
        ("\n  - {id: ''}", "", 3, "arms[0].id", "'' must be at least 1 characters", "start with a letter or digit"),
        ("\n  - id: a\n    model: x\n  - id: b b", "", 5, "arms[1].id", "'b b' does not match", "start with a letter"),
        (f"\n  - id: {'a' * 129}", "", 3, "arms[0].id", "must be at most 128 characters", ""),
        ("\n  - {id: a, rol: control}", "", 3, "arms[0].rol", "unknown key", "did you mean 'role'?"),
        ("\n  - {id: a, role: ghost}", "", 3, "arms[0].role", "must be control, challenger or shadow, not 'ghost'", ""),
        (
            "\n  - {id: a}\n  - {id: b, role: shadow}",
            "",
            4,
            "arms[1].role",
            "'b' is a shadow arm: shadow must say",
            "text: off",
        ),
        ("\n  - {id: a, cap: 0}", "", 3, "arms[0].cap", "0 must be greater than 0", ""),
        ("\n  - {id: a, cap: 1.0000001}", "", 3, "arms[0].cap", "1.0000001 must be greater than 0 and", ""),
        ("\n  - {id: a, cost_usd: -1}", "", 3, "arms[0].cost_usd", "-1 must be greater than or equal to 0", ""),
        ('\n  - {id: a, model: "x\\ty"}', "", 3, "arms[0].model", "'x\\ty' does not match regex", ""),
        ('\n  - {id: a, config: {x: "x\\0y"}}', "", 3, "arms[0].config.x", "holds NUL", ""),
        ("\n  - {id: a, config: [1]}", "", 3, "arms[0].config", "must be a mapping, not a list", ""),
        (
            "\n  - id: a\n    config:\n      s: yes",
            "",
            5,
            "arms[0].config.s",
            "some readers of YAML take yes",
            "write true",
        ),
        ("\n  - id: a\n    config:\n      s: 1\n      s: 2", "", 6, "arms[0].config.s", "duplicate key, line 5", ""),
        ('\n  - id: a\n    config:\n      "s t": .inf', "", 5, 'arms[0].config["s t"]', "not a finite number", ""),
        (f"\n  - {{id: a, config: {{x: {'x' * 70_000}}}}}", "", 3, "arms[0].config", "the limit is 65,536", ""),
        ("\n  - {id: a}\n  - {id: b}\n  - {id: a}", "", 5, "arms[2].id", "another arm is already called 'a'", ""),
        (
            "\n  - {id: a, role: control}\n  - id: b\n    role: control",
            "",
            5,
            "arms[1].role",
            "'a' is already the control",
            "challenger",
        ),
        ("\n  - {id: a, cap: 0.5}\n  - {id: b, cap: 0.4}", "", 2, "arms", "the caps add up to 0.9", "raise a cap"),
        (
            "\n" + "\n".join(f"  - id: a{i}" for i in range(50)),
            "",
            1,
            "allocation.floor",
            "50 arms with a floor of 0.01",
            "below 0.01",
        ),
        (
            "\n  - {id: a}\n  - {id: b}",
            "allocation:\n  floor: 0.25",
            6,
            "allocation.floor",
            "2 arms with a floor of 0.25 take 0.5",
            "below 0.25",
        ),
        (
            "\n" + "\n".join(f"  - id: a{i}" for i in range(101)),
            "allocation: {floor: 0}",
            2,
            "arms",
            "there are 101 arms",
            "",
        ),
        (
            "\n  - {id: haiku}",
            "assignment: {kind: sticky_hash}\nallocation:\n  kind: fixed\n  weights:\n    haiku: 0.5\n    hauki: 0.5",
            9,
            "allocation.weights.hauki",
            "no arm has this id",
            "did you mean 'haiku'?",
        ),
    ],
)
def test_mistakes_in_arms(arms: str, rest: str, line: int, path: str, message: str, hint: str) -> None:
    expect(f"experiment: e\narms: {arms}\n{rest}\n", line, path, message, hint)


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("", 1, "the file is empty", "`bandit-router init` writes an example"),
        ("# nothing\n---\n", 1, "the file is empty", ""),
        ("- a\n", 1, "must be a mapping with experiment and arms, not a list", ""),
        ("experiment\n", 1, "must be a mapping with experiment and arms, not 'experiment'", ""),
        ("experiment: e\narms:\n\t- id: a\n", 3, "found character '\\t'", "indent with spaces, not tabs"),
        ("experiment: e\narms: [{id: a}\nstate: draft\n", 3, "while parsing a flow sequence", ""),
        ("experiment: e: f\n", 1, "mapping values are not allowed here", ""),
        ("experiment: e\n---\nexperiment: f\n", 2, "expected a single document", ""),
        ("experiment: &e e\narms: [*e]\n", 2, "aliases (*name) are not accepted", ""),
        ("experiment: e\narms: !!python/object/apply:os.system ['true']\n", 2, "tags (!name) are not accepted", ""),
        ("a: " + "[" * 30, 1, "nested more than 24 levels deep", ""),
        ("a: " + "{b: " * 100_000, 1, "nested more than 24 levels deep", ""),
        ('experiment: e\ndescription: "\\UFFFFFFFF"\n', 2, "too large", ""),
        ("experiment: e\ndescription: a\x00b\n", 2, "YAML does not allow the character U+0000", ""),
        (b"experiment: e\ndescription: \xff\n", 2, "not UTF-8", "save the file as UTF-8"),
        ("experiment: \ud800", 1, "not UTF-8", ""),
        ("experiment: e\n".encode("utf-16"), 1, "not UTF-8", ""),
        ("#" * (1024 * 1024 + 1), 0, "the file is larger than 1 MiB", ""),
    ],
)
def test_not_even_a_mapping(text: str | bytes, line: int, message: str, hint: str) -> None:
    (problem,) = problems_of(text)
    assert (problem.line, problem.path) == (line, "")
    assert message in problem.message
    assert hint in problem.hint


def expect(text: str, line: int, path: str, message: str, hint: str) -> None:
    found = problems_of(text)
    matching = [p for p in found if (p.line, p.path) == (line, path) and message in p.message and hint in p.hint]
    assert len(matching) == 1, found
    assert problems_of(text) == found, "the same file must give the same problems"


def test_surrogates_in_escapes_are_refused() -> None:
    expect(
        BASE + 'description: "\\ud83d\\ude00"\n',
        4,
        "description",
        "holds NUL or half of a surrogate pair",
        "the character itself",
    )


def test_all_problems_are_reported_in_the_order_of_the_file() -> None:
    problems = problems_of(
        "experiment: a b\nflor: 1\narms:\n  - {id: a, cap: 7}\n  - {id: a, cap: 9}\nstate: draft\nstate: draft\n"
    )
    found = [(p.line, p.path) for p in problems]
    # That two arms are called "a" is a rule across fields: it waits for the keys to be right.
    assert found == [(1, "experiment"), (2, "flor"), (4, "arms[0].cap"), (5, "arms[1].cap"), (7, "state")]


def test_a_value_has_one_problem() -> None:
    # Not a number to YAML, text where a number belongs, and again a mistake to the proto.
    (problem,) = problems_of("experiment: e\narms: [{id: a, cap: .nan}]\n")
    assert problem.message == ".nan is not a finite number"
    (problem,) = problems_of("experiment: ''\narms: [{id: a}]\n")
    assert problem.message == "'' must be at least 1 characters"


def test_the_text_of_the_error() -> None:
    with pytest.raises(ExperimentFileError) as caught:
        load_experiment_file("experiment: e\narms:\n  - {id: a, modle: m}\n  - {id: 7}\n", "exp.yaml")
    assert str(caught.value) == (
        "exp.yaml:3: arms[0].modle: unknown key (did you mean 'model'?)\n"
        "exp.yaml:4: arms[1].id: must be text, not 7 (put it in quotes)"
    )
    assert caught.value.problems[1] == FileProblem(4, 6, "arms[1].id", "must be text, not 7", "put it in quotes")
    assert caught.value.source == "exp.yaml"


def test_messages_stay_on_their_line() -> None:
    text = BASE + '"x\\ny": 1\ndescription: ["a\\nb"]\nstate: "a\\nb"\n'
    with pytest.raises(ExperimentFileError) as caught:
        load_experiment_file(text)
    assert len(str(caught.value).splitlines()) == len(caught.value.problems) == 3


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + DESIGN.replace("\n", "\r\n").encode())
    assert load_experiment_file(path).source == str(path)
    assert load_experiment_file(path, "shown").source == "shown"
    assert load_experiment_file(path).experiment == load(DESIGN) == load_experiment_file(DESIGN.encode()).experiment
    for missing in (tmp_path / "none.yaml", tmp_path, Path("nul\0")):
        with pytest.raises(ExperimentFileError, match="cannot be read") as caught:
            load_experiment_file(missing)
        assert str(caught.value).startswith(f"{missing}: ")


def test_yaml_versions_agree_on_what_is_accepted() -> None:
    experiment = load(
        "experiment: 2026-01-31\narms:\n  - {id: y, model: 1.2.3, config: {a: 1e3, b: +1, c: True, d: ~, e: 5., f: n}}\n"
    )
    assert experiment.experiment_id == "2026-01-31"
    arm = experiment.arms[0]
    assert (arm.arm_id, arm.model) == ("y", "1.2.3")
    assert dict(arm.config) == {"a": 1000, "b": 1, "c": True, "d": None, "e": 5, "f": "n"}


def test_weights_that_add_up_but_for_rounding_are_accepted() -> None:
    weights = ", ".join(f"a{i}: 0.1" for i in range(10))
    arms = ", ".join(f"{{id: a{i}, cap: 0.1}}" for i in range(10))
    text = f"experiment: e\narms: [{arms}]\nallocation: {{kind: fixed, weights: {{{weights}}}}}\n"
    assert load(text + "assignment: {kind: sticky_hash}\n")
    assert load(text + "assignment: {unit: request}\n")


def test_the_rules_take_any_message() -> None:
    experiment = Experiment()
    experiment.allocation.kind = AllocationRule.KIND_FIXED
    experiment.allocation.weights.update({"a": float("inf"), "b": float("-inf"), 'q"\\': float("nan")})
    experiment.reward_rule.signals.add(signal=types.SIGNAL_THUMBS_UP)
    experiment.reward_rule.signals.add(signal=types.SIGNAL_THUMBS_UP)
    paths = [problem.path for problem in rules.cross_field_problems(experiment)]
    assert paths == [
        "arms",
        "allocation.weights.a",
        "allocation.weights.b",
        'allocation.weights["q\\"\\\\"]',
        "allocation.weights",
        "allocation.kind",
        "reward_rule.signals[1].signal",
    ]


def test_floors() -> None:
    kinds = AllocationRule.Kind
    found = {kind: rules.floor(Experiment(allocation=AllocationRule(kind=kind))) for kind in kinds.values()}
    assert found == {
        0: 0.01,
        kinds.Value("KIND_THOMPSON"): 0.01,
        kinds.Value("KIND_FIXED"): 0,
        kinds.Value("KIND_UNIFORM"): 0,
        kinds.Value("KIND_TOP_TWO"): 0.01,
    }
    assert rules.floor(Experiment()) == 0.01
    assert rules.floor(Experiment(allocation=AllocationRule(kind=AllocationRule.KIND_FIXED, floor=0.2))) == 0.2


def test_dump_leaves_out_what_a_file_cannot_say() -> None:
    stored = load(DESIGN)
    stored.arms[0].version = 3
    stored.arms[0].state = types.ARM_STATE_ACTIVE
    stored.arms.add(arm_id="old", state=types.ARM_STATE_RETIRED)
    stored.etag, stored.policy_version = "7", 9
    stored.create_time.GetCurrentTime()
    text = dump_experiment_file(stored, "running")
    assert load(text) == load(DESIGN)
    assert load_experiment_file(text).state == "running"
    assert "max_tokens: 1024\n" in text


def test_dump_quotes_what_yaml_would_misread() -> None:
    experiment = load(BASE)
    words = [
        "1e3",
        "yes",
        "n",
        "null",
        "010",
        "0o17",
        "1:30",
        "~",
        "",
        " a",
        "a: b",
        "a #b",
        "<<",
        "=",
        "2026-01-01",
        "é\n\t",
    ]
    experiment.arms[0].config.update({word: word for word in words})
    assert load(dump_experiment_file(experiment)) == experiment


def test_the_schema_names_every_choice_of_the_proto() -> None:
    choices = {
        (ArmShape, "role"): types.Role,
        (AllocationShape, "kind"): AllocationRule.Kind,
        (AssignmentShape, "kind"): AssignmentRule.Kind,
        (AssignmentShape, "unit"): AssignmentRule.Unit,
        (GuardrailShape, "metric"): Guardrail.Metric,
    }
    definitions = experiment_json_schema()["$defs"]
    for (model, key), enum in choices.items():
        names = {enum.Name(number).split("_", 1)[1].lower() for number in enum.values() if number}
        assert set(definitions[model.__name__]["properties"][key]["enum"]) == names, (model, key)
    signals = {types.Signal.Name(n).removeprefix("SIGNAL_").lower() for n in types.Signal.values() if n}
    assert set(get_args(SignalName)) == set(experiment_json_schema()["properties"]["rewards"]["properties"]) == signals


def test_the_schema_has_the_rules_of_the_proto_and_describes_every_key() -> None:
    schema = experiment_json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["required"] == ["experiment", "arms"]
    assert (schema["properties"]["arms"]["minItems"], schema["properties"]["arms"]["maxItems"]) == (1, rules.MAX_ARMS)
    arm = schema["$defs"]["ArmShape"]["properties"]
    assert (arm["cap"]["exclusiveMinimum"], arm["cap"]["maximum"], arm["cap"]["default"]) == (0, 1, rules.DEFAULT_CAP)
    assert (arm["id"]["maxLength"], arm["id"]["pattern"]) == (128, "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        assert part["description"]
        for key, value in part["properties"].items():
            assert value.get("description") or "$ref" in value, key
            assert value.get("default", 0) is not None, "in the file, null is refused"


def valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema that ours uses."""
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    types_of = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    named = schema.get("type", list(types_of))
    if not any(isinstance(value, types_of[name]) for name in ([named] if isinstance(named, str) else named)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str):
        return bool(re.search(schema.get("pattern", ""), value)) and len(value) <= schema.get("maxLength", len(value))
    if isinstance(value, int | float):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, list):
        return all(valid(item, schema["items"], root) for item in value)
    if isinstance(value, dict):
        other, known = schema.get("additionalProperties", True), schema.get("properties", {})
        return set(schema.get("required", ())) <= set(value) and all(
            valid(item, known[key], root) if key in known else other and (other is True or valid(item, other, root))
            for key, item in value.items()
        )
    return True


def uncommented(text: str) -> str:
    return re.sub(r"^#((?:  )*[a-z_]+:.*)$", r"\1", text, flags=re.MULTILINE)


def test_the_example_is_valid_as_it_stands_and_with_its_defaults() -> None:
    schema = experiment_json_schema()
    for text in (commented_example(), uncommented(commented_example()), DESIGN):
        assert load(text)
        assert valid(yaml.safe_load(text), schema, schema)
    assert not valid(yaml.safe_load(DESIGN + "stat: draft"), schema, schema)
    assert commented_example().splitlines()[0] == "# yaml-language-server: $schema=./experiment.schema.json"
    assert [arm.arm_id for arm in load(commented_example()).arms] == ["haiku", "sonnet"]


def shown_block(name: str) -> dict[str, Any]:
    """A block that the example shows in its comments, as it would stand in a file."""
    text = re.search(rf"^#   {name}:\n(?:#     .*\n)+", commented_example(), re.MULTILINE)
    assert text is not None
    found: dict[str, Any] = yaml.safe_load(re.sub(r"^#   ", "", text[0], flags=re.MULTILINE))
    return found


def test_what_the_example_shows_in_comments_is_valid() -> None:
    schema = experiment_json_schema()
    whole = {**yaml.safe_load(commented_example()), **shown_block("derived"), **shown_block("ramp")}
    assert valid(whole, schema, schema)
    experiment = load(json.dumps(whole))
    assert [rail.metric for rail in experiment.ramp.guardrails] == [
        Guardrail.METRIC_RETRY,
        Guardrail.METRIC_ERROR,
        Guardrail.METRIC_SLOW,
        Guardrail.METRIC_COST,
    ]
    assert set(shown_block("derived")["derived"]) == set(schema["$defs"]["DerivedShape"]["properties"])
    assert (
        whole["derived"]["rephrased_within"] == schema["$defs"]["DerivedShape"]["properties"]["rephrased_within"]["default"]
    )


SHADOW = """experiment: e
arms:
  - {id: a, role: control}
  - {id: b}
  - {id: c, role: shadow}
shadow: {text: off}
allocation: {priors: {b: {alpha: 3, beta: 1.5}}}
"""


def test_shadow_traffic_and_priors_of_single_arms_are_read() -> None:
    file = load_experiment_file(SHADOW + "state: shadow\n")
    assert file.state == "shadow"
    assert [arm.role for arm in file.experiment.arms] == [types.ROLE_CONTROL, 0, types.ROLE_SHADOW]
    assert file.experiment.shadow == ShadowRule(text=types.TEXT_MODE_OFF)
    assert dict(file.experiment.allocation.priors) == {"b": BetaPrior(alpha=3, beta=1.5)}
    again = load_experiment_file(dump_experiment_file(file.experiment, file.state))
    assert (again.experiment, again.state) == (file.experiment, file.state)
    quoted = load_experiment_file(SHADOW.replace("text: off", 'text: "off"'))
    assert quoted.experiment == file.experiment


def test_what_the_example_shows_of_shadow_traffic_is_valid() -> None:
    text = re.search(r"^#   shadow:\n(?:#     .*\n)+", commented_example(), re.MULTILINE)
    assert text is not None
    shown = re.sub(r"^#   ", "", text[0], flags=re.MULTILINE)
    file = load_experiment_file(commented_example() + shown)
    properties = experiment_json_schema()["$defs"]["ShadowShape"]["properties"]
    assert file.experiment.shadow.rate == properties["rate"]["default"] == 0.1
    assert (file.experiment.shadow.daily_budget_usd, file.experiment.shadow.text) == (20, types.TEXT_MODE_OFF)
    assert properties["text_limit"]["default"] == 500
    assert set(properties["text"]["enum"]) == {"full", "truncated", "off"}


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "message", "hint"),
    [
        ("{text: off}", "{rate: 0.1}", 6, "shadow.text", "is required", ""),
        ("{text: off}", "{text: no}", 6, "shadow.text", "must be full, truncated or off, not 'no'", ""),
        ("{text: off}", "{text: off, rate: 1.5}", 6, "shadow.rate", "1.5 must be", ""),
        ("{text: off}", "{text: full, text_limit: 9}", 6, "shadow.text_limit", "only truncated text has", "truncated"),
        ("{text: off}", "{text: off, daily_budget_usd: 2}", 5, "arms[2].cost_usd", "each arm that is mirrored", ""),
        ("{text: off}", "{text: off, budget: 2}", 6, "shadow.budget", "unknown key", ""),
        ("{b: {", "{d: {", 7, "allocation.priors.d", "no arm has this id", ""),
        ("{b: {", "{c: {", 7, "allocation.priors.c", "a shadow arm is not learned about", ""),
        ("beta: 1.5", "beat: 1.5", 7, "allocation.priors.b.beat", "unknown key", "did you mean 'beta'?"),
        ("{priors:", "{kind: uniform, priors:", 7, "allocation.priors", "only a thompson or top_two", "kind: thompson"),
        ("role: shadow}", "role: shadow, cap: 0.5}", 5, "arms[2].cap", "a shadow arm gets no traffic", "leave it out"),
        ("shadow: {text: off}\n", "state: shadow\n", 6, "shadow", "the shadow state needs it", "text: off"),
        (", role: control", "", 2, "arms", "in state shadow the control answers alone", "role: control"),
    ],
)  # fmt: skip
def test_mistakes_about_shadow_traffic(old: str, new: str, line: int, path: str, message: str, hint: str) -> None:
    text = SHADOW.replace(old, new, 1)
    text = text if "state:" in text else text + "state: shadow\n"
    if path == "shadow":  # what is missing has the place of what it is missing from
        line = 1
    expect(text, line, path, message, hint)


def test_the_shadow_state_needs_the_costs_of_challengers_too() -> None:
    text = SHADOW.replace("{text: off}", "{text: off, daily_budget_usd: 2}").replace(
        "role: shadow", "role: shadow, cost_usd: 1"
    )
    assert load_experiment_file(text).experiment.shadow.daily_budget_usd == 2
    expect(text + "state: shadow\n", 4, "arms[1].cost_usd", "each arm that is mirrored needs it", "what one call costs")


def test_the_example_says_nothing_but_the_defaults() -> None:
    file = load_experiment_file(uncommented(commented_example()))
    shown, stated = file.experiment, load(commented_example())
    assert not any(stated.HasField(name) for name in ("allocation", "assignment", "reward_rule"))
    assert file.state == "running"
    assert shown.arms[1].cap == rules.DEFAULT_CAP
    assert shown.allocation.kind == rules.allocation_kind(stated)
    assert shown.allocation.floor == rules.floor(stated)
    assert (shown.allocation.prior.alpha, shown.allocation.prior.beta) == rules.DEFAULT_PRIOR
    assert shown.assignment.kind == rules.assignment_kind(stated)
    assert shown.assignment.unit == AssignmentRule.UNIT_USER
    assert shown.assignment.holdout == 0
    assert shown.reward_rule.mature_after.ToMicroseconds() == 0
    rewards = {s.signal: s.reward * MICROS if s.HasField("reward") else None for s in shown.reward_rule.signals}
    assert rewards == {int(signal): micros for signal, micros in DEFAULT_SIGNAL_MICROS.items()}
    assert shown.reward_rule.attribution_window.seconds == rules.DEFAULT_ATTRIBUTION_WINDOW_S


def test_the_schema_shows_the_same_defaults_as_the_example() -> None:
    schema = experiment_json_schema()
    shown = yaml.safe_load(uncommented(commented_example()))
    for key in ("attribution_window", "state"):
        assert schema["properties"][key]["default"] == shown[key]
    assert {k: v["default"] for k, v in schema["properties"]["rewards"]["properties"].items()} == shown["rewards"]
    for name, part in (("AllocationShape", shown["allocation"]), ("AssignmentShape", shown["assignment"])):
        for key, value in schema["$defs"][name]["properties"].items():
            if "default" in value:
                assert value["default"] == part[key], key


def test_the_design_file_and_the_example_survive_a_round_trip() -> None:
    for text in (DESIGN, uncommented(commented_example())):
        file = load_experiment_file(text)
        again = load_experiment_file(dump_experiment_file(file.experiment, file.state))
        assert (again.experiment, again.state) == (file.experiment, file.state)
