"""Experiments and their arms: written whole under a lock, read as `Definition`s."""

import json
import secrets
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bandit.assignment import BUCKETS
from bandit.ramp_state import Phase, RampState
from router.experiment import Arm, Definition, NewArm, NewDefinition
from router.limits import limited_rules, rules_in_force
from router.rules import bucket_table_of, by_buckets, reward_rule_of, rules_of
from router.storage.arms import write_arms
from router.storage.database import driver_of
from router.storage.discounting import follow_definition
from router.storage.errors import ConcurrentChangeError

_COLUMNS = """
x.incarnation, x.experiment_id, x.description, x.state, x.etag, x.allocation, x.assignment, x.reward_rule,
x.reward_rule_version, x.bucket_table, x.created_at, x.updated_at, v.policy_version, v.definition_version,
(SELECT json_agg(a ORDER BY NOT a.active, CASE WHEN a.active THEN a.position END, a.arm)
 FROM (SELECT arm, position, arm_id, version, model, family, role, config, cap, cost_usd, active
       FROM arms WHERE incarnation = x.incarnation) a) AS arms,
(SELECT json_object_agg(r.version, r.reward_rule) FROM reward_rules r WHERE r.incarnation = x.incarnation) AS rules,
x.ramp, (SELECT json_build_object('phase', m.phase, 'stage', m.stage, 'version', m.version, 'approved', m.approved,
                                  'since_us', (extract(epoch FROM m.stage_since) * 1000000)::bigint,
                                  'assessment', m.assessment)
         FROM ramps m WHERE m.incarnation = x.incarnation) AS ramp_state,
x.shadow
"""
_FROM = "FROM experiments x JOIN policy_versions v USING (incarnation)"
#: For `definition_of`: one experiment.
BY_INCARNATION = f"SELECT {_COLUMNS} {_FROM} WHERE x.incarnation = %s"
_TABLE = struct.Struct(f"!{BUCKETS}H")

#: Those that run and whose ramps are in one of these phases.
RAMPING = f"""
SELECT {_COLUMNS} {_FROM} JOIN ramps r ON r.incarnation = x.incarnation
WHERE r.phase = ANY(%s) AND x.state = 'running' ORDER BY x.incarnation
"""


def definition_of(row: Mapping[str, Any]) -> Definition:
    """Build a Definition from a row of `_COLUMNS`, of Postgres or of a saved copy."""
    arms = tuple(
        Arm(
            number=a["arm"],
            arm_id=a["arm_id"],
            version=a["version"],
            model=a["model"],
            family=a["family"],
            is_control=a["role"] == "control",
            config=_doubles(a["config"]),
            cap=a["cap"],
            cost_usd=a["cost_usd"],
            active=a["active"],
            is_shadow=a["role"] == "shadow",
        )
        for a in row["arms"]
    )
    active = [arm for arm in arms if arm.active and not arm.is_shadow]
    state = row["ramp_state"]
    ramp_state = None
    if state is not None:
        phase = Phase(state["phase"])
        ramp_state = RampState(phase, state["stage"], state["since_us"], state["version"], state["approved"])
    rules = rules_of(row["allocation"], row["assignment"], row["ramp"], active, row["shadow"])
    in_force = rules_in_force(rules, active, ramp_state, row["state"])
    # The table is kept while another rule is in force: units have their arms back once it is over.
    table = row["bucket_table"] if by_buckets(in_force) else None
    return Definition(
        incarnation=row["incarnation"],
        experiment_id=row["experiment_id"],
        description=row["description"],
        state=row["state"],
        etag=row["etag"],
        arms=arms,
        allocation=row["allocation"],
        assignment=row["assignment"],
        reward_rule=row["reward_rule"],
        rules=in_force,
        reward_rule_version=row["reward_rule_version"],
        reward_rules={int(version): reward_rule_of(rule) for version, rule in row["rules"].items()},
        bucket_table=None if table is None else _TABLE.unpack(table),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        definition_version=row["definition_version"],
        ramp=row["ramp"],
        ramp_state=ramp_state,
        ramp_assessment=None if state is None else state["assessment"],
        shadow=row["shadow"],
    )


