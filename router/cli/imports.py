"""`import`: what was learned elsewhere, as the prior of an experiment or as evidence of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from router.cli.calls import TIMEOUT_S, connected, read
from router.cli.main import fail
from router.cli.options import audit_options, database_at, database_options, json_option, server_option
from router.experiment_rules import LEARNING, allocation_kind
from router.storage.connecting import SyncConnection, connect
from router.storage.imports import Import, ImportRefusedError, Target, add, read_target
from router.v1 import experiments_pb2 as pb
from router.v1 import experiments_pb2_grpc
from router.v1 import types_pb2 as types

if TYPE_CHECKING:
    from router.analysis.history import History

_DEFAULT_WEIGHT = 20.0
#: Parameters that only one way of importing looks at.
_OF_WAY = {"prior": ("weight", "server"), "evidence": ("import_id", "database_url", "data_dir")}


@click.group("import")
def import_() -> None:
    """Bring what was learned elsewhere."""


@import_.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--experiment", required=True, help="The experiment.")
@click.option(
    "--as",
    "how",
    required=True,
    type=click.Choice(["prior", "evidence"]),
    help="prior: as imagined outcomes, as many as --weight says. evidence: each row counts as an outcome.",
)
@click.option(
    "--weight",
    type=click.FloatRange(min=0, min_open=True, max=1e9),
    default=_DEFAULT_WEIGHT,
    show_default=True,
    help="With --as prior: the imagined outcomes of an arm; never more than the file has of it.",
)
@click.option("--import-id", metavar="ID", help="With --as evidence: its name.  [default: from the content of the file]")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would change; change nothing.")
@server_option
@database_options
@audit_options()
@json_option
def events(
    file: Path,
    experiment: str,
    how: Literal["prior", "evidence"],
    weight: float,
    import_id: str | None,
    dry_run: bool,
    server: str,
    database_url: str | None,
    data_dir: Path,
    actor: str,
    reason: str,
    as_json: bool,
) -> None:
    """Import outcomes from FILE, a .parquet, .csv or .jsonl with the columns arm, reward and time.

    `time` is when the decision was made, with its time zone. `unit` and `segment` may be there. As a prior they go to a
    router (--server); as evidence to its database (--database-url or --data-dir), once, however often the file is imported.
    """
    _refuse_other_options(how)
    history = _read(file)
    if how == "prior":
        result = _as_prior(history, experiment, weight, server, actor, reason or f"import of {file.name}", dry_run)
    else:
        with database_at(database_url, data_dir) as url, connect(url) as connection:
            target = read_target(connection, experiment)
            if target is None:
                raise click.UsageError(f"--experiment {experiment}: no such experiment in {url.shown}")
            _check_arms(history, list(target.arms), target.shadow_arms)
            result = _as_evidence(connection, history, target, import_id, actor, reason or f"import of {file.name}", dry_run)
    result = {
        "experiment_id": experiment,
        "as": how,
        "dry_run": dry_run,
        "rows": history.rows,
        "units": history.units,
        "first_at": history.first_at.isoformat(),
        "last_at": history.last_at.isoformat(),
        **result,
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _show(result)


def _refuse_other_options(how: str) -> None:
    """Refuse what was asked for and would not be done. What the environment says may be meant for other commands."""
    given = click.get_current_context().get_parameter_source
    for other, names in _OF_WAY.items():
        for name in names:
            if other != how and given(name) is ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise click.UsageError(f"--{option}: is for --as {other}: --as {how} has no use for it")


def _read(file: Path) -> "History":
    try:
        from router.analysis import AnalysisError
        from router.analysis.history import read_history
    except ModuleNotFoundError as error:
        raise click.UsageError(str(error)) from None
    try:
        return read_history(file)
    except AnalysisError as error:
        fail(str(error))


def _check_arms(history: "History", arm_ids: Sequence[str], shadow_arms: frozenset[str]) -> None:
    mirrored = [arm_id for arm_id in history.arm_ids if arm_id in shadow_arms]
    if mirrored:
        fail(f"shadow arms are not learned about: {', '.join(map(repr, mirrored))}")
    unknown = [arm_id for arm_id in history.arm_ids if arm_id not in arm_ids]
    if unknown:
        fail(f"the experiment has no arm {', '.join(map(repr, unknown))}: it has {', '.join(map(repr, arm_ids))}")


def _as_prior(
    history: "History", experiment_id: str, weight: float, server: str, actor: str, reason: str, dry_run: bool
) -> dict[str, Any]:
    """Set the prior of each arm in the file: that of the experiment, plus the file's mean with a weight."""
    with connected(server) as channel:
        stub = experiments_pb2_grpc.ExperimentServiceStub(channel)
        found = read(stub, experiment_id)
        active = [arm for arm in found.arms if arm.state != types.ARM_STATE_RETIRED]
        shadow = frozenset(arm.arm_id for arm in active if arm.role == types.ROLE_SHADOW)
        _check_arms(history, [arm.arm_id for arm in active if arm.arm_id not in shadow], shadow)
        if allocation_kind(found) not in LEARNING:
            fail("only an allocation that learns looks at priors: import as evidence, or change its kind")
        common = found.allocation.prior if found.allocation.HasField("prior") else pb.BetaPrior(alpha=1, beta=1)
        arms = []
        for arm_id in history.arm_ids:
            outcomes = history.of_arm(arm_id)
            mean = outcomes.success_micros / 1e6 / outcomes.n
            given = min(weight, float(outcomes.n))
            before = found.allocation.priors.get(arm_id, common)
            arms.append({"arm_id": arm_id, "outcomes": outcomes.n, "mean": mean, "weight": given, "before": _beta(before)})
            prior = pb.BetaPrior(alpha=common.alpha + given * mean, beta=common.beta + given * (1 - mean))
            arms[-1]["after"] = _beta(prior)
            found.allocation.priors[arm_id].CopyFrom(prior)
        if not dry_run:
            request = pb.UpdateExperimentRequest(experiment=found, actor=actor, reason=reason)
            found = stub.UpdateExperiment(request, timeout=TIMEOUT_S).experiment
    return {"weight": weight, "arms": arms, "policy_version": found.policy_version}


