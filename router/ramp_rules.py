"""What a RampRule means, and what is wrong with one: `bandit.ramp.validate` in the names of the proto, and who takes part.

Assumes
    As `router.experiment_rules`: every arm of a definition is active.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from bandit.ramp import Guardrail, Metric, Problem, Ramp, Stage, default_stages, validate
from router.field_problems import FieldProblem, Steps, did_you_mean
from router.shadow_rules import challengers as challengers_of
from router.v1 import experiments_pb2, types_pb2

_MICROSECONDS: Final = "_us"
_METRICS: Final = {metric.value: metric for metric in Metric}


def ramp_of(given: experiments_pb2.RampRule) -> Ramp:
    """Return what a RampRule means. Raises KeyError if a guardrail's metric is unspecified or unknown."""
    common = [_guardrail_of(guardrail) for guardrail in given.guardrails]
    stages = [_stage_of(stage) for stage in given.stages] or default_stages()
    stated: dict[str, Any] = {name: getattr(given, name) for name in ("alpha", "min_coverage") if given.HasField(name)}
    if given.HasField("warn_after"):
        stated["warn_after_us"] = given.warn_after.ToMicroseconds()
    whole = tuple(replace(stage, guardrails=_with_common(stage.guardrails, common)) for stage in stages)
    return Ramp(whole, strict=given.strict, approval=given.approval, **stated)


def challenger_of(ramp: experiments_pb2.RampRule, challengers: Sequence[str]) -> str:
    """Return the id of the arm that a ramp lets in; an empty string if it names none and there is not one alone."""
    return ramp.challenger_arm_id or (challengers[0] if len(challengers) == 1 else "")


def _stage_of(given: experiments_pb2.RampStage) -> Stage:
    return Stage(
        given.cap,
        given.duration.ToMicroseconds(),
        tuple(_guardrail_of(guardrail) for guardrail in given.guardrails),
        given.min_decisions if given.HasField("min_decisions") else None,
    )


def _guardrail_of(given: experiments_pb2.Guardrail) -> Guardrail:
    return Guardrail(
        _METRICS[_metric(given)],
        limit=given.limit if given.HasField("limit") else None,
        ratio=given.ratio if given.HasField("ratio") else None,
        latency_over_us=given.latency_over.ToMicroseconds() if given.HasField("latency_over") else None,
        clip_usd=given.clip_usd if given.HasField("clip_usd") else None,
    )


def _metric(given: experiments_pb2.Guardrail) -> str:
    """The metric's name; an empty string for a number that has none."""
    metrics = experiments_pb2.Guardrail.Metric
    return metrics.Name(given.metric).removeprefix("METRIC_").lower() if given.metric in metrics.values() else ""


def _with_common(own: Sequence[Guardrail], common: Sequence[Guardrail]) -> tuple[Guardrail, ...]:
    named = {guardrail.metric for guardrail in own}
    return (*own, *(guardrail for guardrail in common if guardrail.metric not in named))


def ramp_problems(experiment: experiments_pb2.Experiment) -> Iterable[FieldProblem]:
    """Return each rule that the experiment's ramp breaks; none if it has no ramp."""
    if not experiment.HasField("ramp"):
        return
    yield from _challenger_problems(experiment)
    given = experiment.ramp
    rails = [*given.guardrails, *(rail for stage in given.stages for rail in stage.guardrails)]
    if all(_metric(rail) in _METRICS for rail in rails):  # others break a rule of the proto, which names them
        yield from _definition_problems(given)


def _challenger_problems(experiment: experiments_pb2.Experiment) -> Iterable[FieldProblem]:
    at: Steps = ("ramp", "challenger_arm_id")
    controls = [arm.arm_id for arm in experiment.arms if arm.role == types_pb2.ROLE_CONTROL]
    challengers = challengers_of(experiment)
    shadows = [arm.arm_id for arm in experiment.arms if arm.role == types_pb2.ROLE_SHADOW]
    if not controls:
        message = "there is no control to take the traffic that the challenger does not get yet"
        yield FieldProblem(("ramp",), message, "give one arm role: control")
    named = experiment.ramp.challenger_arm_id
    if named in controls:
        yield FieldProblem(at, f"{named!r} is the control, a ramp lets in a challenger")
    elif named in shadows:
        yield FieldProblem(at, f"{named!r} is a shadow arm, a ramp lets in a challenger", "give the arm role: challenger")
    elif named and named not in challengers:
        yield FieldProblem(at, "no arm has this id", did_you_mean(named, challengers))
    elif not challengers:
        yield FieldProblem(("ramp",), "there is no challenger to let in")
    elif not challenger_of(experiment.ramp, challengers):
        message = f"{len(challengers)} arms are challengers, it must say which one the ramp lets in"
        yield FieldProblem(at, message, f"for example {challengers[0]!r}")


def _definition_problems(given: experiments_pb2.RampRule) -> Iterable[FieldProblem]:
    own = _own_metrics(given)
    seen: set[tuple[Steps, str]] = set()
    for problem in validate(ramp_of(given)):
        # What is wrong with a common guardrail is found in every stage.
        found = (("ramp", *_proto_steps(problem.steps, given, own)), _message(problem))
        if found not in seen:
            seen.add(found)
            yield FieldProblem(*found)
    for i, rail in enumerate(given.guardrails):
        if all(_metric(rail) in metrics for metrics in own):
            message = f"it never holds, because every stage has a guardrail on {_metric(rail)} of its own"
            hint = "" if given.stages else "to change the default limits, write out the stages"
            yield FieldProblem(("ramp", "guardrails", i), message, hint)


def _own_metrics(given: experiments_pb2.RampRule) -> list[list[str]]:
    """For each stage, the metrics of the guardrails that are its own."""
    if given.stages:
        return [[_metric(rail) for rail in stage.guardrails] for stage in given.stages]
    return [[rail.metric.value for rail in stage.guardrails] for stage in default_stages()]


def _proto_steps(steps: Steps, given: experiments_pb2.RampRule, own: Sequence[Sequence[str]]) -> Steps:
    """Where the proto has what the parsed ramp has at these steps: there, common guardrails stand in each stage."""
    match steps:
        case ("stages", int(stage), "guardrails", int(position), *rest) if position >= len(own[stage]):
            common = [i for i, rail in enumerate(given.guardrails) if _metric(rail) not in own[stage]]
            steps = ("guardrails", common[position - len(own[stage])], *rest)
    last = steps[-1]
    return (*steps[:-1], last.removesuffix(_MICROSECONDS)) if isinstance(last, str) else steps


def _message(problem: Problem) -> str:
    """The problem's message, with a time in the unit that people write."""
    value, _, rule = problem.message.partition(" ")
    if str(problem.steps[-1]).endswith(_MICROSECONDS) and value.lstrip("-").isdecimal():
        return f"{int(value) / 1e6:g}s {rule}"
    return problem.message
