"""Judge runs: the sample, what is still to be judged, and the verdicts.

Which pairs are drawn, and how each is shown, follows from one hash of seed, decision and arm: its rank in the order of
these hashes draws the pair; its last byte says which answer comes first; three others, whether the pair is judged once more.
So none of it depends on when a pair was recorded, on the run's name, or on which other pairs there are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import text

from bandit.verdicts import Judgments
from router.storage.database import Connection
from router.storage.metrics import plan_for_keys
from router.storage.times import time_of

#: A page ends before it would exceed this, in bytes of text; it has one judgment at least.
PAGE_BYTES = 8 * 1024 * 1024
#: Runs that are listed.
MOST_RUNS = 1_000

# Sizes, not values: they are known without reading the texts.
_TEXTS = "octet_length(c.prompt) > 0 AND octet_length(c.serving_text) > 0 AND octet_length(c.shadow_text) > 0"
_OF_ARMS = """c.incarnation = :incarnation AND c.shadow_arm = :arm AND c.serving_arm = :other_arm
          AND c.serving_error = '' AND c.shadow_error = ''"""

_CREATE = """
INSERT INTO judge_runs (run_id, incarnation, created_at, arm, other_arm, settings)
VALUES (:run_id, :incarnation, :created_at, :arm, :other_arm, CAST(:settings AS jsonb))
ON CONFLICT (run_id) DO NOTHING RETURNING 1
"""
_DRAW = f"""
WITH drawn AS (
    SELECT c.decision_key, c.shadow_arm, c.decision_day, c.unit_hash,
           sha256(int8send(CAST(:seed AS int8)) || uuid_send(c.decision_key) || int2send(c.shadow_arm)) AS lot
    FROM shadow_comparisons c WHERE {_OF_ARMS} AND c.text_mode = 'full' AND {_TEXTS}
    ORDER BY lot LIMIT :sample
)
INSERT INTO judgments (run_id, judgment, decision_key, shadow_arm, decision_day, unit_hash, shadow_first, repeat)
SELECT :run_id, row_number() OVER (ORDER BY d.lot, a.place) - 1, d.decision_key, d.shadow_arm, d.decision_day, d.unit_hash,
       (get_byte(d.lot, 31) % 2 = 0) = a.as_drawn, a.repeat
FROM drawn d CROSS JOIN (VALUES (0, true, false), (1, false, false), (2, true, true)) a (place, as_drawn, repeat)
WHERE (a.place <> 1 OR CAST(:both_orders AS boolean))
  AND (a.place <> 2 OR ((get_byte(d.lot, 28) * 256 + get_byte(d.lot, 29)) * 256 + get_byte(d.lot, 30)) / 16777216.0
       < CAST(:repeat_share AS float8))
"""
_ARMS = """
SELECT a.arm FROM arms a WHERE a.incarnation = :incarnation
  AND EXISTS (SELECT 1 FROM shadow_comparisons c WHERE c.incarnation = a.incarnation AND c.shadow_arm = a.arm)
ORDER BY a.arm
"""
_TEXT_MODES = f"SELECT DISTINCT c.text_mode FROM shadow_comparisons c WHERE {_OF_ARMS} ORDER BY 1"

_RUN = """
SELECT r.run_id, r.incarnation, x.experiment_id, r.created_at, r.arm, r.other_arm, r.settings, j.asked, j.judgments,
       j.judged, j.cost_usd
