"""`judge run`: draw a sample and work it off, or go on with a run that was cut off."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
import grpc

from router.cli.calls import connected, connected_aio
from router.cli.judge_report import FILE, LONG_S, html_option, read_report, show
from router.cli.options import json_option, server_option

if TYPE_CHECKING:
    from rich.progress import Progress

    from router.llm.judge.work import Work
    from router.llm.models import Model, Price
    from router.v1 import judge_pb2 as pb

_METHODS: Final = {"both-orders": "METHOD_BOTH_ORDERS", "random-order": "METHOD_RANDOM_ORDER"}
#: Exit status where the cost cap ended the run, and after SIGINT, as shells have it.
_CAP_REACHED, _INTERRUPTED = 3, 130
#: Verdicts were paid for: a router that restarts is waited for. Every call may be repeated.
_RETRY: Final = {
    "methodConfig": [
        {
            "name": [{"service": "router.v1.JudgeService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.5s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_CHANNEL: Final = (
    ("grpc.service_config", json.dumps(_RETRY)),
    ("grpc.max_receive_message_length", -1),
)


@click.command()
@click.option("--experiment", "experiment_id", metavar="E", help="The experiment. May be left out to go on with --run.")
@click.option("--judge", "judge_name", metavar="PROVIDER:MODEL", help="The judge: openai:MODEL or anthropic:MODEL.")
@click.option("--sample", type=click.IntRange(1, 100_000), default=500, show_default=True, help="Pairs to draw.")
@click.option("--arm", "arm_id", default="", metavar="A", help="The arm in question.  [default: the one with comparisons]")
@click.option("--against", default="", metavar="B", help="The serving arm.  [default: the control]")
@click.option("--run", "run_id", metavar="ID", help="The run.  [default: made of its settings]")
@click.option("--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True, help="Draws the sample.")
@click.option("--method", type=click.Choice(list(_METHODS)), default="both-orders", show_default=True, help="Of positions.")
@click.option(
    "--repeat", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of pairs that is judged once more."
)
@click.option("--rubric", type=FILE, metavar="FILE", help="What to look at.  [default: helpfulness and correctness]")
@click.option("--judge-family", metavar="F", help="The family of the judge's model.  [default: its provider]")
@click.option("--allow-same-family", is_flag=True, help="Judge arms of the judge's own family, or of none.")
@click.option("--max-cost-usd", type=click.FloatRange(0, min_open=True), help="Stop before the run costs more.")
@click.option("--price-input", type=click.FloatRange(0), help="US dollars for a million tokens that the judge reads.")
@click.option("--price-output", type=click.FloatRange(0), help="US dollars for a million tokens that it writes.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=2048, show_default=True, help="The longest reply of the judge."
)
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True, help="Calls at a time.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True, help="Seconds a call.")
@click.option("--base-url", metavar="URL", help="Where the judge's provider is: a gateway, or a server of yours.")
@html_option
@server_option
@json_option
@click.pass_context
def run(ctx: click.Context, /, **given: Any) -> None:
    """Judge a random sample of shadow comparisons, or go on with a run that was cut off.

    Verdicts are recorded as they come: the same command, or --run ID alone, goes on where they end, and no judgment is made
    twice. Ends with status 0, with 3 if the cost cap came first, with 130 after an interruption, and with 1 after an error.
    """
    from router.llm.providers import UnknownModel, model_of

    price = _price(given)
    wanted = _wanted(ctx, given)
    with connected(given["server"]) as channel:
        name = wanted.judge if given["experiment_id"] else read_report(channel, given["run_id"]).run.judge
        try:
            model = model_of(name, given["base_url"], timeout_s=given["timeout"])
        except UnknownModel as error:
            from router.cli.main import fail

            fail(str(error))
        stored = _create(channel, wanted) if given["experiment_id"] else read_report(channel, given["run_id"]).run
        work = _work(given, stored, model, price)
        _explain_end(given, work, read_report(channel, stored.run_id))


def _price(given: dict[str, Any]) -> Price | None:
    from router.llm.models import Price

    prices = (given["price_input"], given["price_output"])
    if prices.count(None) == 1:
        raise click.UsageError("--price-input and --price-output come together")
    if None in prices:
        if given["max_cost_usd"] is not None:
            raise click.UsageError("--max-cost-usd needs --price-input and --price-output: prices are not known otherwise")
        return None
    return Price(*prices)


#: Options that are settings of a run: with --run alone they are the stored ones.
_SETTINGS: Final = ("judge_name", "sample", "arm_id", "against", "seed", "method", "repeat", "rubric", "judge_family")


def _wanted(ctx: click.Context, given: dict[str, Any]) -> pb.JudgeRun:
    """Return the run that was asked for; only its id where it is to be gone on with."""
    from router.llm.judge.questions import default_rubric
    from router.llm.judge.settings import run_id_of
    from router.v1 import judge_pb2 as pb

    if not given["experiment_id"]:
        if not given["run_id"]:
            raise click.UsageError("give --experiment and --judge for a new run, or --run to go on with one")
        for name in (*_SETTINGS, "allow_same_family"):
            if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                option = next(p.opts[0] for p in ctx.command.params if p.name == name)
                raise click.UsageError(f"{option}: a run that is gone on with keeps its settings; give --experiment, too")
        return pb.JudgeRun(run_id=given["run_id"])
    if not given["judge_name"]:
        raise click.UsageError("--judge is needed, as in --judge openai:MODEL")
    wanted = pb.JudgeRun(
        experiment_id=given["experiment_id"],
        arm_id=given["arm_id"],
        other_arm_id=given["against"],
        judge=given["judge_name"],
        judge_family=given["judge_family"] or given["judge_name"].partition(":")[0],
        allow_same_family=given["allow_same_family"],
        rubric=given["rubric"].read_text(encoding="utf-8").strip() if given["rubric"] else default_rubric(),
        sample=given["sample"],
        seed=given["seed"],
        method=_METHODS[given["method"]],
        repeat_share=given["repeat"],
    )
    wanted.run_id = given["run_id"] or run_id_of(wanted)
    return wanted


def _create(channel: grpc.Channel, wanted: pb.JudgeRun) -> pb.JudgeRun:
    from router.v1 import judge_pb2 as pb
    from router.v1 import judge_pb2_grpc

    service = judge_pb2_grpc.JudgeServiceStub(channel)
    stored: pb.JudgeRun = service.CreateJudgeRun(pb.CreateJudgeRunRequest(run=wanted), timeout=LONG_S).run
    return stored


def _work(given: dict[str, Any], stored: pb.JudgeRun, model: Model, price: Price | None) -> Work:
    """Work the run off; a second interruption ends the program at once."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if not given["as_json"]:
        click.echo(f"run {stored.run_id}: {stored.judged:,} of {stored.judgments:,} judgments are made", err=True)
    with Progress(*columns, console=Console(stderr=True), disable=given["as_json"]) as bar:
        try:
            return asyncio.run(_perform(given, stored, model, price, bar))
        except asyncio.CancelledError:
            bar.stop()
            click.echo("ended at once: calls under way are lost", err=True)
            _interrupted(given, stored.run_id, "ended")


