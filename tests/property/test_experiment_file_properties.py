"""Any valid experiment survives being written and read; any input at all is read or refused, never a crash."""

import contextlib
import json
from typing import Any

from definitions import NUMBERS, TEXT, durations, experiments
from google.protobuf.duration_pb2 import Duration
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router.config import ExperimentFileError, dump_experiment_file, load_experiment_file
from router.durations import format_duration, parse_duration
from router.shadow_rules import shadow_state_problems
from router.v1.experiments_pb2 import Experiment


@given(experiments(), st.sampled_from([None, "draft", "shadow", "running", "paused"]))
@settings(deadline=None)
def test_what_is_written_is_read_back(experiment: Experiment, state: str | None) -> None:
    assume(state != "shadow" or not list(shadow_state_problems(experiment)))
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
RAMP_NAMES = ["ramp", "stages", "guardrails", "metric", "limit", "ratio", "duration", "min_decisions", "derived"]
JSONISH = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["7d", "a", "fixed", "sticky_hash", "control"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, *MORE_NAMES, *RAMP_NAMES]) | TEXT, inner, max_size=5)
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
            "derived": JSONISH,
            "mature_after": JSONISH,
            "shadow": JSONISH,
            "ramp": JSONISH
            | st.fixed_dictionaries(
                {},
                optional={"stages": st.lists(JSONISH, max_size=2), "guardrails": st.lists(JSONISH, max_size=2)},
            ),
        },
    )
)
@settings(deadline=None, max_examples=300)
def test_any_content_is_read_or_refused(content: dict[str, Any]) -> None:
    # JSON is YAML, but for how it escapes characters beyond the first 65,536: unescaped, they are alike.
    read(json.dumps(content, ensure_ascii=False))