FROM judge_runs r JOIN experiments x USING (incarnation)
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE NOT repeat) AS asked, count(*) AS judgments, count(verdict) AS judged,
           coalesce(sum(cost_usd ORDER BY judgment), 0) AS cost_usd
    FROM judgments WHERE run_id = r.run_id
) j
"""
_ONE_RUN = f"{_RUN} WHERE r.run_id = :run_id"
_RUNS = f"{_RUN} WHERE r.incarnation = :incarnation ORDER BY r.created_at DESC, r.run_id LIMIT {MOST_RUNS}"

_PENDING = f"""
SELECT judgment, prompt, answer_a, answer_b, found
FROM (
    SELECT *, count(*) OVER () AS found, row_number() OVER ranked AS number,
           sum(octet_length(prompt)::int8 + octet_length(answer_a) + octet_length(answer_b)) OVER ranked AS bytes
    FROM (
        SELECT j.judgment, c.prompt, CASE WHEN j.shadow_first THEN c.shadow_text ELSE c.serving_text END AS answer_a,
               CASE WHEN j.shadow_first THEN c.serving_text ELSE c.shadow_text END AS answer_b
        FROM judgments j JOIN shadow_comparisons c USING (decision_key, shadow_arm)
        WHERE j.run_id = :run_id AND j.judgment > :after AND j.verdict IS NULL AND {_TEXTS}
        ORDER BY j.judgment LIMIT :limit
    ) p
    WINDOW ranked AS (ORDER BY judgment)
) p
WHERE number = 1 OR bytes <= {PAGE_BYTES}
ORDER BY judgment
"""

# A run of minutes ago has no statistics yet: its pending judgments look like few, and worth sorting.
_IN_ORDER = "SELECT set_config(name, 'off', true) FROM unnest('{enable_bitmapscan,enable_sort}'::text[]) name"

# A reason may quote what was asked and answered: it is kept where these texts are, and no longer than the rule lets them be.
_RECORD = """
UPDATE judgments j
SET verdict = :verdict, judged_at = :judged_at, latency_us = :latency_us, input_tokens = :input_tokens,
    output_tokens = :output_tokens, cost_usd = :cost_usd,
    reason = (SELECT CAST(:reason AS text) FROM shadow_comparisons c JOIN experiments x USING (incarnation)
              WHERE c.decision_key = j.decision_key AND c.shadow_arm = j.shadow_arm AND c.text_mode = 'full'
                AND coalesce(x.shadow ->> 'text', 'TEXT_MODE_FULL') = 'TEXT_MODE_FULL')
WHERE j.run_id = :run_id AND j.judgment = :judgment AND j.verdict IS NULL
RETURNING 1
"""
_JUDGMENTS = "SELECT count(*) FROM judgments WHERE run_id = :run_id"

# As one value: hundreds of thousands of rows would take the driver seconds.
_VERDICTS = """
SELECT coalesce(string_agg(int8send(pair) || int8send(unit) || int4send(reward) || int2send(flags::int2), ''
                           ORDER BY judgment), '')
FROM (
    SELECT j.judgment, dense_rank() OVER (ORDER BY j.decision_key, j.shadow_arm) - 1 AS pair,
           dense_rank() OVER (ORDER BY coalesce(j.unit_hash, uuid_send(j.decision_key))) AS unit,
           coalesce(o.reward_micros, -1) AS reward,
           CASE WHEN j.shadow_first THEN 1 ELSE 0 END + CASE WHEN j.repeat THEN 2 ELSE 0 END
               + 4 * coalesce(array_position(array['a', 'b', 'tie', 'invalid'], j.verdict), 0) AS flags
    FROM judgments j
    LEFT JOIN outcomes o ON o.decision_day = j.decision_day AND o.decision_key = j.decision_key
    WHERE j.run_id = :run_id
) v
"""
_ROW = np.dtype([("pair", ">i8"), ("unit", ">i8"), ("reward", ">i4"), ("flags", ">i2")])


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run before its sample is drawn."""

    run_id: str
    incarnation: int
    created_at_us: int
    #: Numbers of the arms: the one in question, and the serving one.
    arm: int
    other_arm: int
    #: JudgeRun in protobuf JSON, as it was given.
    settings: Mapping[str, Any]
    seed: int
    sample: int
    both_orders: bool
    repeat_share: float


class Run(NamedTuple):
    """A run as it stands."""

    run_id: str
    incarnation: int
    experiment_id: str
    created_at: datetime
    arm: int
    other_arm: int
    settings: Mapping[str, Any]
    #: Judgments to be made without those that repeat another.
    asked: int
    judgments: int
    judged: int
    cost_usd: float


