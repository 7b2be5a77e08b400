"""What is believed of an experiment's arms now, and what was observed of them: for decisions to stop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from router.experiment import Definition
from router.storage.analysis import Read, Reading
from router.storage.export import now_of

# Beside the posterior, which holds the prior, the outcomes alone: also where old ones weigh less.
_ARMS = """
SELECT a.arm, p.alpha, p.beta, coalesce(s.successes, 0)::float8, p.n
FROM arms a
JOIN posterior_latest p ON p.experiment_id = %(experiment_id)s AND p.arm_id = a.arm_id AND p.arm_version = a.version
LEFT JOIN LATERAL (
    SELECT sum(success_micros) / 1e6 AS successes FROM evidence_all e
    WHERE e.incarnation = a.incarnation AND e.arm = a.arm
) s ON true
WHERE a.incarnation = %(incarnation)s AND a.active AND a.role <> 'shadow'
"""

_STARTED = """
SELECT min(transition_at) FROM transitions
WHERE incarnation = %(incarnation)s AND kind = 'state' AND to_value = 'running'
"""


@dataclass(frozen=True, slots=True)
class Present:
    """An experiment as it is now; sequences are aligned with the definition's active arms."""

    definition: Definition
    #: Posteriors.
    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    #: Sums of rewards and numbers of outcomes, imported ones included, priors not.
    successes: tuple[float, ...]
    n: tuple[int, ...]
    #: When it first ran; if that is not known, when it was created.
    started_at: datetime
    #: Postgres' time.
    now: datetime


def read_present(reading: Reading, of: Read) -> Present:
    """Return what is believed of all traffic now. Raises StorageError."""
    definition = reading.definition(of)
    parameters = {"incarnation": of.incarnation, "experiment_id": of.experiment_id}
    rows = {number: row for number, *row in reading.all(_ARMS, parameters)}
    ((started,),) = reading.all(_STARTED, parameters)
    found = [rows[arm.number] for arm in definition.active_arms]
    return Present(
        definition,
        tuple(float(alpha) for alpha, _, _, _ in found),
        tuple(float(beta) for _, beta, _, _ in found),
        tuple(float(successes) for _, _, successes, _ in found),
        tuple(int(n) for _, _, _, n in found),
        started or definition.created_at,
        now_of(reading),
    )
