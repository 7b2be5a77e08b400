"""Any valid experiment survives being written and read; any input at all is read or refused, never a crash."""

import contextlib
import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import ExperimentFileError, dump_experiment_file, load_experiment_file
from router.config.durations import format_duration, parse_duration
from router.v1 import types_pb2 as types
from router.v1.experiments_pb2 import AllocationRule, AssignmentRule, Experiment

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
    seconds = st.integers(1, most_s - 1) | st.sampled_from([60, 3600, 86_400, 7 * 86_400])
    return st.builds(lambda s, n: Duration(seconds=s, nanos=n), seconds, st.just(0) | st.integers(0, 999_999_999))


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
        if fixed:
            shares = [draw(st.integers(1, 100)) for _ in arm_ids]
            experiment.allocation.weights.update({a: s / sum(shares) for a, s in zip(arm_ids, shares, strict=True)})
    if fixed or draw(st.booleans()):
        experiment.assignment.SetInParent()
        kinds = [AssignmentRule.KIND_STICKY_HASH, AssignmentRule.KIND_STICKY_STORED]
        experiment.assignment.kind = draw(st.sampled_from(kinds if fixed else AssignmentRule.Kind.values()))
        experiment.assignment.unit = draw(st.sampled_from(AssignmentRule.Unit.values()))
        sticky = experiment.assignment.kind == AssignmentRule.KIND_STICKY_STORED
        if sticky and (ttl := maybe(durations(315_576_000_000))) is not None:
            experiment.assignment.ttl.CopyFrom(ttl)
    if draw(st.booleans()):
        experiment.reward_rule.SetInParent()
        for signal in draw(st.lists(st.sampled_from(types.Signal.values()[1:]), unique=True)):
            experiment.reward_rule.signals.add(signal=signal, reward=maybe(st.floats(0, 1)))
        if (window := maybe(durations(7_776_000))) is not None:
            experiment.reward_rule.attribution_window.CopyFrom(window)
    return experiment


@given(experiments(), st.sampled_from([None, "draft", "running", "paused"]))
@settings(deadline=None)
def test_what_is_written_is_read_back(experiment: Experiment, state: str | None) -> None:
    text = dump_experiment_file(experiment, state)
    file = load_experiment_file(text)
    assert file.experiment == experiment, text
    assert file.state == state
    assert dump_experiment_file(file.experiment, state) == text


@given(durations(315_576_000_000))
def test_durations_survive(duration: Duration) -> None:
    again = Duration()
    again.FromJsonString(parse_duration(format_duration(duration)))
    assert again == duration


def read(content: str | bytes) -> None:
    with contextlib.suppress(ExperimentFileError):
        load_experiment_file(content)


@given(st.text() | st.binary())
@settings(deadline=None)
def test_any_input_is_read_or_refused(content: str | bytes) -> None:
    read(content)


MARKS = [*"{}[],:?-&*!|>'\"%@`#~ \t\n\\", "\n  ", "\n- ", ": ", "---\n", "...\n", "%YAML 1.1\n", "<<: ", "*a", "&a "]
KEYS = ["experiment: ", "arms: ", "id: ", "allocation: ", "weights: ", "rewards: ", "ttl: ", "state: ", "!!int "]
VALUES = ["7d", "\\U", "\\x", "FFFFFFFF", "1", ".nan", "1e999", "0x", "yes", "null", "a", "\ud800", "\x85", "9" * 30]
YAMLISH = st.lists(st.sampled_from([*MARKS, *KEYS, *VALUES]), max_size=40).map("".join)


@given(YAMLISH)
@settings(deadline=None, max_examples=500)
def test_anything_like_yaml_is_read_or_refused(content: str) -> None:
    read(content)


NAMES = ["experiment", "arms", "id", "config", "cap", "allocation", "kind", "floor", "prior", "weights", "rewards"]
MORE_NAMES = ["assignment", "ttl", "attribution_window", "state", "thumbs_up", "a"]
JSONISH = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["7d", "a", "fixed", "sticky_hash", "control"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, *MORE_NAMES]) | TEXT, inner, max_size=5)
    ),
    max_leaves=20,
)


@given(
    st.fixed_dictionaries(
        {"experiment": JSONISH, "arms": st.lists(JSONISH, max_size=3)},
        optional={
            "allocation": JSONISH,
            "assignment": JSONISH,
            "rewards": JSONISH,
            "attribution_window": JSONISH,
            "state": JSONISH,
        },
    )
)
@settings(deadline=None, max_examples=300)
def test_any_content_is_read_or_refused(content: dict[str, Any]) -> None:
    # JSON is YAML, but for how it escapes characters beyond the first 65,536: unescaped, they are alike.
    read(json.dumps(content, ensure_ascii=False))
