"""Checks: what answers are worth, and which checks cannot be made."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.llm.evaluate.checks import CheckError, Tally, normalised, plain_check, score_of, unfenced
from router.llm.evaluate.dataset import Item
from router.llm.evaluate.errors import EvaluationError
from router.llm.evaluate.judge import Judge, judge_prompt
from router.llm.models import Completion, ModelError, Prompt


def item(expected: Any = None, prompt: str = "2+2?") -> Item:
    return Item("a", 1, [{"role": "user", "content": prompt}], expected=expected)


async def score(name: str, answer: str, expected: Any = None) -> float:
    check = plain_check(name)
    assert check.name == name
    assert check.lacks(item(expected)) is None
    return await check.score(item(expected), answer, Tally())


@pytest.mark.parametrize(
    ("answer", "expected", "loose", "strict"),
    [
        ("Paris", "Paris", 1, 1),
        ("  paris.\n", "Paris", 1, 0),
        ("Paris, France", "Paris", 0, 0),
        ("STRASSE", "straße", 1, 0),
        ("cafe\u0301", "café", 1, 0),
        ("a\tb\n c", "A b c", 1, 0),
        ("4", 4, 1, 1),
        ("4.5", 4.5, 1, 1),
        ("true", True, 1, 1),
        ("Oslo", ["Bergen", "Oslo"], 1, 1),
        ("", "Paris", 0, 0),
        ("...", "..", 0, 0),
    ],
)
async def test_exact_match(answer: str, expected: Any, loose: float, strict: float) -> None:
    assert await score("exact_match", answer, expected) == loose
    assert await score("exact_match:strict", answer, expected) == strict


@pytest.mark.parametrize(
    ("text", "form"), [("  A\u00a0b. ", "a b"), ("x..", "x."), (".", ""), ("ΑΣ", "ας".casefold()), ("e\u0301", "\u00e9")]
)
def test_normalisation(text: str, form: str) -> None:
    assert normalised(text) == form


@pytest.mark.parametrize("expected", [None, {}, [], [None], [["x"]]])
def test_exact_match_needs_something_to_compare_with(expected: Any) -> None:
    assert "needs expected" in str(plain_check("exact_match").lacks(item(expected)))


async def test_patterns() -> None:
    assert await score(r"regex:^\d+$", "42") == 1
    assert await score(r"regex:^\d+$", "forty-two") == 0
    assert await score("regex:a:b", "xa:by") == 1
    assert await score("regex", "the answer is 7", r"\b7\b") == 1
    assert await score("regex", "the answer is 77", r"\b7\b") == 0
    assert "needs expected" in str(plain_check("regex").lacks(item(7)))
    assert "not a regular expression" in str(plain_check("regex").lacks(item("(")))


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"n": 1}', 1),
        ('```json\n{"n": 1}\n```', 1),
        ('  ```\n{"n": 1}```\n', 1),
        ('{"n": "1"}', 0),
        ('{"n": 1, "m": 2}', 0),
        ('Here you are: {"n": 1}', 0),
        ('{"n": NaN}', 0),
        ("", 0),
        ("[" * 100_000, 0),
    ],
)
async def test_schemas(tmp_path: Path, answer: str, expected: float) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    assert await score(f"json_schema:{path}", answer) == expected


@pytest.mark.filterwarnings("error")
async def test_a_schema_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"$ref": "http://127.0.0.1:9/other.json"}')
    with pytest.raises(CheckError, match="refers to what it does not hold"):
        await score(f"json_schema:{path}", "{}")


FUNCTIONS = """
import asyncio
def length(item, answer): return len(answer) / 10
def same(item, answer): return item["expected"] == answer and item["id"] == "a" and item["prompt"] == "2+2?"
async def later(item, answer):
    await asyncio.sleep(0)
    return 0.25
