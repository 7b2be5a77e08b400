"""What each call requires: the one table of roles, by method.

A method that is not in it cannot be served: registering its service fails at the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a key is for. Admin includes read. Nothing includes route or reward: who feeds the learner is named."""

    ROUTE = "route"
    REWARD = "reward"
    READ = "read"
    ADMIN = "admin"


#: The experiment is not a field of the request: the handler checks the scope once it has found it.
IN_HANDLER = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method requires."""

    #: None: any valid key.
    role: Role | None
    #: Path of the experiment id in the request, or IN_HANDLER.
    experiment: str
    #: Whether the audit log has every call.
    audited: bool = False
    #: Whether it is a batch, which counts as its `requests`.
    batch: bool = False


def _rules(service: str, **methods: Rule) -> dict[str, Rule]:
    return {f"/{service}/{name}": rule for name, rule in methods.items()}


_ROUTE = Rule(Role.ROUTE, "experiment_id")
_READ = Rule(Role.READ, "experiment_id")
_ADMIN = Rule(Role.ADMIN, "experiment_id", audited=True)
_DEFINE = Rule(Role.ADMIN, "experiment.experiment_id", audited=True)

#: By full method name.
METHODS: Mapping[str, Rule] = {
    **_rules(
        "router.v1.RouterService",
        Route=_ROUTE,
        BatchRoute=Rule(Role.ROUTE, IN_HANDLER, batch=True),
        Reward=Rule(Role.REWARD, IN_HANDLER),
        BatchReward=Rule(Role.REWARD, IN_HANDLER, batch=True),
    ),
    **_rules(
        "router.v1.ExperimentService",
        CreateExperiment=_DEFINE,
        GetExperiment=_READ,
        ListExperiments=Rule(Role.READ, IN_HANDLER),
        UpdateExperiment=_DEFINE,
        ShadowExperiment=_ADMIN,
        StartExperiment=_ADMIN,
        PauseExperiment=_ADMIN,
        ResumeExperiment=_ADMIN,
        ConcludeExperiment=_ADMIN,
        ApproveRamp=_ADMIN,
        AdvanceRamp=_ADMIN,
        PromoteRamp=_ADMIN,
        RollBackRamp=_ADMIN,
        AbortRamp=_ADMIN,
        ListTransitions=_READ,
    ),
    **_rules(
        "router.v1.PosteriorService",
        GetPosterior=_READ,
        ListSnapshots=_READ,
        WatchPosterior=_READ,
        GetMetrics=_READ,
    ),
    **_rules(
        "router.v1.InterleaveService",
        Interleave=_ROUTE,
        Credit=Rule(Role.REWARD, IN_HANDLER),
        GetPreferences=_READ,
        CompareTurns=_READ,
    ),
    **_rules(
        "router.v1.ShadowService",
        RecordShadow=Rule(Role.REWARD, IN_HANDLER),
        ListComparisons=_READ,
    ),
    **_rules(
        "router.v1.JudgeService",
        CreateJudgeRun=Rule(Role.ADMIN, "run.experiment_id", audited=True),
        ListJudgeRuns=_READ,
        ListPendingJudgments=Rule(Role.READ, IN_HANDLER),
        # Thousands in a run, each kept with its time: of these the log has the refused ones alone.
        RecordVerdict=Rule(Role.ADMIN, IN_HANDLER),
        GetJudgeReport=Rule(Role.READ, IN_HANDLER),
    ),
    **_rules("grpc.reflection.v1alpha.ServerReflection", ServerReflectionInfo=Rule(None, IN_HANDLER)),
}

#: Services that answer without a key: whoever balances load asks for health.
OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})


def experiment_of(request: Any, path: str) -> str:
    """Return the experiment id that a request names; empty if it has none there."""
    for name in path.split(".") if path else ():
        request = getattr(request, name, "")
    return request if isinstance(request, str) else ""
