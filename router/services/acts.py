"""The audit log's view of a call: written in the transaction of what it did."""

from typing import Any
from urllib.parse import unquote

from router.access.caller import current_caller
from router.services import Context
from router.storage import audit
from router.storage.audit import Act
from router.storage.database import Connection, driver_of


async def audited(connection: Connection, request: Any, context: Context, experiment_id: str) -> None:
    """Write that the present caller made this administrative call."""
    key = current_caller().key
    said = getattr(request, "actor", "")
    act = Act(
        action=request.DESCRIPTOR.name.removesuffix("Request"),
        actor=key.name,
        key_id=key.key_id,
        source=unquote(context.peer()),
        experiment_id=experiment_id,
        reason=getattr(request, "reason", ""),
        detail=(("said_actor", said),) if said else (),
    )
    await audit.record_async(await driver_of(connection), act)
