"""The books: what clients were answered against what Postgres holds.

After a fault they balance if every answered decision and every acknowledged event is present exactly once, nothing is
present that was never sent, every event has the receipt time of its arrival, evidence is what the log of events says to the
last digit, and counts lie between what was acknowledged and what was sent.
"""

import time
from binascii import a2b_base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg

from benchmarks.soak.ledger import Ledger
from router.client import Status
from router.storage.replay import replay
from router.tokens import parse_token
from router.v1 import posteriors_pb2, posteriors_pb2_grpc

#: Clocks of clients and workers are the same, but not read at the same moment.
_CLOCK_S = 0.005


@dataclass(frozen=True, slots=True)
class Balance:
    """What a comparison found. All but the last four are errors if they are not 0."""

    decisions_missing: int
    decisions_repeated: int
    decisions_of_another_arm: int
    events_missing: int
    events_repeated: int
    events_never_sent: int
    receipts_off: int
    evidence_rows_off: int
    posteriors_off: int
    #: How far the number of outcomes is from what is possible.
    outcomes_off: int
    decisions: int
    events: int
    #: Acknowledged by the router; the others' clients do not know.
    acknowledged: int
    outcomes: int

    @property
    def errors(self) -> dict[str, int]:
        """What is wrong."""
        names = self.__slots__[:10]
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def wrong(self) -> int:
        """How many things are wrong; 0 if the books balance."""
        return sum(self.errors.values())


def key_of(decision_id: str) -> str:
    """Return the decision key in a decision id, as Postgres writes it without dashes."""
    raw = a2b_base64(decision_id.replace("-", "+").replace("_", "/") + "=" * (-len(decision_id) % 4))
    return parse_token(raw).decision_key.hex()


def settled(url: str, ledger: Ledger, experiment_ids: Sequence[str], target: str = "", timeout_s: float = 30.0) -> Balance:
    """Compare, again until the books balance, which takes until the spool is drained; returns the last comparison."""
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            balance = compare(url, ledger, experiment_ids, target)
        except (psycopg.OperationalError, grpc.RpcError):
            if time.monotonic() > give_up:
                raise
        else:
            if not balance.wrong or time.monotonic() > give_up:
                return balance
        time.sleep(0.1)  # Postgres has nothing to wait on that tells when the spool is drained


def compare(url: str, ledger: Ledger, experiment_ids: Sequence[str], target: str = "") -> Balance:
    """Compare once; with a `target` the posteriors that the router tells are compared too. Nothing may be under way."""
    key = {decision_id: key_of(decision_id) for decision_id in ledger.decisions}
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT incarnation, experiment_id FROM experiments WHERE experiment_id = ANY(%s)", (list(experiment_ids),)
        ).fetchall()
        incarnations: dict[str, int] = {experiment_id: incarnation for incarnation, experiment_id in rows}
        numbers = list(incarnations.values())
        decisions = _decisions(connection, numbers)
        events = _events(connection, numbers)
        reports = [replay(connection, incarnation) for incarnation in numbers]
    answered = Counter(key[decision_id] for decision_id in ledger.decisions)
    sent = {(key[decision_id], event_id): told for (decision_id, event_id), told in ledger.events.items()}
    acknowledged = {at: told for at, told in sent.items() if told.acknowledged}
    outcomes = sum(report.outcomes for report in reports)
    # An event that was spooled may have been late, and one that was a duplicate may be of one that failed.
    least = {at[0] for at, told in acknowledged.items() if told.counts and Status.APPLIED in told.statuses}
    most = {at[0] for at, told in sent.items() if told.counts}
    return Balance(
        decisions_missing=sum(found not in decisions for found in answered),
        decisions_repeated=sum(len(rows) > 1 for rows in decisions.values()),
        decisions_of_another_arm=sum(
            key[decision_id] in decisions and decisions[key[decision_id]][0] != arm_id
            for decision_id, (_, arm_id) in ledger.decisions.items()
        ),
        events_missing=sum(at not in events for at in acknowledged),
        events_repeated=sum(len(rows) > 1 for rows in events.values()),
        events_never_sent=sum(at not in sent for at in events),
        receipts_off=sum(
            at in events and not told.first_sent_at - _CLOCK_S <= events[at][0] <= told.last_answered_at + _CLOCK_S
            for at, told in acknowledged.items()
        ),
        evidence_rows_off=sum(len(report.disagreements) for report in reports),
        posteriors_off=_posteriors_off(url, target, incarnations) if target else 0,
        outcomes_off=max(0, len(least) - outcomes, outcomes - len(most)),
        decisions=len(answered),
        events=len(sent),
        acknowledged=len(acknowledged),
        outcomes=outcomes,
    )


def _decisions(connection: psycopg.Connection[Any], incarnations: list[int]) -> dict[str, list[str]]:
    """Return the arm of every row of every decision."""
    found: dict[str, list[str]] = {}
    for key, arm_id in connection.execute(
        "SELECT d.decision_key, a.arm_id FROM decisions d JOIN arms a USING (incarnation, arm) WHERE incarnation = ANY(%s)",
        (incarnations,),
    ):
        found.setdefault(key.hex, []).append(arm_id)
    return found


def _events(connection: psycopg.Connection[Any], incarnations: list[int]) -> dict[tuple[str, str], list[float]]:
    """Return the receipt of every row of every event, in seconds since the epoch."""
    found: dict[tuple[str, str], list[float]] = {}
    for key, event_id, received_at in connection.execute(
        "SELECT decision_key, event_id, received_at FROM events WHERE incarnation = ANY(%s)", (incarnations,)
    ):
        found.setdefault((key.hex, event_id), []).append(received_at.timestamp())
    return found


def _posteriors_off(url: str, target: str, incarnations: Mapping[str, int]) -> int:
    """Return how many arms the router tells another posterior of than SQL does."""
    off = 0
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = posteriors_pb2_grpc.PosteriorServiceStub(channel)
        for experiment_id in incarnations:
            reply = stub.GetPosterior(
                posteriors_pb2.GetPosteriorRequest(experiment_id=experiment_id), timeout=5, wait_for_ready=True
            )
            with psycopg.connect(url, autocommit=True) as connection:
                rows = connection.execute(
                    "SELECT arm_id, alpha, beta, n FROM posterior_latest WHERE experiment_id = %s AND active",
                    (experiment_id,),
                ).fetchall()
            told = {arm.arm_id: (arm.alpha, arm.beta, arm.n) for arm in reply.arms}
            off += sum(
                arm_id not in told or any(abs(a - float(b)) > 1e-6 for a, b in zip(told[arm_id], values, strict=True))
                for arm_id, *values in rows
            )
    return off


def files_of(spool: Path, *suffixes: str) -> list[Path]:
    """Return the files below a spool directory whose names end so."""
    return sorted(path for path in spool.rglob("*") if path.name.endswith(suffixes)) if spool.exists() else []
