"""An experiment file's shape as the proto message, and the message as a file again.

Both ways go through protobuf's JSON form, which differs from the file in a few names, in enums and in durations.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import yaml
from google.protobuf.json_format import MessageToDict, ParseDict

from router.config.durations import format_duration
from router.config.shape import ExperimentShape
from router.config.yaml_lines import MAX_WHOLE
from router.v1.experiments_pb2 import Experiment
from router.v1.types_pb2 import ARM_STATE_RETIRED

#: Text that needs no quotes, unless YAML has a meaning for the word.
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*")
_MEANINGFUL: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def to_proto(shape: ExperimentShape) -> Experiment:
    """Return the message that a file stands for; what the file leaves out is absent, for the server to fill in."""
    keys = shape.model_dump(exclude_unset=True)
    form: dict[str, Any] = {"experiment_id": keys["experiment"], "arms": keys["arms"]}
    for name in keys.keys() & {"description", "allocation", "assignment"}:
        form[name] = keys[name]
    for arm in form["arms"]:
        arm["arm_id"] = arm.pop("id")
    for part, name, prefix in _enums(form):
        part[name] = prefix + part[name].upper()
    if "rewards" in keys or "attribution_window" in keys:
        signals = [
            {"signal": f"SIGNAL_{name.upper()}", **({} if reward is None else {"reward": reward})}
            for name, reward in keys.get("rewards", {}).items()
        ]
        form["reward_rule"] = {"signals": signals}
        if "attribution_window" in keys:
            form["reward_rule"]["attribution_window"] = keys["attribution_window"]
    return ParseDict(form, Experiment())


def dump_experiment_file(experiment: Experiment, state: str | None = None) -> str:
    """Return the file that loads as this experiment, which must be valid, and state.

    Retired arms and output-only fields are left out. Whole numbers, which the message keeps as doubles, are restored.
    """
    active = Experiment()
    active.CopyFrom(experiment)
    del active.arms[:]
    active.arms.extend(arm for arm in experiment.arms if arm.state != ARM_STATE_RETIRED)
    form = _restore(MessageToDict(active, preserving_proto_field_name=True))
    for part, name, prefix in _enums(form):
        part[name] = part[name].removeprefix(prefix).lower()
    keys: dict[str, Any] = {"experiment": form["experiment_id"]}
    if "description" in form:
        keys["description"] = form["description"]
    names = ("model", "family", "role", "config", "cap", "cost_usd")
    keys["arms"] = [{"id": arm["arm_id"], **{n: arm[n] for n in names if n in arm}} for arm in form["arms"]]
    for name in ("allocation", "assignment"):
        if name in form:
            keys[name] = form[name]
    if active.assignment.HasField("ttl"):
        keys["assignment"]["ttl"] = format_duration(active.assignment.ttl)
    if "reward_rule" in form:
        rule = active.reward_rule
        # An empty rule is not the same message as none, so one of the two keys must be there.
        if rule.signals or not rule.HasField("attribution_window"):
            signals = form["reward_rule"].get("signals", [])
            keys["rewards"] = {entry["signal"].removeprefix("SIGNAL_").lower(): entry.get("reward") for entry in signals}
        if rule.HasField("attribution_window"):
            keys["attribution_window"] = format_duration(rule.attribution_window)
    if state is not None:
        keys["state"] = state
    # Nothing is folded: folding changes spaces, and a reader would have to know how.
    return yaml.dump(keys, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


def _enums(form: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Each enum that the form has, but for signals: where it is, its name, and the proto's prefix of its values."""
    parts = [(arm, "role", "ROLE_") for arm in form.get("arms", ())]
    for name in ("allocation", "assignment"):
        parts.append((form.get(name, {}), "kind", "KIND_"))
    parts.append((form.get("assignment", {}), "unit", "UNIT_"))
    return [entry for entry in parts if entry[1] in entry[0]]


def _restore(value: Any) -> Any:
    """The value with doubles made whole numbers where that is exact, and mappings, which have no order, sorted."""
    if isinstance(value, dict):
        return {key: _restore(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_WHOLE and str(value) != "-0.0":
        return int(value)
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes all text but words: PyYAML itself would leave 1e3 bare, which YAML 1.2 takes for a number."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    bare = _WORD.fullmatch(text) and text.lower() not in _MEANINGFUL
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if bare else '"')


_Dumper.add_representer(str, _represent_text)
