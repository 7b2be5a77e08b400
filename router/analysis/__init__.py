"""An experiment as Arrow tables: decisions, first draws, events, outcomes, snapshots, metrics, shadow comparisons.

    import router.analysis as analysis

    table = analysis.decisions("postgresql://…", "support-model")
    frame = table.to_pandas()

`url` is a postgresql:// URL, or the data directory of an embedded Postgres. Nothing but SELECT is needed, so the read-only
login of an analyst will do. Each call reads one state of the database, in a transaction that lasts as long as the call.
`logged` gives arrays, for estimates, all others tables.

Times are `timestamp[us, tz=UTC]`, and ranges are [start, end): datetimes with a time zone, None for all there is. Of
decisions, draws, events, outcomes and comparisons the range is that of the time of the decision, of snapshots when they were
taken. A range without rows gives a table without rows. Ids of arms, and other columns of few words, are dictionaries.

All raise AnalysisError for an experiment that is not there, a range that is empty and a time without a time zone,
StorageError for what the database refuses, and ModuleNotFoundError without the extra `analysis`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if find_spec("pyarrow") is None:
    raise ModuleNotFoundError(
        "router.analysis needs pyarrow, which comes with the extra `analysis`: pip install 'bandit-router[analysis]'",
        name="pyarrow",
    )

from router.analysis.source import AnalysisError, check_range, experiment_of, opened, utc

if TYPE_CHECKING:
    import pyarrow as pa

    from router.storage.logged import Logged

__all__ = [
    "AnalysisError",
    "comparisons",
    "decisions",
    "decisions_batches",
    "draws",
    "events",
    "logged",
    "metrics",
    "outcomes",
    "snapshots",
]


def decisions(url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Return every decision, ordered by its time.

    Columns: decision_key (the text of a UUID, the same in events and outcomes), decided_at, arm_id, arm_version,
    propensity in (0, 1], policy_version, reason, unit_id, session_id, turn_id, request_id, segment and prompt_fingerprint
    (empty where the caller gave none), prompt_similarity (null likewise), allocation_arm_ids and allocation: two lists of
    one length, the arms and the probabilities of the vector that the arm was drawn from; it sums to 1.

    All of it is held in memory, some 300 bytes and 20 for each arm a decision: see `decisions_batches`.
    """
    return _log("decisions", url, experiment, start, end)


def decisions_batches(
    url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None
) -> pa.RecordBatchReader:
    """Return a reader of what `decisions` returns, a part of a day at a time: the days in order, the rows of a day in none.

    Memory is bounded by one batch of some 10,000 decisions, and 64 MiB of vectors that later ones may share. The database is
    held open from the first batch until the reader ends or is closed.
    """
    import pyarrow as pa

    from router.analysis.logs import LogReader, schema_of
    from router.storage.analysis import LOGS

    check_range(start, end)
    with opened(url) as reading:
        experiment_of(reading, experiment)

    def batches() -> Iterator[pa.RecordBatch]:
        # Opened at the first batch: a reader that nobody reads holds nothing.
        with opened(url) as reading:
            of = experiment_of(reading, experiment)
            yield from LogReader(reading, of, "decisions").batches(utc(start), utc(end))

    return pa.RecordBatchReader.from_batches(schema_of(LOGS["decisions"]), batches())


