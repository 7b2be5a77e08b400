"""`plan`: which strategy answers a question, what it takes, and why, before anything runs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import click

from bandit.planning import Plan, Question, Risk
from bandit.planning import plan as plan_for
from bandit.situation import History
from router.cli.calls import ExperimentStub, connected, read
from router.cli.options import database_options, json_option, server_option
from router.cli.past import active_arms, check_range, database_given, history_in_metrics, log_of, metrics_of, range_options
from router.cli.plan_text import print_plan
from router.durations import HINT, parse_duration

_PER_DAY = {"s": 86_400, "second": 86_400, "min": 1_440, "minute": 1_440, "h": 24, "hour": 24, "d": 1, "day": 1}
_NUMBER = r"(?:[0-9][0-9,_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
#: The option of each field that a plan may find fault with.
_OPTIONS = {
    "baseline": "--baseline",
    "effect": "--effect",
    "traffic_per_day": "--traffic",
    "feedback_delay_us": "--feedback-delay",
    "arms": "--arms",
    "alpha": "--alpha",
    "power": "--power",
    "horizon_days": "--horizon",
    "judge_accuracy": "--judge-accuracy",
}


class _Traffic(click.ParamType[float]):
    """Decisions in some time; a value is in decisions a day."""

    name = "traffic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(rf"({_NUMBER})/([a-z]+)", str(value))
        if match is None or match[2] not in _PER_DAY:
            self.fail(f"{value!r} is not a number of decisions in a time: write it as 5000/day, 200/hour or 3/s", param, ctx)
        return float(re.sub("[,_]", "", match[1])) * _PER_DAY[match[2]]


class _Delay(click.ParamType[int]):
    """A duration; a value is in microseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return round(float(parse_duration(value).removesuffix("s")) * 1e6)
        except ValueError as error:
            self.fail(f"{value!r} {error}: {HINT}", param, ctx)


class _Effect(click.ParamType[tuple[float, bool]]):
    """A difference, and whether it is relative to the baseline."""

    name = "effect"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, bool]:
        match = re.fullmatch(rf"\+?({_NUMBER})(%?)", str(value).replace(" ", ""))
        if match is None:
            rule = "write a difference of mean rewards, as 0.02, or one relative to the baseline, as +3%"
            self.fail(f"{value!r} is not an effect: {rule}; it is above 0, whichever arm has it", param, ctx)
        number = float(re.sub("[,_]", "", match[1]))
        return (number / 100.0, True) if match[2] else (number, False)


@click.command()
@click.option("--effect", type=_Effect(), required=True, metavar="0.02|+3%", help="The smallest difference worth finding.")
@click.option("--baseline", type=float, help="Mean reward of the control, as 0.62.")
@click.option("--traffic", type=_Traffic(), metavar="N/TIME", help="Decisions, as 5000/day, 200/hour or 3/s.")
@click.option(
    "--feedback-delay", type=_Delay(), metavar="DURATION", help="From a decision until nearly every outcome is known, as 2h."
)
@click.option(
    "--risk",
    type=click.Choice([risk.value for risk in Risk]),
    default=Risk.MEDIUM.value,
    show_default=True,
    help="What users may bear of an arm that nobody has tried.",
)
@click.option("--arms", type=int, help="The control included.  [default: those of --experiment, or 2]")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Chance to see a difference that is not there.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Chance to find the effect.")
@click.option("--horizon", type=_Delay(), default="60d", show_default=True, help="The longest that anybody waits.")
@click.option(
    "--judge-accuracy", type=float, default=0.8, show_default=True, help="How often a judge names the better answer."
)
@click.option("--experiment", help="Take what is left open from the past of this experiment.")
@server_option
@database_options
@range_options
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it: .png, .svg or .pdf."
)
@json_option
def plan(
    effect: tuple[float, bool],
    baseline: float | None,
    traffic: float | None,
    feedback_delay: int | None,
    risk: str,
    arms: int | None,
    alpha: float,
    power: float,
    horizon: int,
    judge_accuracy: float,
    experiment: str | None,
    server: str,
    database_url: str | None,
    data_dir: Path,
    start: datetime | None,
    end: datetime | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Recommend offline evaluation, shadow, canary, A/B test, interleaving or bandit, with what each one takes.

    With --experiment, baseline, traffic and coverage come from the router's metrics. If you say where its database is, by
    --database-url or --data-dir, all figures do: the variance, the sessions and the reward lag too.
    """
    check_range(start, end)
    if picture is not None:
        _check_picture(picture)
    for option, time in (("--start", start), ("--end", end)):
        if time is not None and experiment is None:
            raise click.UsageError(f"{option}: is of the past of an --experiment, which is missing")
    history, known_arms = None, 2
    if experiment is not None:
        history, known_arms = _past(experiment, server, database_url, data_dir, start, end)
    size, relative = effect
    known = baseline if baseline is not None or history is None else history.baseline
    if relative and known is not None:
        size *= known
    question = Question(
        # Without a baseline to be relative to, the plan says that it is missing.
        effect=size,
        baseline=baseline,
        traffic_per_day=traffic,
        feedback_delay_us=feedback_delay,
        risk=Risk(risk),
        arms=known_arms if arms is None else arms,
        alpha=alpha,
        power=power,
        horizon_days=horizon / 86_400e6,
        judge_accuracy=judge_accuracy,
    )
    found = _planned(question, history, experiment)
    if picture is not None:
        from router.pictures import save, strategies

        save(strategies(found), picture)
    if as_json:
        click.echo(json.dumps(_document(found, history), indent=2))
        return
    print_plan(found)
    if picture is not None:
        click.echo(f"wrote {picture}")


def _past(
    experiment: str, server: str, database_url: str | None, data_dir: Path, start: datetime | None, end: datetime | None
) -> tuple[History, int]:
    """Return what the past of an experiment says, and how many arms it has."""
    if database_given():
        from router.storage.logged import active_arm_ids, read_history

        with log_of(database_url, data_dir, experiment) as (log, of):
            history, arms = read_history(log, of, start, end), len(active_arm_ids(log, of))
    else:
        with connected(server) as channel:
            definition = read(ExperimentStub(channel), experiment)
            history = history_in_metrics(definition, metrics_of(channel, experiment, start, end))
            arms = len(active_arms(definition))
    if history is None:
        raise click.UsageError(f"--experiment {experiment}: it has no decisions in this time: give its figures by options")
    return history, max(2, arms)


def _planned(question: Question, history: History | None, experiment: str | None) -> Plan:
    """Return the plan; UsageError names the option at fault instead of the field."""
    try:
        return plan_for(question, history)
    except ValueError as error:
        field, _, rule = str(error).partition(" ")
        option = _OPTIONS.get(field)
        if option is None:
            raise click.UsageError(f"--experiment {experiment}: {error}") from None
        if rule.startswith("is missing"):
            past = f"; the past of {experiment} does not tell it" if experiment else ", or an --experiment that has it"
            raise click.UsageError(f"{option} is missing: give it{past}") from None
        raise click.UsageError(f"{option}: {field} {rule}") from None


def _check_picture(path: Path) -> None:
    from router.pictures.style import format_of

    try:
        format_of(path)
    except ValueError as error:
        raise click.UsageError(f"--picture {error}") from None


def _document(found: Plan, history: History | None) -> dict[str, Any]:
    document = asdict(found, dict_factory=lambda pairs: {k: v.value if isinstance(v, Enum) else v for k, v in pairs})
    return {"advice": found.advice, **document, "history": None if history is None else asdict(history)}