async def read(
    connection: AsyncConnection, experiment_id: str, *, for_update: bool = False
) -> tuple[Definition, int] | None:
    """Return an experiment's definition and policy version, or None; `for_update` keeps others from changing it."""
    if for_update:
        # Apart from the reading, which then sees what the one waited for has written, arms included. Rows that refer to
        # the experiment are let through: a writer of evidence holds the lock that this transaction wants next.
        lock = text("SELECT 1 FROM experiments WHERE experiment_id = :id FOR NO KEY UPDATE")
        await connection.execute(lock, {"id": experiment_id})
    row = (
        await connection.execute(text(f"SELECT {_COLUMNS} {_FROM} WHERE experiment_id = :id"), {"id": experiment_id})
    ).one_or_none()
    return None if row is None else (definition_of(dict(row._mapping)), row.policy_version)


async def read_page(
    connection: AsyncConnection, after: str, limit: int, among: Collection[str] | None = None
) -> list[tuple[Definition, int]]:
    """Return up to `limit` experiments whose id comes after `after`, in ascending order; `among` names those that may be."""
    chosen = "" if among is None else "AND experiment_id = ANY(:among)"
    rows = await connection.execute(
        text(f"SELECT {_COLUMNS} {_FROM} WHERE experiment_id > :after {chosen} ORDER BY experiment_id LIMIT :limit"),
        {"after": after, "limit": limit, **({} if among is None else {"among": list(among)})},
    )
    return [(definition_of(dict(row._mapping)), row.policy_version) for row in rows]