def broken(item, answer): return {}["missing"]
def text(item, answer): return "good"
value = 3
"""


async def test_functions_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_checks_of_a_test.py").write_text(FUNCTIONS)
    (tmp_path / "own_checks_with_an_error.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = "python:own_checks_of_a_test:"
    assert await score(f"{own}length", "abcde") == 0.5
    assert await score(f"{own}same", "x", "x") == 1.0
    assert await score(f"{own}later", "x") == 0.25
    with pytest.raises(CheckError, match="KeyError: 'missing'"):
        await score(f"{own}broken", "x")
    with pytest.raises(CheckError, match="the score is 'good'"):
        await score(f"{own}text", "x")
    with pytest.raises(CheckError, match=r"the score is 2\.0"):
        await score(f"{own}length", "x" * 20)
    for name, said in [
        (f"{own}nothing", "AttributeError"),
        (f"{own}value", "is no function"),
        ("python:own_checks_with_an_error:f", "ZeroDivisionError"),
        ("python:no_such_module_at_all:f", "ModuleNotFoundError"),
    ]:
        with pytest.raises(EvaluationError, match=said):
            plain_check(name)


@pytest.mark.parametrize("value", [0, 1, True, 0.5, np.float32(0.5), np.bool_(True), np.int64(1)])
def test_scores(value: Any) -> None:
    assert score_of(value) == float(value)
    assert type(score_of(value)) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, None, "1", [], np.array([0.5]), 1j])
def test_what_is_no_score(value: Any) -> None:
    with pytest.raises(CheckError, match="it must be a number from 0 to 1"):
        score_of(value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exactmatch", r"unknown \(did you mean 'exact_match'\?\)"),
        ("bleu", "unknown: there are exact_match, regex"),
        ("exact_match:loose", "write exact_match or exact_match:strict"),
        ("regex:(", "not a regular expression"),
        ("json_schema", "write json_schema:FILE"),
        ("json_schema:/no/such/file", "cannot be read"),
        ("python:x", "write python:MODULE:FUNCTION"),
    ],
)
def test_checks_that_cannot_be_made(name: str, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        plain_check(name)


@pytest.mark.parametrize(
    ("content", "said"), [("{", "not JSON"), ("[]", "an object"), ('{"type": "strange"}', "no JSON Schema")]
)
def test_schemas_that_are_none(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=said):
        plain_check(f"json_schema:{path}")


def judge(reply: str | ModelError, stop_reason: str = "end_turn") -> tuple[Judge, list[Prompt]]:
    asked: list[Prompt] = []

    async def ask(prompt: Prompt, tally: Tally) -> Completion:
        asked.append(prompt)
        if isinstance(reply, ModelError):
            raise reply
        return Completion(reply, "judge", stop_reason, 1, 1, "", 0.1)

    return Judge("judge:openai:x", "be strict", ask), asked


async def test_a_judge_grades() -> None:
    grader, asked = judge('{"reason": "fine", "score": 0.75}')
    assert await grader.score(item("4"), "It is 4.", Tally()) == 0.75
    (prompt,) = asked
    text = prompt.messages[-1]["content"]
    assert "<request>\n2+2?\n</request>" in text
    assert "<reference>\n4\n</reference>" in text
    assert "<answer>\nIt is 4.\n</answer>" in text
    assert "be strict" in prompt.system
    assert prompt.schema is not None
    assert "<reference>" not in judge_prompt(item(), "x", "r").messages[-1]["content"]


@pytest.mark.parametrize(
    ("reply", "stop_reason", "said"),
    [
        ("great", "end_turn", "no JSON"),
        ('{"reason": "x"}', "end_turn", "no score"),
        ('{"score": true}', "end_turn", "no score"),
        ("[1]", "end_turn", "no score"),
        ('{"score": 7}', "end_turn", "the score is 7"),
        ('{"score": NaN}', "end_turn", "the score is nan"),
        ('{"score": "1"}', "end_turn", "the score is '1'"),
        ("I can't", "refusal", "refused"),
        (ModelError("rate_limit", "slow down"), "", "rate_limit: slow down"),
    ],
)
async def test_a_judge_that_gives_no_score(reply: str | ModelError, stop_reason: str, said: str) -> None:
    grader, _ = judge(reply, stop_reason)
    with pytest.raises(CheckError, match=said):
        await grader.score(item(), "x", Tally())


def test_fences_are_taken_off_whole_answers_only() -> None:
    assert unfenced("```json\n1\n```") == "1"
    assert unfenced("x ```1```") == "x ```1```"