def draws(url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Return the decisions that are first draws, ordered by their time: what `bandit.srm.srm_sequential` is to be told.

    Columns: decided_at, arm_id, arm (its place in allocation), allocation (the vector that it was drawn from, of one length
    in all rows, 0 where an arm could not be drawn), feedback (whether the decision has an outcome that counts by now).

    Of a sticky unit, an interleaved session and a request id the first decision is kept; forced and held out ones, and
    those with one arm to choose from, are left out. A unit that was drawn before `start` has no draw in the range. All of
    it is held in memory, some 150 bytes and 16 for each arm a decision.
    """
    from router.analysis.draw_rows import draw_table
    from router.storage.drawn import read_drawn

    check_range(start, end)
    with opened(url) as reading:
        return draw_table(read_drawn(reading, experiment_of(reading, experiment), utc(start), utc(end)))


def events(url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Return every event, ordered by the time of its decision and then its own.

    Columns: decision_key, event_id, decided_at, occurred_at, received_at, arm_id, arm_version, kind (signal, reward, call,
    no_feedback), signal (null for other kinds), reward in [0, 1] (null where it maps to none or does not count), status,
    rank (the greatest decides the outcome), reward_rule_version, policy_version (of the decision), applied_version (the
    version of the evidence that it came to; null before that was kept), details (JSON: latency_ms, input_tokens,
    output_tokens, cost_usd, error, metadata and with it unit_hash; null without).
    """
    return _log("events", url, experiment, start, end)


def logged(url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None) -> Logged:
    """Return the decisions that estimates of arms may use, as arrays: what `bandit.arm_estimates.estimate_arms` takes.

    These are the decisions that were drawn, among the active arms and no others, and have an outcome that counts. The fields
    are arm_ids, arms, rewards, propensities, allocations, clusters (units or sessions; None where there are none) and
    left_out, which counts the others by the reason. The draw of a stored sticky unit is that of its first decision. All of
    it is held in memory, some 700 bytes a decision.
    """
    from router.storage.logged import read_logged

    check_range(start, end)
    with opened(url) as reading:
        return read_logged(reading, experiment_of(reading, experiment), utc(start), utc(end))


def outcomes(url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Return the outcome of every decision that has one, ordered by the time of the decision.

    Columns: decision_key, decided_at, arm_id, arm_version, reward in [0, 1], occurred_at and event_id (of the event that
    decided it), waits (true where it is not in the evidence yet, because its decision is too young).
    """
    return _log("outcomes", url, experiment, start, end)


def snapshots(url: str | Path, experiment: str, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Return the posterior of every arm at every snapshot, ordered by the time it was taken.

    Columns: segment (empty: of all traffic), policy_version, taken_at, arm_id, arm_version, active, alpha, beta (of
    Beta(alpha, beta)), n (outcomes counted), mean, probability_best, expected_loss (in units of reward), allocation (its
    propensity), matured_to.
    """
    from router.analysis.tables import SNAPSHOT_SCHEMA, snapshot_batches

    check_range(start, end)
    with opened(url) as reading:
        of = experiment_of(reading, experiment)
        return _table(snapshot_batches(reading, of, utc(start), utc(end)), SNAPSHOT_SCHEMA)


def metrics(url: str | Path, experiment: str, first: date | None = None, last: date | None = None) -> pa.Table:
    """Return what users did after the decisions of each day (UTC), from `first` to `last`, by arm and holdout.

    Columns: day, arm_id, arm_version, holdout, interactions (decisions; forced ones do not count), and of these the
    number with any event (covered), and with each signal (retries, rephrases, abandonments, follow_ups, completions);
    outcomes, mean_reward (null without any). For dashboards, not for significance.
    """
    from router.analysis.tables import METRIC_SCHEMA, metric_batches

    for name, day in (("first", first), ("last", last)):
        if day is not None and (isinstance(day, datetime) or not isinstance(day, date)):
            raise AnalysisError(f"{name} {day!s}: must be a date, as in date(2026, 11, 22): a day in UTC")
    if first is not None and last is not None and first > last:
        raise AnalysisError(f"first {first}: must not be after last {last}")
    with opened(url) as reading:
        return _table(metric_batches(reading, experiment_of(reading, experiment), first, last), METRIC_SCHEMA)


def comparisons(
    url: str | Path,
    experiment: str,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    text: bool = False,
) -> pa.Table:
    """Return what shadow arms answered beside what was served, ordered by the time of the decision.

    Columns: decision_key, decided_at, recorded_at, serving_arm_id, serving_arm_version, shadow_arm_id,
    shadow_arm_version, text_mode; prompt, serving_text and shadow_text, null unless `text` is asked for and was kept; and
    of both answers, as serving_… and shadow_…: model, latency_ms, input_tokens, output_tokens, cost_usd (null where they
    were not reported) and error (empty where the call succeeded).
    """
    from router.analysis.tables import COMPARISON_SCHEMA, comparison_batches

    check_range(start, end)
    with opened(url) as reading:
        of = experiment_of(reading, experiment)
        return _table(comparison_batches(reading, of, utc(start), utc(end), text=text), COMPARISON_SCHEMA)


def _log(name: str, url: str | Path, experiment: str, start: datetime | None, end: datetime | None) -> pa.Table:
    from router.analysis.logs import LogReader

    check_range(start, end)
    with opened(url) as reading:
        reader = LogReader(reading, experiment_of(reading, experiment), name)
        table = _table(reader.batches(utc(start), utc(end)), reader.schema)
    order = ["decided_at", "received_at", "event_id"] if name == "events" else ["decided_at", "decision_key"]
    return table.sort_by([(column, "ascending") for column in order])


def _table(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(batches, schema=schema).unify_dictionaries()
