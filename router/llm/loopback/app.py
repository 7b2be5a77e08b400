"""The server as an ASGI application: it picks the protocol, checks, waits, answers, and breaks off where told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from router.llm.loopback.anthropic_wire import AnthropicWire
from router.llm.loopback.asked import Asked
from router.llm.loopback.behaviour import Behaviour, behave, knows, names
from router.llm.loopback.ledger import Entry, Ledger
from router.llm.loopback.openai_wire import OpenAIWire
from router.llm.loopback.protocol import Refused, Wire, answer_id
from router.llm.loopback.world import World

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

#: The ASGI extension through which the app asks its server to break the connection.
ABORT: Final = "loopback.abort"
_WIRES: Final[Mapping[str, Wire]] = {"/v1/messages": AnthropicWire(), "/v1/chat/completions": OpenAIWire()}


class App:
    """Answers both protocols."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world = world
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = str(scope["path"]), str(scope["method"])
        if path == "/v1/models" and method == "GET":
            # Both providers list models at the same path; only one of them sends this header.
            wire: Wire = _WIRES["/v1/messages" if "anthropic-version" in headers else "/v1/chat/completions"]
            await self._list(wire, headers, send)
        elif path in _WIRES and method == "POST":
            await self._complete(_WIRES[path], path, headers, scope, receive, send)
        else:
            await _send_json(send, 404, {"error": {"type": "not_found_error", "message": f"{method} {path}"}}, {})

    async def _list(self, wire: Wire, headers: Mapping[str, str], send: Send) -> None:
        try:
            wire.check_key(headers)
        except Refused as refused:
            await _send_json(send, refused.status, wire.error(refused.status, refused.kind, refused.message), {})
        else:
            await _send_json(send, 200, wire.models(names(self._world)), {})

    async def _complete(
        self, wire: Wire, path: str, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = _object(await _body(receive))
        entry = Entry(path, str((body or {}).get("model", "")), headers, body)
        with self._ledger.answering(entry):
            try:
                wire.check_key(headers)
                if body is None:
                    raise Refused(400, wire.kind(400), "the body is no JSON object")
                asked = wire.read(headers, body)
                if not knows(self._world, asked.model):
                    raise wire.not_found(asked.model)
            except Refused as refused:
                message = wire.error(refused.status, refused.kind, refused.message)
                await _send_json(send, refused.status, message, {wire.request_id_header: "req_refused"})
                return
            behaviour = behave(self._world, asked)
            if await _hung_up(receive, behaviour.delay_s):
                return
            await _answer(wire, asked, behaviour, scope["extensions"][ABORT], send)


async def _answer(wire: Wire, asked: Asked, behaviour: Behaviour, abort: Callable[[], None], send: Send) -> None:
    ids = {wire.request_id_header: answer_id("req_", asked)}
    breaks = behaviour.breaks
    if breaks == "cut-before":
        abort()
    elif behaviour.status != 200 or (breaks == "error-mid" and not asked.stream):
        status = 500 if behaviour.status == 200 else behaviour.status
        if behaviour.retry_after_s is not None:
            ids["retry-after"] = f"{behaviour.retry_after_s:g}"
        await _send_json(send, status, wire.error(status, wire.kind(status), f"{asked.model} fails"), ids)
    elif asked.stream:
        await _stream(wire, asked, behaviour, abort, send, ids)
    elif breaks == "malformed":
        await _send(send, 200, "application/json", [b'{"content": [{"type": "te'], ids)
    elif breaks == "no-answer":
        await _send_json(send, 200, {"ok": True}, ids)
    else:
        body = json.dumps(wire.answer(asked, behaviour)).encode()
        if breaks == "cut-mid":
            await _begin(send, 200, "application/json", ids, length=len(body))
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            abort()
        else:
            await _send(send, 200, "application/json", [body], ids)


async def _stream(
    wire: Wire, asked: Asked, behaviour: Behaviour, abort: Callable[[], None], send: Send, headers: Mapping[str, str]
) -> None:
    events = list(wire.events(asked, behaviour))
    middle = len(events) // 2
    match behaviour.breaks:
        case "malformed":
            events = [b'event: message_start\ndata: {"type": "mess\n\n']
        case "no-answer":
            events = []
        case "cut-mid":
            events = events[:middle]
        case "error-mid":
            events = [*events[:middle], wire.error_event()]
    await _begin(send, 200, "text/event-stream; charset=utf-8", headers)
    for one in events:
        await send({"type": "http.response.body", "body": one, "more_body": True})
    if behaviour.breaks == "cut-mid":
        # What was sent must have left this process, or the cut would come before the answer's beginning.
        await asyncio.sleep(0.02)
        abort()
    else:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_json(send: Send, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    await _send(send, status, "application/json", [json.dumps(body).encode()], headers)


async def _send(send: Send, status: int, kind: str, parts: Iterable[bytes], headers: Mapping[str, str]) -> None:
    await _begin(send, status, kind, headers)
    await send({"type": "http.response.body", "body": b"".join(parts)})


async def _begin(send: Send, status: int, kind: str, headers: Mapping[str, str], length: int | None = None) -> None:
    fields = {"content-type": kind, **headers} | ({} if length is None else {"content-length": str(length)})
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _hung_up(receive: Receive, delay_s: float) -> bool:
    """Wait, but no longer than the caller does; whether it went away."""
    if delay_s <= 0:
        return False
    leaving = asyncio.ensure_future(receive())
    await asyncio.wait([leaving], timeout=delay_s)
    gone = leaving.done()
    leaving.cancel()
    return gone


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
