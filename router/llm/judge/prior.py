"""A prior for an arm from a judge's verdicts, as the entry of an experiment's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bandit.verdicts import verdict_prior
from router.v1 import judge_pb2 as pb
from router.v1 import posteriors_pb2, types_pb2


class UnusableVerdictsError(ValueError):
    """Verdicts from which no prior can be made; the message says why."""


@dataclass(frozen=True, slots=True)
class VerdictPrior:
    """A prior and what it rests on."""

    arm_id: str
    alpha: float
    beta: float
    run_id: str
    #: The share of pairs that the arm wins, ties as half.
    win_rate: float
    pairs: int
    other_arm_id: str
    #: The posterior mean of the other arm, and its outcomes.
    other_mean: float
    other_outcomes: int

    def as_dict(self) -> Mapping[str, Any]:
        """Return it for programs."""
        return {
            "priors": {self.arm_id: {"alpha": self.alpha, "beta": self.beta}},
            **{name: getattr(self, name) for name in ("run_id", "win_rate", "pairs", "other_arm_id", "other_mean")},
            "other_outcomes": self.other_outcomes,
        }

    def as_yaml(self) -> str:
        """Return the part of an experiment's file."""
        weight = self.alpha + self.beta
        return "\n".join(
            (
                f"# {self.run_id}: {self.arm_id} wins {self.win_rate:.1%} of {self.pairs:,} pairs, ties as half, against"
                f" {self.other_arm_id},",
                f"# whose mean reward is {self.other_mean:.4f} after {self.other_outcomes:,} outcomes. Worth {weight:g}"
                f" outcomes, mean {self.alpha / weight:.4f}.",
                "allocation:",
                "  priors:",
                # JSON strings are YAML strings, whatever an arm is called.
                f"    {json.dumps(self.arm_id)}: {{alpha: {self.alpha:.6g}, beta: {self.beta:.6g}}}",
            )
        )


def prior_of(
    report: pb.GetJudgeReportResponse, posterior: posteriors_pb2.GetPosteriorResponse, weight: float
) -> VerdictPrior:
    """Return the prior that verdicts and the other arm's posterior suggest. Raises UnusableVerdictsError."""
    run = report.run
    if report.conclusion == pb.GetJudgeReportResponse.CONCLUSION_UNUSABLE:
        raise UnusableVerdictsError(f"run {run.run_id} gives no prior. {report.summary}")
    other = next(
        (arm for arm in posterior.arms if arm.arm_id == run.other_arm_id and arm.state == types_pb2.ARM_STATE_ACTIVE), None
    )
    if other is None:
        raise UnusableVerdictsError(f"{run.other_arm_id} is not an active arm of {run.experiment_id}: it has no posterior")
    win_rate = report.arm_wins.estimate + report.ties.estimate / 2.0
    try:
        alpha, beta = verdict_prior(other.mean, win_rate, weight)
    except ValueError as error:
        raise UnusableVerdictsError(f"run {run.run_id} gives no prior: {error}") from error
    return VerdictPrior(
        run.arm_id, alpha, beta, run.run_id, win_rate, report.judged_pairs, run.other_arm_id, other.mean, other.n
    )
