"""Model calls: drop-in clients that route, shadow traffic, judges and offline evaluation.

Only here are model SDKs imported, and only where one is used: importing this package needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from router.llm.anthropic_client import AsyncRoutedAnthropic, RoutedAnthropic
    from router.llm.anthropic_model import AnthropicModel
    from router.llm.dropin import RoutedStats
    from router.llm.models import Price
    from router.llm.openai_client import AsyncRoutedOpenAI, RoutedOpenAI
    from router.llm.openai_model import OpenAIModel
    from router.llm.providers import UnknownModel, model_of
    from router.llm.routed import AsyncRoutedStream, Routed, RoutedStream

__all__ = [
    "AnthropicModel",
    "AsyncRoutedAnthropic",
    "AsyncRoutedOpenAI",
    "AsyncRoutedStream",
    "OpenAIModel",
    "Price",
    "Routed",
    "RoutedAnthropic",
    "RoutedOpenAI",
    "RoutedStats",
    "RoutedStream",
    "UnknownModel",
    "model_of",
]

_HOMES: Final = {
    "AnthropicModel": "anthropic_model",
    "AsyncRoutedAnthropic": "anthropic_client",
    "AsyncRoutedOpenAI": "openai_client",
    "AsyncRoutedStream": "routed",
    "OpenAIModel": "openai_model",
    "Price": "models",
    "Routed": "routed",
    "RoutedAnthropic": "anthropic_client",
    "RoutedOpenAI": "openai_client",
    "RoutedStats": "dropin",
    "RoutedStream": "routed",
    "UnknownModel": "providers",
    "model_of": "providers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
