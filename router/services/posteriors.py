"""PosteriorService: what the router believes about each arm."""

import numpy as np

from bandit.posterior import compare, credible_interval
from bandit.reward import Evidence
from router.errors import NotFoundError
from router.experiment import Arm, Definition
from router.policy import Policy, compile_policy
from router.services import Context
from router.storage import experiments
from router.storage.database import Database
from router.storage.policies import EvidenceReading, read_evidence
from router.v1 import posteriors_pb2 as pb
from router.v1 import posteriors_pb2_grpc, types_pb2


class PosteriorService(posteriors_pb2_grpc.PosteriorServiceServicer):
    """Implements `router.v1.PosteriorService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetPosterior(self, request: pb.GetPosteriorRequest, context: Context) -> pb.GetPosteriorResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            found = await experiments.read(connection, request.experiment_id)
            if found is None:
                raise NotFoundError.of_experiment(request.experiment_id)
            (reading,) = await read_evidence(connection, [found[0].incarnation])
        return posterior_message(found[0], reading)


def posterior_message(definition: Definition, reading: EvidenceReading) -> pb.GetPosteriorResponse:
    """Return the posterior of every arm, and what follows from it for the active ones."""
    policy = compile_policy(definition, reading.policy_version, reading.evidence)
    comparison = compare(policy.alpha, policy.beta)
    message = pb.GetPosteriorResponse(
        experiment_id=definition.experiment_id,
        policy_version=reading.policy_version,
        arms=[
            _arm_message(definition, policy, arm, reading.evidence.get(arm.number, Evidence())) for arm in definition.arms
        ],
    )
    message.as_of.FromDatetime(reading.as_of)
    for i in range(len(policy.arms)):
        message.arms[i].probability_best = float(comparison.probability_best[i])
        message.arms[i].expected_loss = float(comparison.expected_loss[i])
    return message


def _arm_message(definition: Definition, policy: Policy, arm: Arm, evidence: Evidence) -> pb.ArmPosterior:
    alpha, beta = evidence.posterior(*definition.rules.prior)
    lower, upper = credible_interval(np.array([alpha]), np.array([beta]))
    position = policy.position_of_number.get(arm.number)
    share = 0.0 if position is None or policy.everyone is None else float(policy.everyone.probabilities[position])
    return pb.ArmPosterior(
        arm_id=arm.arm_id,
        alpha=alpha,
        beta=beta,
        n=evidence.n,
        mean=alpha / (alpha + beta),
        lower=float(lower[0]),
        upper=float(upper[0]),
        allocation=share,
        version=arm.version,
        state=types_pb2.ARM_STATE_ACTIVE if arm.active else types_pb2.ARM_STATE_RETIRED,
    )
