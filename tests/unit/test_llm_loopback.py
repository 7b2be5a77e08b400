"""The loopback models: what they know, how they judge, and that they check requests as the real servers do."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import anthropic
import openai
import pytest

from router.llm import UnknownModel, model_of
from router.llm.judge.questions import Question, prompt_of, read
from router.llm.loopback import Loopback, World, quality_of, serve_loopback
from router.llm.loopback.judging import Finding, compare, fill
from router.llm.models import Completion, ModelError, Prompt

PROVIDERS = ("anthropic", "openai")


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve_loopback() as server:
        yield server


async def ask(server: Loopback, name: str, prompt: Prompt | str) -> Completion:
    provider = name.partition(":")[0]
    url = server.anthropic_url if provider == "anthropic" else server.openai_url
    model = model_of(name, url, api_key="any", timeout_s=5)
    try:
        asked = Prompt([{"role": "user", "content": prompt}]) if isinstance(prompt, str) else prompt
        return await model.complete(asked)
    finally:
        await model.close()


def post(url: str, body: object, **headers: str) -> tuple[int, Any]:
    """Send a request that no SDK would let pass."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"content-type": "application/json", **names})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("provider", PROVIDERS)
class TestModels:
    async def test_an_answer_tells_the_score_of_the_data(self, server: Loopback, provider: str) -> None:
        text = (files("router") / "data" / "llm_outcomes_9arms.csv").read_text()
        rows = {row["prompt_no"]: row for row in csv.DictReader(text.splitlines())}
        models = [name for name in rows["0"] if name not in ("prompt_no", "task")]
        assert (len(models), len(rows)) == (9, 5608)
        for number in ("0", "1234", "5607"):
            for model in models[:: 4 if provider == "openai" else 2]:
                answer = await ask(server, f"{provider}:{model}", f"[prompt {number}] What follows?")
                assert quality_of(answer.text) == pytest.approx(float(rows[number][model]), abs=1e-6)
                assert answer.model == model

    async def test_other_prompts_have_a_quality_around_the_models_mean(self, server: Loopback, provider: str) -> None:
        answer = await ask(server, f"{provider}:claude-sonnet-4-6", "Why?")
        assert quality_of(answer.text) == pytest.approx(0.7, abs=0.15)

    async def test_the_same_request_has_the_same_answer(self, server: Loopback, provider: str) -> None:
        name = f"{provider}:gemma-2-9b-it"
        first, second = [await ask(server, name, "[prompt 7] Why?") for _ in range(2)]
        assert (first.text, first.request_id) == (second.text, second.request_id)
        assert first.request_id != (await ask(server, name, "[prompt 8] Why?")).request_id

    async def test_the_answer_ends_at_the_limit(self, server: Loopback, provider: str) -> None:
        asked = Prompt([{"role": "user", "content": "Why?"}], parameters={"max_tokens": 3})
        answer = await ask(server, f"{provider}:gemma-2-9b-it", asked)
        assert (answer.text, answer.output_tokens) == ("This is gemm", 3)
        assert answer.stop_reason == ("max_tokens" if provider == "anthropic" else "length")

    @pytest.mark.parametrize(
        ("model", "kind", "retryable", "retry_after_s"),
        [
            ("loopback-429", "rate_limit", True, 1.0),
            ("loopback-529", "overloaded", True, 1.0),
            ("loopback-500", "server_error", True, None),
            ("loopback-cut-before", "connection", True, None),
            ("loopback-cut-mid", "connection", True, None),
            ("loopback-malformed", "malformed", True, None),
            ("loopback-no-answer", "malformed", True, None),
            ("no-such-model", "not_found", False, None),
        ],
    )
    async def test_a_failure_is_a_model_error(
        self, server: Loopback, provider: str, model: str, kind: str, retryable: bool, retry_after_s: float | None
    ) -> None:
        with pytest.raises(ModelError) as raised:
            await ask(server, f"{provider}:{model}", "Why?")
        assert (raised.value.kind, raised.value.retryable) == (kind, retryable)
        assert raised.value.retry_after_s == retry_after_s

    async def test_a_model_that_is_too_slow_times_out(self, server: Loopback, provider: str) -> None:
        url = server.anthropic_url if provider == "anthropic" else server.openai_url
        model = model_of(f"{provider}:loopback-slow", url, api_key="any", timeout_s=0.2)
        with pytest.raises(ModelError) as raised:
            await model.complete(Prompt([{"role": "user", "content": "Why?"}]))
        await model.close()
        assert raised.value.kind == "timeout"

    async def test_a_refusal_is_an_answer(self, server: Loopback, provider: str) -> None:
        assert (await ask(server, f"{provider}:loopback-judge-refuses", "Why?")).stop_reason == "refusal"