class Pending(NamedTuple):
    """A judgment to be made."""

    judgment: int
    prompt: str
    answer_a: str
    answer_b: str


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict, and what the call took; None where it was not reported."""

    run_id: str
    judgment: int
    #: "a", "b", "tie" or "invalid".
    verdict: str
    reason: str
    judged_at_us: int
    latency_us: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


async def create(connection: Connection, new: NewRun) -> int | None:
    """Store a run and draw its sample; returns how many judgments are to be made, None if there is a run of this id."""
    values = {
        "run_id": new.run_id,
        "incarnation": new.incarnation,
        "created_at": time_of(new.created_at_us),
        "arm": new.arm,
        "other_arm": new.other_arm,
        "settings": json.dumps(dict(new.settings)),
    }
    if (await connection.execute(text(_CREATE), values)).first() is None:
        return None
    drawn = {
        "run_id": new.run_id,
        **{name: getattr(new, name) for name in ("incarnation", "arm", "other_arm", "seed", "sample")},
        "both_orders": new.both_orders,
        "repeat_share": new.repeat_share,
    }
    return (await connection.execute(text(_DRAW), drawn)).rowcount


async def read_run(connection: Connection, run_id: str) -> Run | None:
    """Return a run, or None if there is none of this id."""
    row = (await connection.execute(text(_ONE_RUN), {"run_id": run_id})).one_or_none()
    return None if row is None else Run(*row)


async def read_runs(connection: Connection, incarnation: int) -> list[Run]:
    """Return the runs of an experiment, newest first."""
    return [Run(*row) for row in await connection.execute(text(_RUNS), {"incarnation": incarnation})]


async def compared_arms(connection: Connection, incarnation: int) -> list[int]:
    """Return the numbers of the arms that have comparisons."""
    return list((await connection.execute(text(_ARMS), {"incarnation": incarnation})).scalars())


async def text_modes(connection: Connection, incarnation: int, arm: int, other_arm: int) -> list[str]:
    """Return how much text the comparisons of two arms have of which neither call failed: full, truncated, off."""
    values = {"incarnation": incarnation, "arm": arm, "other_arm": other_arm}
    return list((await connection.execute(text(_TEXT_MODES), values)).scalars())


async def read_pending(connection: Connection, run_id: str, after: int, limit: int) -> tuple[Sequence[Pending], bool]:
    """Return up to `limit` judgments with a greater number that are still to be made, and whether there are more.

    A page with long texts has fewer. Judgments whose texts are gone are left out: nobody can make them any more.
    """
    await plan_for_order(connection)
    rows = (await connection.execute(text(_PENDING), {"run_id": run_id, "after": after, "limit": limit + 1})).all()
    return [Pending(*row[:4]) for row in rows[:limit]], bool(rows) and rows[0].found > min(len(rows), limit)


async def plan_for_order(connection: Connection) -> None:
    """Have the statements of this transaction follow indices, so that a page reads no more than it holds."""
    await plan_for_keys(connection)
    await connection.execute(text(_IN_ORDER))


async def record(connection: Connection, said: Said) -> bool:
    """Store a verdict unless the judgment was made before; returns whether it was stored."""
    values = {name: getattr(said, name) for name in Said.__slots__ if name != "judged_at_us"}
    values["judged_at"] = time_of(said.judged_at_us)
    return (await connection.execute(text(_RECORD), values)).first() is not None


async def count_judgments(connection: Connection, run_id: str) -> int:
    """Return how many judgments a run has; 0 if there is no such run, since every run has some."""
    return int((await connection.execute(text(_JUDGMENTS), {"run_id": run_id})).scalar_one())


async def read_verdicts(connection: Connection, run_id: str) -> Judgments:
    """Return what a run's judge said, with the users' rewards of the serving answers."""
    await plan_for_keys(connection)
    packed = (await connection.execute(text(_VERDICTS), {"run_id": run_id})).scalar_one()
    rows = np.frombuffer(packed, dtype=_ROW)
    flags, pair = rows["flags"].astype(np.int64), rows["pair"].astype(np.int64)
    of_pair = np.unique(pair, return_index=True)[1]
    reward = rows["reward"].astype(np.float64)[of_pair]
    return Judgments(
        pair=pair,
        arm_first=(flags & 1) > 0,
        repeat=(flags & 2) > 0,
        verdict=flags >> 2,
        unit=rows["unit"].astype(np.int64)[of_pair],
        reward=np.where(reward < 0.0, np.nan, reward / 1e6),
    )
