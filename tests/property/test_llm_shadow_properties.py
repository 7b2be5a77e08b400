"""What the caller reads is the serving arm's answer, to the letter: nothing of a shadow arm's ever, on no path."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pytest
from dropins import KINDS, Told, kit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stub_router import StubRouter, serve_stub

from router.llm import model_of
from router.llm.loopback import Loopback, serve_loopback
from router.llm.loopback.anthropic_wire import AnthropicWire
from router.llm.loopback.behaviour import behave
from router.llm.loopback.openai_wire import OpenAIWire
from router.llm.loopback.protocol import Wire

SERVING = (
    "qwen2.5-7b-instruct",
    "gemma-2-9b-it",
    "loopback-cut-mid",
    "loopback-error-mid",
    "loopback-empty",
    "loopback-refusal",
)
FAILING = ("loopback-429", "loopback-500", "loopback-529", "loopback-cut-before", "loopback-malformed", "loopback-no-answer")
CONTROL = ("gemma-2-9b-it", "loopback-500", "loopback-cut-mid", "")
SHADOWS = (
    "mistral-7b-instruct-v0.3",
    "codegemma-7b",
    "mistral-7b-instruct-v0.3@20ms",
    "loopback-slow",
    "loopback-empty",
    "loopback-refusal",
    "loopback-cut-mid",
    *FAILING,
)
#: Models that answer with their own name, which no other answer holds.
NAMED = ("mistral-7b-instruct-v0.3", "codegemma-7b")


@pytest.fixture(scope="module")
def models() -> Iterator[Loopback]:
    with serve_loopback() as server:
        yield server


@pytest.fixture(scope="module")
def stub() -> Iterator[StubRouter]:
    with serve_stub() as stub:
        yield stub


CASES: Final = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "serving": st.sampled_from(SERVING + FAILING),
        "control": st.sampled_from(CONTROL),
        "shadows": st.lists(st.sampled_from(SHADOWS), min_size=1, max_size=3, unique=True),
        "stream": st.booleans(),
        "take": st.none() | st.integers(0, 4),
        "text": st.sampled_from(["FULL", "TRUNCATED", "OFF"]),
        "redactor": st.sampled_from([None, "upper", "raises"]),
        "mirrored_elsewhere": st.booleans(),
        "crowded": st.booleans(),
    }
)
QUIET: Final = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(deadline=None, max_examples=8, suppress_health_check=QUIET)
@given(case=CASES)
def test_no_text_of_a_shadow_reaches_the_caller(models: Loopback, stub: StubRouter, case: dict[str, Any]) -> None:
    check(models, stub, **case)


@pytest.mark.slow
@settings(deadline=None, max_examples=250, suppress_health_check=QUIET)
@given(case=CASES)
def test_no_text_of_a_shadow_reaches_the_caller_on_any_path(
    models: Loopback, stub: StubRouter, case: dict[str, Any]
) -> None:
    check(models, stub, **case)


def check(
    models: Loopback,
    stub: StubRouter,
    kind: str,
    serving: str,
    control: str,
    shadows: list[str],
    stream: bool,
    take: int | None,
    text: str,
    redactor: str | None,
    mirrored_elsewhere: bool,
    crowded: bool,
) -> None:
    stub.arms = {
        "chosen": (serving, {}),
        "control": (control, {}),
        **{f"s{n}": (name, {}) for n, name in enumerate(shadows)},
    }
    stub.control = "control" if control else ""
    stub.shadows = [f"s{n}" for n in range(len(shadows))]
    stub.text, stub.limit = text, 10
    redact = {None: None, "upper": str.upper, "raises": lambda _: 1 / 0}[redactor]

    async def ask() -> list[Told]:
        mirrors = {}
        if mirrored_elsewhere:
            mirrors["s0"] = model_of(f"openai:{shadows[0]}", models.openai_url, api_key="any")
        options = {"redact": redact, "mirrors": mirrors, "shadow_timeout_s": 0.3, "shadow_queue": 1 if crowded else 100}
        async with kit(kind, models, stub.target, **options) as client:
            told = await asyncio.gather(*(client.ask(stream=stream, take=take) for _ in range(3)))
            await client.close(0.4)
        return told

    for answer in asyncio.run(ask()):
        assert not any(name in answer.text for name in NAMED)
        if answer.routed is None:
            assert answer.error is not None
            assert answer.text == ""
            continue
        arm = answer.routed.arm.arm_id
        assert arm in ("chosen", "control")
        assert answer.routed.fallback == (arm == "control")
        expected = said(models, serving if arm == "chosen" else control, kind, stream)
        # Of a stream that was closed or broke off, the beginning.
        assert expected.startswith(answer.text)
        if answer.error is None and (not stream or take is None):
            assert answer.text == expected


def said(models: Loopback, name: str, kind: str, stream: bool) -> str:
    """The whole text that a model was to say to production's request, also where it breaks off before.

    A shadow arm of the same model is asked without streaming, or by another provider's client in other words, and so says
    something else.
    """
    wire: Wire
    path, wire = (
        ("/v1/messages", AnthropicWire()) if kind.startswith("anthropic") else ("/v1/chat/completions", OpenAIWire())
    )
    asked = [
        one
        for one in models.ledger.entries(name)
        if one.path == path and one.body and bool(one.body.get("stream")) is stream
    ]
    behaviour = behave(models.world, wire.read(asked[-1].headers, asked[-1].body or {}))
    return "" if behaviour.stop == "refusal" and kind.startswith("anthropic") else behaviour.text
