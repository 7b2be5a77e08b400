"""An experiment file's shape as the proto message, and the message as a file again.

Both ways go through protobuf's JSON form, which differs from the file in a few names, in enums and in durations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Final

import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from router.config.shape import ExperimentShape
from router.config.yaml_lines import MAX_WHOLE
from router.durations import format_duration
from router.v1.experiments_pb2 import DerivedSignals, Experiment, Guardrail, RampRule, RampStage
from router.v1.types_pb2 import ARM_STATE_RETIRED

#: Keys of the file that are fields of the reward rule.
_RULE_KEYS: Final = ("attribution_window", "derived", "mature_after", "no_feedback", "unit_share")
#: Text that needs no quotes, unless YAML has a meaning for the word.
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*")
_MEANINGFUL: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def to_proto(shape: ExperimentShape) -> Experiment:
    """Return the message that a file stands for; what the file leaves out is absent, for the server to fill in."""
    keys = shape.model_dump(exclude_unset=True)
    form: dict[str, Any] = {"experiment_id": keys["experiment"], "arms": keys["arms"]}
    for name in keys.keys() & {"description", "allocation", "assignment", "ramp", "shadow"}:
        form[name] = keys[name]
    for arm in form["arms"]:
        arm["arm_id"] = arm.pop("id")
    if "challenger" in form.get("ramp", {}):
        form["ramp"]["challenger_arm_id"] = form["ramp"].pop("challenger")
    rule: dict[str, Any] = {name: keys[name] for name in (*_RULE_KEYS, "evidence_unit") if name in keys}
    if "rewards" in keys:
        rule["signals"] = [
            {"signal": f"SIGNAL_{name.upper()}", **({} if reward is None else {"reward": reward})}
            for name, reward in keys["rewards"].items()
        ]
    if rule or "rewards" in keys:
        form["reward_rule"] = rule
    for part, name, prefix in _enums(form):
        part[name] = prefix + part[name].upper()
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
    if active.allocation.HasField("discount"):
        keys["allocation"]["discount"] = _stated(active.allocation.discount, ("half_life", "window"))
    if "reward_rule" in form:
        rule = active.reward_rule
        # An empty rule is not the same message as none, so one key of it must be there.
        if rule.signals or not (rule.evidence_unit or any(rule.HasField(name) for name in _RULE_KEYS)):
            signals = form["reward_rule"].get("signals", [])
            keys["rewards"] = {entry["signal"].removeprefix("SIGNAL_").lower(): entry.get("reward") for entry in signals}
        keys.update(_stated(rule, _RULE_KEYS))
        if rule.evidence_unit:
            keys["evidence_unit"] = form["reward_rule"]["evidence_unit"]
    if active.HasField("ramp"):
        keys["ramp"] = _ramp(active.ramp)
    if "shadow" in form:
        keys["shadow"] = form["shadow"]
    if state is not None:
        keys["state"] = state
    # Nothing is folded: folding changes spaces, and a reader would have to know how.
    return yaml.dump(keys, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


def _ramp(ramp: RampRule) -> dict[str, Any]:
    keys: dict[str, Any] = {"challenger": ramp.challenger_arm_id} if ramp.challenger_arm_id else {}
    if ramp.stages:
        keys["stages"] = [_stage(stage) for stage in ramp.stages]
    if ramp.guardrails:
        keys["guardrails"] = [_guardrail(guardrail) for guardrail in ramp.guardrails]
    keys.update(_stated(ramp, ("alpha", "min_coverage")))
    keys.update({name: True for name in ("strict", "approval") if getattr(ramp, name)})
    return {**keys, **_stated(ramp, ("warn_after",))}


def _stage(stage: RampStage) -> dict[str, Any]:
    keys = {"cap": _restore(stage.cap), **_stated(stage, ("duration", "min_decisions"))}
    return {**keys, "guardrails": [_guardrail(guardrail) for guardrail in stage.guardrails]} if stage.guardrails else keys


def _guardrail(guardrail: Guardrail) -> dict[str, Any]:
    metric = Guardrail.Metric.Name(guardrail.metric).removeprefix("METRIC_").lower()
    return {"metric": metric, **_stated(guardrail, ("limit", "ratio", "latency_over", "clip_usd"))}


def _stated(message: Message, names: Iterable[str]) -> dict[str, Any]:
    """The fields of these that the message states, as a file has them."""
    found: dict[str, Any] = {}
    for name in names:
        if message.HasField(name):
            value = getattr(message, name)
            if isinstance(value, DerivedSignals):
                found[name] = _stated(value, value.DESCRIPTOR.fields_by_name)
            else:
                found[name] = format_duration(value) if isinstance(value, Duration) else _restore(value)
    return found


def _enums(form: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Each enum that the form has, but for signals: where it is, its name, and the proto's prefix of its values."""
    parts = [(arm, "role", "ROLE_") for arm in form.get("arms", ())]
    for name in ("allocation", "assignment"):
        parts.append((form.get(name, {}), "kind", "KIND_"))
    parts.append((form.get("assignment", {}), "unit", "UNIT_"))
    parts.append((form.get("reward_rule", {}), "evidence_unit", "EVIDENCE_UNIT_"))
    parts.append((form.get("shadow", {}), "text", "TEXT_MODE_"))
    ramp = form.get("ramp", {})
    for part in (ramp, *ramp.get("stages", ())):
        parts.extend((guardrail, "metric", "METRIC_") for guardrail in part.get("guardrails", ()))
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
