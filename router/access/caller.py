"""Who makes the call that is being answered. Each call has a task, and each task its own context."""

from contextvars import ContextVar

from router.access.keys import ANYONE, Caller
from router.errors import PermissionDeniedError

_CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)

current_caller = _CALLER.get
set_caller = _CALLER.set


def check_scope(experiment_id: str) -> None:
    """Raise PermissionDeniedError if the caller's key is not for this experiment."""
    caller = _CALLER.get()
    if not caller.reaches(experiment_id):
        raise out_of_scope(caller, experiment_id)


def out_of_scope(caller: Caller, experiment_id: str) -> PermissionDeniedError:
    """Return what a key gets that is for other experiments."""
    return PermissionDeniedError(
        f"key {caller.key.name!r} is not for experiment {experiment_id!r}: ask its operator for one that is",
        reason="EXPERIMENT_OUT_OF_SCOPE",
        metadata={"experiment_id": experiment_id, "key_id": caller.key.key_id},
    )
