"""What an evaluation resolves to: of a decision its arm, of an error the default value and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import grpc
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagMetadata, FlagResolutionDetails, FlagValueType, Reason

from router.client import Decision, RouterError
from router.client import Reason as RouterReason

T = TypeVar("T")

#: Codes of an operator's switch, not of an error: the flag is off.
_NOT_RUNNING: Final = "EXPERIMENT_NOT_RUNNING"


def arm_id(decision: Decision) -> str:
    """Return the value of a string flag."""
    return decision.arm.arm_id


def arm(decision: Decision) -> Mapping[str, FlagValueType]:
    """Return the value of an object flag, fresh: the caller may change it."""
    return {"arm_id": decision.arm.arm_id, "model": decision.arm.model, "config": dict(decision.arm.config)}


def resolved(decision: Decision, value: T) -> FlagResolutionDetails[T]:
    """Return the details of a decision; the variant is the arm."""
    return FlagResolutionDetails(
        value=value, reason=_reason(decision), variant=decision.arm.arm_id, flag_metadata=_metadata(decision)
    )


def unresolved(error: RouterError, default: T, *, has_targeting_key: bool) -> FlagResolutionDetails[T]:
    """Return the details of a call that ended in an error: the default value, and which of OpenFeature's errors it is."""
    if error.reason == _NOT_RUNNING:
        state = error.metadata.get("state", "")
        return FlagResolutionDetails(value=default, reason=Reason.DISABLED, flag_metadata={"state": state} if state else {})
    return refused(_code(error, has_targeting_key), str(error), default)


def refused(code: ErrorCode, message: str, default: T) -> FlagResolutionDetails[T]:
    """Return the default value with an error."""
    return FlagResolutionDetails(value=default, reason=Reason.ERROR, error_code=code, error_message=message)


def _reason(decision: Decision) -> Reason:
    if decision.is_fallback:
        # The arm that the caller configured for a router that cannot answer.
        return Reason.DEFAULT
    # A replayed, held out or hashed unit got its arm by chance too: flag_metadata tells these apart.
    return Reason.STATIC if decision.reason is RouterReason.FORCED else Reason.SPLIT


def _metadata(decision: Decision) -> FlagMetadata:
    metadata: dict[str, bool | int | float | str] = {
        "model": decision.arm.model,
        "propensity": decision.propensity,
        "policy_version": decision.policy_version,
        "router_reason": decision.reason.name.lower(),
        "stale_for_s": decision.stale_for.total_seconds(),
    }
    if decision.decision_id:
        metadata["decision_id"] = decision.decision_id
    return metadata


def _code(error: RouterError, has_targeting_key: bool) -> ErrorCode:
    fields = {violation.field for violation in error.violations}
    if error.code is grpc.StatusCode.NOT_FOUND or "experiment_id" in fields:
        # An id that no experiment can have is the id of none.
        return ErrorCode.FLAG_NOT_FOUND
    if "unit_id" in fields and not has_targeting_key:
        return ErrorCode.TARGETING_KEY_MISSING
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        return ErrorCode.INVALID_CONTEXT
    return ErrorCode.GENERAL
