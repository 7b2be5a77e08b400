"""Model calls: drop-in clients that route, shadow traffic, judges and offline evaluation.

Only here are model SDKs imported, and only where one is used: importing this package needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from router.llm.anthropic_model import AnthropicModel
    from router.llm.openai_model import OpenAIModel
    from router.llm.providers import UnknownModel, model_of

__all__ = ["AnthropicModel", "OpenAIModel", "UnknownModel", "model_of"]

_HOMES: Final = {
    "AnthropicModel": "router.llm.anthropic_model",
    "OpenAIModel": "router.llm.openai_model",
    "UnknownModel": "router.llm.providers",
    "model_of": "router.llm.providers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
