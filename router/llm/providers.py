"""Models by name: "anthropic:claude-haiku-4-5-20251001" or "openai:gpt-5-mini"."""

from __future__ import annotations

import os
from typing import Final

from router.llm.models import Model

_KEYS: Final = {"anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"), "openai": ("OPENAI_API_KEY",)}


class UnknownModel(ValueError):  # noqa: N818  # what it is
    """A model that cannot be asked: no such provider, a part that is not installed, or no key."""


def model_of(name: str, base_url: str | None = None, *, api_key: str | None = None, timeout_s: float = 60.0) -> Model:
    """Return the model of a name "provider:model".

    `base_url` is the server's, for gateways and the loopback server; None: the provider's own, or that of
    ANTHROPIC_BASE_URL or OPENAI_BASE_URL. `api_key` None: that of the environment. Raises UnknownModel.
    """
    provider, colon, model = name.partition(":")
    if not colon or not model or provider not in _KEYS:
        raise UnknownModel(f"model {name!r}: write provider:model, with the provider one of {', '.join(_KEYS)}")
    if api_key is None and not any(os.environ.get(key) for key in _KEYS[provider]):
        needed = " or ".join(_KEYS[provider])
        instead = "without one, `python -m router.llm.loopback` answers in its place"
        raise UnknownModel(f"model {name!r} needs an API key: set {needed}; {instead}")
    make = _anthropic if provider == "anthropic" else _openai
    return make(model, base_url, api_key, timeout_s)


def _anthropic(model: str, base_url: str | None, api_key: str | None, timeout_s: float) -> Model:
    from anthropic import AsyncAnthropic

    from router.llm.anthropic_model import AnthropicModel

    return AnthropicModel(model, AsyncAnthropic(api_key=api_key, base_url=base_url, timeout=timeout_s))


def _openai(model: str, base_url: str | None, api_key: str | None, timeout_s: float) -> Model:
    try:
        from openai import AsyncOpenAI
    except ModuleNotFoundError as missing:
        raise UnknownModel(f'model "openai:{model}" needs the extra: pip install "bandit-router[openai]"') from missing

    from router.llm.openai_model import OpenAIModel

    return OpenAIModel(model, AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout_s))
