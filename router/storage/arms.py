"""The arms of an experiment: which version is active, and when there is a new one."""

import json
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from router.experiment import Arm, NewArm


async def write_arms(
    connection: AsyncConnection, incarnation: int, wanted: Sequence[NewArm], existing: Sequence[Arm]
) -> None:
    """Retire, reactivate, change and add arms. A number, once given, stays with its version."""
    await connection.execute(
        text(
            "UPDATE arms SET active = false, role = 'challenger', retired_at = coalesce(retired_at, now())"
            " WHERE incarnation = :incarnation"
        ),
        {"incarnation": incarnation},
    )
    next_number = 1 + max((arm.number for arm in existing), default=-1)
    for position, arm in enumerate(wanted):
        versions = [old for old in existing if old.arm_id == arm.arm_id]
        same = [old for old in versions if old.model == arm.model and dict(old.config) == dict(arm.config)]
        values = {
            "incarnation": incarnation,
            "position": position,
            "family": arm.family,
            "role": "control" if arm.is_control else "shadow" if arm.is_shadow else "challenger",
            "cap": arm.cap,
            "cost_usd": arm.cost_usd,
        }
        if same:
            await connection.execute(
                text(
                    "UPDATE arms SET position = :position, family = :family, role = :role, cap = :cap,"
                    " cost_usd = :cost_usd, active = true, retired_at = NULL"
                    " WHERE incarnation = :incarnation AND arm = :arm"
                ),
                {**values, "arm": max(same, key=lambda old: old.version).number},
            )
            continue
        await connection.execute(
            text(
                "INSERT INTO arms (incarnation, arm, position, arm_id, version, model, family, role, config, cap,"
                " cost_usd, active) VALUES (:incarnation, :arm, :position, :arm_id, :version, :model, :family, :role,"
                " CAST(:config AS jsonb), :cap, :cost_usd, true)"
            ),
            {
                **values,
                "arm": next_number,
                "arm_id": arm.arm_id,
                "version": 1 + max((old.version for old in versions), default=0),
                "model": arm.model,
                "config": json.dumps(dict(arm.config)),
            },
        )
        next_number += 1