async def _perform(given: dict[str, Any], stored: pb.JudgeRun, model: Model, price: Price | None, bar: Progress) -> Work:
    import random

    from router.llm.budget import Budget
    from router.llm.judge.asking import Judge
    from router.llm.judge.work import Work
    from router.v1 import judge_pb2_grpc

    stopping, own = asyncio.Event(), asyncio.current_task()

    def interrupt() -> None:
        if stopping.is_set() and own is not None:
            own.cancel()
        elif not stopping.is_set():
            click.echo("stopping: calls under way end first; interrupt again to end at once", err=True)
            stopping.set()

    async def rest(seconds: float) -> bool:
        if seconds:
            try:
                await asyncio.wait_for(stopping.wait(), seconds)
            except TimeoutError:
                return True
        return not stopping.is_set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    task = bar.add_task("judging", total=stored.judgments, completed=stored.judged)
    async with connected_aio(given["server"], _CHANNEL) as channel:
        budget = Budget(given["max_cost_usd"], stored.cost_usd)
        rng = random.Random()  # noqa: S311 - pauses are no secret
        judge = Judge(model, stored.rubric, given["max_tokens"], budget, price, rest, rng)
        service: Any = judge_pb2_grpc.JudgeServiceStub(channel)
        work = Work(stored.run_id, service, judge, given["concurrency"], stopping, judged_before=stored.judged)
        work.on_verdict = lambda verdict: bar.advance(task)
        try:
            await work.perform()
        finally:
            await model.close()
    return work


def _explain_end(given: dict[str, Any], work: Work, message: pb.GetJudgeReportResponse) -> None:
    """Show the report, or say why there is none; ends the program unless the run is done."""
    from router.cli.main import fail
    from router.llm.judge.work import End

    left = message.run.judgments - message.run.judged
    go_on = f"go on with `bandit-router judge run --run {work.run_id}`"
    if work.end is End.FAILED:
        fail(f"the judge cannot be asked: {work.error}; {left:,} judgments are left: {go_on}")
    if work.end is End.STOPPED:
        _interrupted(given, work.run_id, f"interrupted: {left:,} judgments are left")
    show(message, given["html"], given["as_json"])
    if work.end is End.CAP:
        click.echo(
            f"the cost cap of ${given['max_cost_usd']:g} ended the run at ${message.run.cost_usd:.4f}, before a call that"
            f" could pass it: {left:,} judgments are left; {go_on} and a larger --max-cost-usd",
            err=True,
        )
        sys.exit(_CAP_REACHED)
    if left:
        why = "their texts are gone, or another command is at work on them"
        click.echo(f"{left:,} judgments are left: {why}", err=True)


def _interrupted(given: dict[str, Any], run_id: str, what: str) -> NoReturn:
    if given["as_json"]:
        click.echo(json.dumps({"error": what, "run_id": run_id}))
    click.echo(f"{what}; go on with `bandit-router judge run --run {run_id}`", err=True)
    sys.exit(_INTERRUPTED)