def _beta(prior: pb.BetaPrior) -> dict[str, float]:
    return {"alpha": prior.alpha, "beta": prior.beta}


def _as_evidence(
    connection: SyncConnection,
    history: "History",
    target: Target,
    import_id: str | None,
    actor: str,
    reason: str,
    dry_run: bool,
) -> dict[str, Any]:
    if target.state == "concluded":
        fail("the experiment is concluded: it learns nothing more")
    if target.discounted:
        fail("its evidence is discounted by the hour, and imports have none: import as a prior, or without the discount")
    given = Import(
        import_id=import_id or f"sha256:{history.content_hash.hex()[:16]}",
        content_hash=history.content_hash,
        first_at=history.first_at,
        last_at=history.last_at,
        evidence={(target.arms[arm_id], segment): found for (arm_id, segment), found in history.evidence.items()},
        actor=actor,
        reason=reason,
    )
    try:
        done = add(connection, target.incarnation, given, dry_run=dry_run)
    except ImportRefusedError as error:
        fail(str(error))
    arms = []
    for arm_id in history.arm_ids:
        found = history.of_arm(arm_id)
        arms.append({"arm_id": arm_id, "outcomes": found.n, "mean": found.success_micros / 1e6 / found.n})
    return {
        "import_id": given.import_id,
        "new": done.new,
        "imported_at": None if done.new and dry_run else done.imported_at.isoformat(),
        "arms": arms,
    }


def _show(result: dict[str, Any]) -> None:
    units = "" if result["units"] is None else f" of {result['units']:,} units"
    click.echo(f"{result['rows']:,} outcomes{units}, from {result['first_at']} to {result['last_at']}")
    prior = result["as"] == "prior"
    table = Table("arm", "outcomes", "mean", *(("weight", "prior before", "prior after") if prior else ()))
    for arm in result["arms"]:
        betas = [f"Beta({beta['alpha']:g}, {beta['beta']:g})" for beta in (arm["before"], arm["after"])] if prior else []
        weight = [f"{arm['weight']:g}"] if prior else []
        table.add_row(arm["arm_id"], f"{arm['outcomes']:,}", f"{arm['mean']:.4f}", *weight, *betas)
    Console().print(table)
    if prior:
        done = "would be set" if result["dry_run"] else f"are set, at policy version {result['policy_version']}"
        click.echo(f"the priors {done}: each is the experiment's own, plus the mean with that weight")
    elif not result["new"]:
        click.echo(f"imported already, at {result['imported_at']}, as {result['import_id']}: nothing has changed")
    elif result["dry_run"]:
        click.echo(f"would be added to the evidence as {result['import_id']}")
    else:
        click.echo(f"added to the evidence as {result['import_id']}; replay takes it as given, as it does dropped days")