async def read_rows(connection: AsyncConnection, incarnations: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return what `definition_of` takes, of those of these experiments that exist."""
    rows = await connection.execute(
        text(f"SELECT {_COLUMNS} {_FROM} WHERE incarnation = ANY(:incarnations)"),
        {"incarnations": list(incarnations)},
    )
    return [dict(row._mapping) for row in rows]


async def read_incarnations(connection: AsyncConnection, incarnations: Sequence[int]) -> list[tuple[Definition, int]]:
    """Return these experiments, those that exist."""
    return [(definition_of(row), row["policy_version"]) for row in await read_rows(connection, incarnations)]


async def read_alone(
    connection: psycopg.AsyncConnection[Any], incarnation: int, *, for_update: bool = False
) -> Definition | None:
    """As `read`, by incarnation, on a connection of the driver's own."""
    if for_update:
        await connection.execute("SELECT 1 FROM experiments WHERE incarnation = %s FOR NO KEY UPDATE", (incarnation,))
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(BY_INCARNATION, (incarnation,))
        row = await cursor.fetchone()
    return None if row is None else definition_of(row)


async def create(connection: AsyncConnection, new: NewDefinition) -> int:
    """Insert a draft and return its incarnation; AlreadyExistsError if the id is taken."""
    # Random, so that a token of an experiment that is gone, or of another database, never fits a new one.
    incarnation = secrets.randbits(62)
    await connection.execute(
        text(
            "INSERT INTO experiments (incarnation, experiment_id, description, state, etag, allocation, assignment,"
            " reward_rule, reward_rule_version, ramp, shadow) VALUES (:incarnation, :id, :description, 'draft', :etag,"
            " CAST(:allocation AS jsonb), CAST(:assignment AS jsonb), CAST(:reward_rule AS jsonb), 1,"
            " CAST(:ramp AS jsonb), CAST(:shadow AS jsonb))"
        ),
        {"incarnation": incarnation, "id": new.experiment_id, "etag": _new_etag(), **_documents(new)},
    )
    await connection.execute(
        text("INSERT INTO policy_versions (incarnation) VALUES (:incarnation)"), {"incarnation": incarnation}
    )
    await _write_reward_rule(connection, incarnation, 1, new)
    await write_arms(connection, incarnation, new.arms, ())
    driver = await driver_of(connection)
    await _write_bucket_table(driver, incarnation)
    await follow_definition(driver, incarnation)
    return incarnation


async def update(connection: AsyncConnection, current: Definition, new: NewDefinition) -> bool:
    """Replace a definition that was read for update; False if nothing differs.

    Arms that are missing from it are retired, new ones added; another model or config makes a new version.
    """
    if _same(current, new):
        return False
    rule_version = current.reward_rule_version
    if dict(new.reward_rule) != dict(current.reward_rule):
        rule_version += 1
        await _write_reward_rule(connection, current.incarnation, rule_version, new)
    await connection.execute(
        text(
            "UPDATE experiments SET description = :description, etag = :etag, allocation = CAST(:allocation AS jsonb),"
            " assignment = :assignment, reward_rule = :reward_rule, reward_rule_version = :rule_version,"
            " ramp = CAST(:ramp AS jsonb), shadow = CAST(:shadow AS jsonb),"
            " updated_at = clock_timestamp() WHERE incarnation = :incarnation"
        ),
        {
            "incarnation": current.incarnation,
            "etag": _new_etag(),
            "rule_version": rule_version,
            **_documents(new),
        },
    )
    await write_arms(connection, current.incarnation, new.arms, current.arms)
    driver = await driver_of(connection)
    await _write_bucket_table(driver, current.incarnation)
    await _bump(driver, current.incarnation)
    await follow_definition(driver, current.incarnation)
    return True


async def set_state(connection: AsyncConnection, current: Definition, state: str) -> None:
    """Move an experiment that was read for update to another state."""
    result = await connection.execute(
        text(
            "UPDATE experiments SET state = :state, etag = :etag, updated_at = clock_timestamp()"
            " WHERE incarnation = :incarnation AND etag = :expected"
        ),
        {"incarnation": current.incarnation, "state": state, "etag": _new_etag(), "expected": current.etag},
    )
    if result.rowcount != 1:
        raise ConcurrentChangeError(f"experiment {current.experiment_id!r} changed meanwhile")
    await _bump(await driver_of(connection), current.incarnation)


async def ramp_changed(connection: psycopg.AsyncConnection[Any], current: Definition) -> None:
    """Put a change of the ramp into force: buckets, etag and versions, in the transaction that made it."""
    await _write_bucket_table(connection, current.incarnation)
    await connection.execute("UPDATE experiments SET etag = %s WHERE incarnation = %s", (_new_etag(), current.incarnation))
    await _bump(connection, current.incarnation)


async def _bump(connection: psycopg.AsyncConnection[Any], incarnation: int) -> None:
    await connection.execute(
        "UPDATE policy_versions SET policy_version = policy_version + 1, changed_at = clock_timestamp(),"
        " definition_version = definition_version + 1 WHERE incarnation = %s",
        (incarnation,),
    )


async def _write_reward_rule(connection: AsyncConnection, incarnation: int, version: int, new: NewDefinition) -> None:
    await connection.execute(
        text(
            "INSERT INTO reward_rules (incarnation, version, reward_rule)"
            " VALUES (:incarnation, :version, CAST(:rule AS jsonb))"
        ),
        {"incarnation": incarnation, "version": version, "rule": json.dumps(dict(new.reward_rule))},
    )


async def _write_bucket_table(connection: psycopg.AsyncConnection[Any], incarnation: int) -> None:
    """Deal the buckets of a definition that was written in this transaction, from those that are stored."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} {_FROM} WHERE x.incarnation = %s", (incarnation,))
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - written in this transaction
    definition = definition_of(row)
    arms = definition.active_arms
    # Units with a stored arm are hashed while a ramp is open, and drawn by the same hash afterwards: not by buckets. What
    # the state of the experiment puts off keeps its buckets meanwhile.
    rules = rules_of(definition.allocation, definition.assignment, definition.ramp, arms)
    limited = limited_rules(rules, arms, definition.ramp_state)
    previous = None if row["bucket_table"] is None else _TABLE.unpack(row["bucket_table"])
    table = bucket_table_of(replace(rules, allocation=limited.allocation), arms, previous)
    await connection.execute(
        "UPDATE experiments SET bucket_table = %s WHERE incarnation = %s",
        (None if table is None else _TABLE.pack(*table), incarnation),
    )


def _same(current: Definition, new: NewDefinition) -> bool:
    arms = tuple(
        NewArm(arm.arm_id, arm.model, arm.family, arm.is_control, dict(arm.config), arm.cap, arm.cost_usd, arm.is_shadow)
        for arm in current.arms
        if arm.active
    )
    return (
        arms == tuple(new.arms)
        and current.description == new.description
        and dict(current.allocation) == dict(new.allocation)
        and dict(current.assignment) == dict(new.assignment)
        and dict(current.reward_rule) == dict(new.reward_rule)
        and dict(current.ramp) == dict(new.ramp)
        and dict(current.shadow) == dict(new.shadow)
    )


def _documents(new: NewDefinition) -> dict[str, str]:
    return {
        "description": new.description,
        "allocation": json.dumps(dict(new.allocation)),
        "assignment": json.dumps(dict(new.assignment)),
        "reward_rule": json.dumps(dict(new.reward_rule)),
        "ramp": json.dumps(dict(new.ramp)),
        "shadow": json.dumps(dict(new.shadow)),
    }


def _doubles(value: Any) -> Any:
    """Numbers as a Struct has them: jsonb gives large doubles back as whole numbers, which then differ from them."""
    if isinstance(value, dict):
        return {key: _doubles(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_doubles(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _new_etag() -> str:
    return secrets.token_hex(8)