@pytest.mark.parametrize("provider", PROVIDERS)
class TestJudges:
    QUESTIONS = (((0.2, 0.7), "B"), ((0.7, 0.2), "A"), ((0.5, 0.5), "tie"))

    @pytest.mark.parametrize(("qualities", "verdict"), QUESTIONS)
    async def test_the_judge_follows_the_scores(
        self, server: Loopback, provider: str, qualities: tuple[float, float], verdict: str
    ) -> None:
        answers = [f"an answer [quality {quality:.6f}]" for quality in qualities]
        asked = prompt_of(Question("[prompt 3] Why?", *answers), "Be strict.", 300)
        assert read(await ask(server, f"{provider}:loopback-judge", asked))[0] == verdict
        assert read(await ask(server, f"{provider}:loopback-judge-a", asked))[0] == "A"

    async def test_a_garbled_reply_is_no_json(self, server: Loopback, provider: str) -> None:
        with pytest.raises(json.JSONDecodeError):
            json.loads((await ask(server, f"{provider}:loopback-judge-garbled", "A or B?")).text)


async def test_a_noisy_judge_is_wrong_as_often_as_it_says(server: Loopback) -> None:
    # Binomial(400, .35) is outside of 105..178 with probability 1e-4; the seed is the request, so this never changes.
    url = server.openai_url
    model = model_of("openai:loopback-judge-noisy-35", url, api_key="any")
    questions = [Question(f"{n}?", "[quality 0.9]", "[quality 0.1]") for n in range(400)]

    async def verdict(question: Question) -> str:
        return read(await model.complete(prompt_of(question, "rubric", 300)))[0]

    found = Counter(
        [one for at in range(0, 400, 20) for one in await asyncio.gather(*map(verdict, questions[at : at + 20]))]
    )
    await model.close()
    assert 105 <= found["B"] + found["tie"] <= 178
    assert min(found["B"], found["tie"]) > 30


def test_judges_read_the_last_two_marks() -> None:
    assert compare("Before: [quality 1.0]. A: [quality 0.25] B: [quality 0.5]") == Finding("B", 0.25, 0.5)
    assert compare("only [quality 0.4]") == Finding("tie", 0.4, 0.4)
    assert compare("none") == Finding("tie")


