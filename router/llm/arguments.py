"""Parameters of a call: the caller's and the arm's, and what of them another provider understands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

#: What the caller's code depends on, whatever the arm.
CALLERS_OWN: Final = frozenset({"messages", "stream", "stream_options"})
#: Parameters of the same name and meaning at every provider.
PORTABLE: Final = ("max_tokens", "temperature", "top_p")
SAMPLING: Final = ("temperature", "top_p", "top_k")


def merged(parameters: Mapping[str, Any], model: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the caller's parameters, over them the arm's config, because it is what is compared, and the arm's model."""
    arguments = {**parameters, **{name: value for name, value in config.items() if name not in CALLERS_OWN}}
    # An arm known by its id alone has no model: then the caller's stands.
    return {**arguments, "model": model} if model else arguments


def with_sampling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as Anthropic's SDK takes them: it does not name the sampling parameters, which some models have."""
    sampling = {name: value for name, value in arguments.items() if name in SAMPLING}
    if not sampling:
        return dict(arguments)
    rest = {name: value for name, value in arguments.items() if name not in SAMPLING}
    return {**rest, "extra_body": {**(arguments.get("extra_body") or {}), **sampling}}


def copied(value: Any) -> Any:
    """Return a copy that the caller's later changes to its lists and dictionaries do not reach.

    Other objects are shared: strings cannot change, and an SDK's own objects are too dear to copy while a user waits.
    """
    if isinstance(value, Mapping):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(inner) for inner in value]
    return value


def listed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with messages that can be read more than once: SDKs take any iterable."""
    messages = parameters.get("messages")
    if messages is None or isinstance(messages, (str, list, tuple)) or not isinstance(messages, Iterable):
        return dict(parameters)
    return {**parameters, "messages": list(messages)}


def plain(value: Any) -> Any:
    """Return a value as JSON has it; objects of an SDK by their own account."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    dump = getattr(value, "model_dump", None)
    return dump(mode="json", exclude_none=True) if callable(dump) else str(value)


def text_of(content: Any) -> str:
    """Return a message's content as text: other kinds of blocks become a line that says what was there."""
    content = plain(content)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return "" if content is None else json.dumps(content, ensure_ascii=False)
    return "\n".join(_block(block) for block in content)


def _block(block: Any) -> str:
    if isinstance(block, str):
        return block
    kind = str(block.get("type", "")) if isinstance(block, Mapping) else ""
    match kind:
        case "text":
            return str(block.get("text", ""))
        case "tool_use":
            return f"[tool call {block.get('name', '')}: {json.dumps(block.get('input'), ensure_ascii=False)}]"
        case "tool_result":
            return f"[tool result: {text_of(block.get('content'))}]"
        case _:
            return f"[{kind or 'content'}]"
