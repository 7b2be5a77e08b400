"""The statistics and decision rules of bandit-router: pure functions of their arguments.

The names that other programs rely on are here, too; each is imported from its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bandit.allocation import apply_floor
    from bandit.assignment import bucket, rendezvous
    from bandit.inference import confidence_sequence
    from bandit.offpolicy import doubly_robust, ips, snips
    from bandit.posterior import credible_interval, expected_loss, probability_best, value_remaining
    from bandit.srm import srm_sequential, srm_test

__all__ = [
    "apply_floor",
    "bucket",
    "confidence_sequence",
    "credible_interval",
    "doubly_robust",
    "expected_loss",
    "ips",
    "probability_best",
    "rendezvous",
    "snips",
    "srm_sequential",
    "srm_test",
    "value_remaining",
]

_HOMES: Final = {
    "apply_floor": "allocation",
    "bucket": "assignment",
    "confidence_sequence": "inference",
    "credible_interval": "posterior",
    "doubly_robust": "offpolicy",
    "expected_loss": "posterior",
    "ips": "offpolicy",
    "probability_best": "posterior",
    "rendezvous": "assignment",
    "snips": "offpolicy",
    "srm_sequential": "srm",
    "srm_test": "srm",
    "value_remaining": "posterior",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