def test_a_schema_is_filled_by_the_kind_of_each_property() -> None:
    schema = {
        "$defs": {"Verdict": {"enum": ["first", "second", "equal"]}},
        "type": "object",
        "properties": {
            "verdict": {"$ref": "#/$defs/Verdict"},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "score_b": {"type": "number"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "version": {"const": 2},
            "list": {"type": "array"},
        },
    }
    filled = json.loads(fill(schema, Finding("B", 0.5, 0.75), "because"))
    assert filled == {"verdict": "second", "score": 3, "score_b": 0.75, "note": "because", "version": 2, "list": []}


class TestChecks:
    MESSAGES = ({"role": "user", "content": "Why?"},)
    BODY: dict[str, Any] = {"model": "gemma-2-9b-it", "max_tokens": 10, "messages": list(MESSAGES)}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({}, 200),
            ({"max_tokens": None}, 400),
            ({"max_tokens": 0}, 400),
            ({"messages": []}, 400),
            ({"messages": [{"role": "system", "content": "x"}]}, 400),
            ({"temprature": 1}, 400),
            ({"temperature": 1.5}, 400),
            ({"model": "gpt-unknown"}, 404),
        ],
        ids=str,
    )
    def test_anthropics(self, server: Loopback, change: dict[str, Any], status: int) -> None:
        url = f"{server.anthropic_url}/v1/messages"
        found, reply = post(url, self.BODY | change, x_api_key="any", anthropic_version="2023-06-01")
        assert found == status, reply
        assert reply["type"] == ("message" if status == 200 else "error")

    def test_anthropics_headers(self, server: Loopback) -> None:
        url = f"{server.anthropic_url}/v1/messages"
        assert post(url, self.BODY, anthropic_version="2023-06-01")[0] == 401
        assert post(url, self.BODY, x_api_key="any")[0] == 400
        assert post(url, b"{", x_api_key="any", anthropic_version="2023-06-01")[0] == 400

    @pytest.mark.parametrize(
        ("change", "status"),
        [({}, 200), ({"messages": []}, 400), ({"max_tokens": 0}, 400), ({"foo": 1}, 400), ({"model": "nope"}, 404)],
        ids=str,
    )
    def test_openais(self, server: Loopback, change: dict[str, Any], status: int) -> None:
        url = f"{server.openai_url}/chat/completions"
        assert post(url, self.BODY | change, authorization="Bearer any")[0] == status
        assert post(url, self.BODY | change)[0] == 401

    def test_both_list_their_models(self, server: Loopback) -> None:
        with anthropic.Anthropic(base_url=server.anthropic_url, api_key="any") as one:
            first = [model.id for model in one.models.list()]
        with openai.OpenAI(base_url=server.openai_url, api_key="any") as other:
            assert [model.id for model in other.models.list()] == first
        assert {"gemma-2-9b-it", "loopback-judge", "loopback-slow"} <= set(first)


async def test_the_ledger_counts_and_keeps(server: Loopback) -> None:
    server.ledger.clear()
    name = "anthropic:codegemma-7b@100ms"
    await asyncio.gather(*(ask(server, name, f"{n}?") for n in range(3)))
    ledger = server.ledger
    assert (ledger.count("codegemma-7b@100ms"), ledger.count("other"), ledger.in_flight()) == (3, 0, 0)
    assert 1 <= ledger.peak("codegemma-7b@100ms") <= 3
    headers = ledger.entries()[0].headers
    assert "any" in (headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer "))


def test_a_world_has_models_of_its_own() -> None:
    world = World(models={"mine": 1.0})
    assert world.quality("mine", "Why?") == 1.0
    assert world.quality("gemma-2-9b-it", "[prompt 999999] beyond the data") <= 1


def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "router.llm.loopback", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split("OPENAI_BASE_URL=")[1].strip()
        with openai.OpenAI(base_url=url, api_key="any") as client:
            assert client.models.list().data
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("name", ["gemma", "vertex:gemma", "openai:", ":gpt"])
def test_a_model_without_a_known_provider_is_refused(name: str) -> None:
    with pytest.raises(UnknownModel, match="write provider:model, with the provider one of anthropic, openai"):
        model_of(name, api_key="any")


@pytest.mark.parametrize(("provider", "key"), [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")])
def test_a_missing_key_is_named(provider: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnknownModel, match=f"needs an API key: set {key}"):
        model_of(f"{provider}:any")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UnknownModel, match=r'pip install "bandit-router\[openai\]"'):
        model_of("openai:gpt-5-mini", api_key="any")


def test_importing_the_package_loads_no_sdk() -> None:
    program = "import sys, router.llm; assert not {'anthropic', 'openai', 'uvicorn'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
