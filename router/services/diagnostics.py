"""Diagnostics: what to look at before an arm's posterior is trusted, as GetPosterior answers it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from bandit.discount import bucket_start
from bandit.drift import Drift, drift
from router.experiment import Arm, Definition
from router.services.metrics import rate_message
from router.storage.diagnostics import ArmFeedback, ArmHistory
from router.v1 import posteriors_pb2 as pb

#: The probability that any arm of an experiment ever gives a false alarm.
ALARM_LEVEL: Final = 0.01
_NOTHING: Final = ArmFeedback(0, 0, 0, 0)


def alarm_level(arm: Arm) -> float:
    """Return what an arm may use up of the level: it adds up to the whole however many arms and versions there will be."""
    return ALARM_LEVEL / ((arm.number + 1) * (arm.number + 2))


def diagnostics_of(
    definition: Definition,
    arm: Arm,
    feedback: Mapping[int, ArmFeedback],
    histories: Mapping[int, ArmHistory],
    now_us: int,
) -> pb.ArmDiagnostics:
    """Return the diagnostics of one version of an arm."""
    of = feedback.get(arm.number, _NOTHING)
    mature_after_us = definition.reward_rules[definition.reward_rule_version].mature_after // timedelta(microseconds=1)
    return pb.ArmDiagnostics(
        decisions=of.decisions,
        pending_decisions=of.pending,
        silent_decisions=of.closed - of.covered,
        coverage=rate_message(of.covered, of.closed) if of.closed else None,
        drift=_drift_message(_drift(histories[arm.number], alarm_level(arm), mature_after_us, now_us)),
    )


def _drift(history: ArmHistory, level: float, mature_after_us: int, now_us: int) -> Drift:
    created_us = bucket_start(int(history.created_at.timestamp() * 1e6))
    # Imported outcomes have no hour either: whenever they were learned, they come before what was seen here.
    return drift(history.buckets, now_us, level, mature_after_us, base=(created_us, history.base))


def _drift_message(found: Drift) -> pb.Drift:
    message = pb.Drift(
        alarm=found.alarm,
        log_e=found.log_e,
        before=found.before,
        after=found.after,
        outcomes_before=found.n_before,
        outcomes_after=found.n_after,
    )
    if found.since_us is not None:
        message.since.FromMicroseconds(found.since_us)
    return message
