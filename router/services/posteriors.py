"""PosteriorService: what the router believes about each arm."""

import asyncio
from collections.abc import Callable

import numpy as np

from bandit.posterior import compare, credible_interval
from bandit.reward import Evidence
from router.errors import NotFoundError
from router.experiment import Definition
from router.policy import compile_policy
from router.services import Context
from router.services.metrics import metrics_of, rule_rewards, span_of, warnings_of, with_held_out
from router.storage import experiments
from router.storage.database import Database
from router.storage.metrics import read_counts, read_held_out, read_recorded
from router.storage.policies import EvidenceReading, read_evidence
from router.v1 import posteriors_pb2 as pb
from router.v1 import posteriors_pb2_grpc, types_pb2


class PosteriorService(posteriors_pb2_grpc.PosteriorServiceServicer):
    """Implements `router.v1.PosteriorService`."""

    def __init__(self, database: Database, clock_us: Callable[[], int]) -> None:
        """`clock_us` gives microseconds since the epoch."""
        self._database = database
        self._clock_us = clock_us

    async def GetPosterior(self, request: pb.GetPosteriorRequest, context: Context) -> pb.GetPosteriorResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            found = await experiments.read(connection, request.experiment_id)
            if found is None:
                raise NotFoundError.of_experiment(request.experiment_id)
            (reading,) = await read_evidence(connection, [found[0].incarnation])
        # Off the event loop: for many arms this takes longer than a Route call may wait.
        return await asyncio.to_thread(posterior_message, found[0], reading)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Context) -> pb.GetMetricsResponse:
        """See the proto."""
        async with self._database.snapshot() as connection:
            found = await experiments.read(connection, request.experiment_id)
            if found is None:
                raise NotFoundError.of_experiment(request.experiment_id)
            definition = found[0]
            recorded = await read_recorded(connection, definition.incarnation)
            now_us = self._clock_us()
            span = span_of(request, recorded, now_us)
            counts = [] if span is None else await read_counts(connection, definition.incarnation, span)
            held_out = []
            if span is not None and any(row.holdout for row in counts):
                rules = rule_rewards(definition)
                held_out = await read_held_out(connection, definition.incarnation, span, rules, now_us)
        counts = with_held_out(counts, held_out)
        reply = pb.GetMetricsResponse(
            experiment_id=definition.experiment_id,
            metrics=metrics_of(definition, span, counts) if span is not None else [],
            warnings=warnings_of(definition, counts, held_out),
        )
        reply.as_of.FromDatetime(recorded.as_of)
        return reply


def posterior_message(definition: Definition, reading: EvidenceReading) -> pb.GetPosteriorResponse:
    """Return the posterior of every arm, and what follows from it for the active ones."""
    policy = compile_policy(definition, reading.policy_version, reading.evidence)
    comparison = compare(policy.alpha, policy.beta)
    evidence = [reading.evidence.get(arm.number, Evidence()) for arm in definition.arms]
    posteriors = np.array([counts.posterior(*definition.rules.prior) for counts in evidence])
    lower, upper = credible_interval(posteriors[:, 0], posteriors[:, 1])
    message = pb.GetPosteriorResponse(experiment_id=definition.experiment_id, policy_version=reading.policy_version)
    message.as_of.FromDatetime(reading.as_of)
    for i, arm in enumerate(definition.arms):
        alpha, beta = float(posteriors[i, 0]), float(posteriors[i, 1])
        entry = message.arms.add(
            arm_id=arm.arm_id,
            alpha=alpha,
            beta=beta,
            n=evidence[i].n,
            mean=alpha / (alpha + beta),
            lower=float(lower[i]),
            upper=float(upper[i]),
            version=arm.version,
            state=types_pb2.ARM_STATE_ACTIVE if arm.active else types_pb2.ARM_STATE_RETIRED,
        )
        position = policy.position_of_number.get(arm.number)
        if position is not None:
            entry.probability_best = float(comparison.probability_best[position])
            entry.expected_loss = float(comparison.expected_loss[position])
            entry.allocation = 0.0 if policy.everyone is None else float(policy.everyone.probabilities[position])
    return message
