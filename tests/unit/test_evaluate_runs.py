"""Runs: retries, budgets, journals that go on, and what is refused before the first call. Models are small functions."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router.config import load_experiment_file
from router.llm.budget import worst_usd
from router.llm.evaluate.errors import EvaluationError
from router.llm.evaluate.findings import read_record
from router.llm.evaluate.prices import load_prices, price_of
from router.llm.evaluate.session import Options, Progress, evaluate
from router.llm.models import Completion, ModelError, Price, Prompt
from router.v1.experiments_pb2 import Experiment

EXPERIMENT = """
experiment: support
arms:
  - {id: small, model: s-1, family: acme, role: control, config: {max_tokens: 100, temperature: 0.5, stream: true}}
  - {id: large, model: l-1, family: anthropic, config: {max_tokens: 200, system: Be brief.}}
"""
#: A dollar for a token.
DOLLAR = Price(1e6, 1e6)


@dataclass
class Fake:
    """A model: `answer` makes a text of a prompt, or raises."""

    name: str
    answer: Callable[[Prompt], str]
    asked: list[Prompt] = field(default_factory=list)
    tokens: tuple[int | None, int | None] = (10, 5)
    open_calls: int = 0
    peak: int = 0
    closed: bool = False

    async def complete(self, prompt: Prompt) -> Completion:
        self.asked.append(prompt)
        self.open_calls += 1
        self.peak = max(self.peak, self.open_calls)
        await asyncio.sleep(0)
        self.open_calls -= 1
        return Completion(self.answer(prompt), self.name, "end_turn", *self.tokens, "req", 0.25)

    async def close(self) -> None:
        self.closed = True


class World:
    """An experiment, a dataset and its models in a directory."""

    def __init__(self, directory: Path, items: int = 4) -> None:
        self.experiment = experiment(EXPERIMENT)
        self.models = {
            "openai:s-1": Fake("openai:s-1", lambda prompt: "no"),
            "anthropic:l-1": Fake("anthropic:l-1", lambda prompt: "yes"),
            "openai:judge": Fake("openai:judge", lambda prompt: '{"reason": "", "score": 0.5}'),
        }
        self.slept: list[float] = []
        self.progress: list[Progress] = []
        self.dataset = directory / "golden.jsonl"
        self.write(items)
        self.options = Options(self.dataset, directory / "results.jsonl", ["exact_match"], concurrency=3)

    def write(self, items: int) -> None:
        lines = [{"id": f"q{n}", "prompt": f"question {n}", "expected": "yes"} for n in range(items)]
        self.dataset.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @property
    def small(self) -> Fake:
        return self.models["openai:s-1"]

    @property
    def large(self) -> Fake:
        return self.models["anthropic:l-1"]

    async def run(self, **changes: Any) -> bool:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        return await evaluate(
            self.experiment,
            replace(self.options, **changes),
            self.progress.append,
            connect=lambda name, timeout_s: self.models[name],
            rng=random.Random(1),
            sleep=sleep,
        )

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.options.out.read_text().splitlines()[1:]]


def experiment(text: str) -> Experiment:
    return load_experiment_file(text).experiment


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def failing(*errors: ModelError, then: str = "yes") -> Callable[[Prompt], str]:
    left = list(errors)

    def answer(prompt: Prompt) -> str:
        if left:
            raise left.pop(0)
        return then

    return answer


async def test_every_arm_answers_every_item(world: World) -> None:
    assert await world.run()
    results = world.results()
    assert len(results) == 8
    assert {(one["item"], one["arm"]) for one in results} == {(f"q{n}", arm) for n in range(4) for arm in ("small", "large")}
    large = next(one for one in results if one["arm"] == "large")
    assert large["scores"] == {"exact_match": 1.0}
    assert (large["answer"], large["stop_reason"], large["input_tokens"], large["latency_s"]) == (
        "yes",
        "end_turn",
        10,
        0.25,
    )
    assert large["cost_usd"] is None
    assert all(one["scores"] == {"exact_match": 0.0} for one in results if one["arm"] == "small")
    assert world.progress[0].done == 0
    assert (world.progress[-1].done, world.progress[-1].planned, world.progress[-1].errors) == (8, 8, 0)
    assert world.small.closed


async def test_an_arm_is_asked_with_its_config(world: World) -> None:
    await world.run()
    small, large = world.small.asked[0], world.large.asked[0]
    # Whole numbers are whole again; how an answer travels is none of the arm's business.
    assert small.parameters == {"max_tokens": 100, "temperature": 0.5}
    assert type(small.parameters["max_tokens"]) is int
    assert large.parameters == {"max_tokens": 200}
    assert (small.system, large.system) == ("", "Be brief.")


async def test_samples_concurrency_and_chosen_arms(world: World) -> None:
    await world.run(samples=3, only=["large"], concurrency=2)
    assert len(world.results()) == 12
    assert world.small.asked == []
    assert world.large.peak == 2
    assert {one["sample"] for one in world.results()} == {0, 1, 2}


async def test_shadow_arms_take_part(world: World) -> None:
    world.experiment.arms[1].role = 3
    await world.run()
    assert len(world.large.asked) == 4
    assert read_record(world.options.out).settings["arms"]["large"]["role"] == "shadow"


async def test_failures_that_pass_are_tried_again(world: World) -> None:
    busy = ModelError("rate_limit", "slow down", retry_after_s=7.0, retryable=True)
    world.large.answer = failing(ModelError("overloaded", "later", retryable=True), busy)
    await world.run(only=["large"], concurrency=1)
    assert [one["error"] for one in world.results()] == [None] * 4
    assert len(world.large.asked) == 6
    # The first pause grows from half a second, half of it at random; the second is what was asked for, or a tenth more.
    assert 0.25 <= world.slept[0] <= 0.5
    assert 7.0 <= world.slept[1] <= 7.7


async def test_failures_that_stay_are_written_down(world: World) -> None:
    world.small.answer = failing(*[ModelError("server_error", "down", retryable=True)] * 3)
    world.large.answer = failing(ModelError("bad_request", "too long\nby far"))
    await world.run(attempts=3, concurrency=1)
    errors = {(one["item"], one["arm"]): one["error"] for one in world.results() if one["error"]}
    assert errors == {("q0", "small"): "server_error: down", ("q0", "large"): "bad_request: too long by far"}
    failed = next(one for one in world.results() if one["error"])
    assert (failed["answer"], failed["scores"], failed["checks"]) == (None, {}, ["exact_match"])
    assert world.progress[-1].errors == 2
    # What is journalled is not asked again, unless that is wanted.
    asked = len(world.small.asked)
    await world.run(attempts=3)
    assert len(world.small.asked) == asked
    await world.run(attempts=3, retry_errors=True)
    assert len(world.small.asked) == asked + 1
    assert world.progress[-1].errors == 0
    assert all(result.error is None for result in read_record(world.options.out).results)


async def test_a_server_that_wants_too_much_patience_is_given_up(world: World) -> None:
    world.large.answer = failing(ModelError("rate_limit", "come back tomorrow", retry_after_s=86_400.0, retryable=True))
    await world.run(only=["large"], concurrency=1)
    assert world.slept == []
    assert world.results()[0]["error"] == "rate_limit: come back tomorrow"


async def test_a_wrong_key_ends_the_run_and_not_the_journal(world: World) -> None:
    world.large.answer = failing(*[ModelError("authentication", "no such key")] * 20)
    with pytest.raises(EvaluationError, match="anthropic:l-1 cannot be asked: authentication: no such key"):
        await world.run()
    assert not any(one["error"] for one in world.results())
    world.large.answer = lambda prompt: "yes"
    assert await world.run()
    assert len(world.results()) == 8


async def test_a_checker_that_fails_is_reported_with_its_item(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_check_that_fails.py").write_text("def f(item, answer): return 1 / (item['id'] != 'q2')")
    monkeypatch.syspath_prepend(str(tmp_path))
    await world.run(checks=["python:own_check_that_fails:f", "exact_match"])
    failed = [one for one in world.results() if one["check_errors"]]
    (tmp_path / "own_check_that_fails.py").write_text("def f(item, answer): return 1")
    with pytest.raises(EvaluationError, match=r"files\.python:own_check_that_fails:f was"):
        await world.run(checks=["python:own_check_that_fails:f", "exact_match"])
    assert {one["item"] for one in failed} == {"q2"}
    assert failed[0]["check_errors"] == {"python:own_check_that_fails:f": "ZeroDivisionError: division by zero"}
    assert list(failed[0]["scores"]) == ["exact_match"]


async def test_items_may_have_checks_of_their_own(world: World) -> None:
    world.dataset.write_text(
        '{"id": "a", "prompt": "p", "checks": ["regex:y", "regex:n"]}\n{"id": "b", "prompt": "p", "expected": "yes"}\n'
    )
    await world.run()
    scores = {one["item"]: one["scores"] for one in world.results() if one["arm"] == "large"}
    assert scores == {"a": {"regex:y": 1.0, "regex:n": 0.0}, "b": {"exact_match": 1.0}}


@pytest.mark.parametrize("cut", [1, 7, 200])
async def test_a_torn_line_is_asked_for_again(world: World, cut: int) -> None:
    await world.run()
    whole = world.options.out.read_bytes()
    world.options.out.write_bytes(whole[:-cut])
    before = len(world.small.asked) + len(world.large.asked)
    await world.run()
    assert len(world.small.asked) + len(world.large.asked) == before + 1
    assert sorted(one["item"] + one["arm"] for one in world.results()) == sorted(
        f"q{n}{arm}" for n in range(4) for arm in ("small", "large")
    )


async def test_a_torn_header_begins_anew(world: World) -> None:
    await world.run()
    world.options.out.write_bytes(world.options.out.read_bytes()[:50])
    await world.run()
    assert len(world.results()) == 8


@pytest.mark.parametrize("content", [b"notes", b"notes\n", b'{"id": "a"}\n', b"[]\n", b'{"format": "other"}\n{}\n'])
async def test_a_file_that_is_no_journal_is_left_alone(world: World, content: bytes) -> None:
    world.options.out.write_bytes(content)
    with pytest.raises(EvaluationError, match="is no journal of an evaluation: choose another --out"):
        await world.run()
    assert world.options.out.read_bytes() == content


async def test_a_damaged_journal_is_refused(world: World) -> None:
    await world.run()
    lines = world.options.out.read_bytes().splitlines(keepends=True)
    for damage in (b"{broken\n", b'{"item": "q1"}\n'):
        world.options.out.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
        with pytest.raises(EvaluationError, match=r"results\.jsonl:3: .*damaged"):
            await world.run()
        with pytest.raises(EvaluationError, match=r"results\.jsonl:3: .*damaged"):
            read_record(world.options.out)


async def test_other_settings_are_refused_by_name(world: World) -> None:
    await world.run()
    journal = world.options.out.read_bytes()
    with pytest.raises(EvaluationError, match="samples was 1 and is 2"):
        await world.run(samples=2)
    with pytest.raises(EvaluationError, match=r"arms\.large was .* and is nothing"):
        await world.run(only=["small"])
    with pytest.raises(EvaluationError, match=r'checks was \["exact_match"\] and is \["regex:x"\]'):
        await world.run(checks=["regex:x"])
    world.experiment.arms[0].config["max_tokens"] = 50
    with pytest.raises(EvaluationError, match=r"arms\.small\.parameters\.max_tokens was 100 and is 50"):
        await world.run()
    world.write(5)
    with pytest.raises(EvaluationError, match=r"dataset\.items was 4 and is 5; dataset\.sha256 was"):
        await world.run()
    assert world.options.out.read_bytes() == journal
    assert len(world.small.asked) == 4


async def test_two_runs_do_not_share_a_journal(world: World) -> None:
    held: list[BaseException] = []

    def answer(prompt: Prompt) -> str:
        task = asyncio.get_running_loop().create_task(world.run())
        task.add_done_callback(lambda done: held.append(done.exception() or AssertionError("it ran")))
        return "yes"

    world.large.answer = answer
    await world.run(only=["large"], concurrency=1)
    await asyncio.sleep(0)
    assert held
    assert all("another evaluation is writing" in str(error) or "was" in str(error) for error in held)
    assert "another evaluation is writing" in str(held[0])


async def test_a_journal_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"missing/x: cannot be written \(No such file"):
        await world.run(out=tmp_path / "missing" / "x")
    with pytest.raises(EvaluationError, match="cannot be written"):
        await world.run(out=tmp_path)


def priced(world: World, **prices: Price) -> dict[str, Price]:
    return {"s-1": DOLLAR, "l-1": DOLLAR, **prices}


async def test_costs_are_counted(world: World) -> None:
    await world.run(prices={"s-1": Price(1e6, 2e6), "anthropic:l-1": DOLLAR})
    costs = {one["arm"]: one["cost_usd"] for one in world.results()}
    assert costs == {"small": pytest.approx(20.0), "large": pytest.approx(15.0)}
    assert world.progress[-1].charged_usd == pytest.approx(4 * 35.0)
    assert read_record(world.options.out).charged_usd == pytest.approx(4 * 35.0)


@pytest.mark.parametrize("cap", [1.0, 1500.0, 2000.0, 3000.0])
@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_the_cap_is_never_passed_even_at_worst(world: World, cap: float, concurrency: int) -> None:
    """Models that use all they may: the sum of what the calls could have cost stays below the cap."""
    world.write(10)
    prompt = Prompt([{"role": "user", "content": "question 0"}], parameters={"max_tokens": 100, "temperature": 0.5})
    worst = worst_usd(DOLLAR, prompt, 100)
    for model, limit in ((world.small, 100), (world.large, 200)):
        model.tokens = (int(worst) - 100, limit)
    finished = await world.run(prices=priced(world), max_cost_usd=cap, concurrency=concurrency)
    spent = sum(sum(t or 0 for t in model.tokens) * len(model.asked) for model in (world.small, world.large))
    assert spent <= cap
    assert not finished
    # It stopped because the next call might not have fitted, not long before.
    assert cap - spent < worst + 2 * 200
    assert spent == pytest.approx(sum(one["charged_usd"] for one in world.results()))


async def test_a_run_goes_on_with_a_larger_cap(world: World) -> None:
    large = Prompt([{"role": "user", "content": "question 0"}], "Be brief.", {"max_tokens": 200})
    cap = worst_usd(DOLLAR, large, 200) + 40.0
    assert not await world.run(prices=priced(world), max_cost_usd=cap, concurrency=1)
    # q0 of both arms and q1 of the small one cost 15 each; after that the worst case of the large one does not fit.
    assert len(world.results()) == 3
    # What was spent before counts: the same cap has no more room.
    assert not await world.run(prices=priced(world), max_cost_usd=cap, concurrency=1)
    assert len(world.results()) == 3
    assert await world.run(prices=priced(world), max_cost_usd=100_000.0)
    assert len(world.results()) == 8
    assert len(world.small.asked) + len(world.large.asked) == 8


async def test_a_call_that_may_have_been_billed_is_charged_at_worst(world: World) -> None:
    world.large.answer = failing(
        ModelError("timeout", "slow", retryable=True), ModelError("rate_limit", "busy", retryable=True)
    )
    await world.run(prices=priced(world), only=["large"], concurrency=1)
    first, second, *_ = world.results()
    prompt = world.large.asked[0]
    assert first["charged_usd"] == pytest.approx(15.0 + worst_usd(DOLLAR, prompt, 200))
    assert first["cost_usd"] == pytest.approx(15.0)
    assert second["charged_usd"] == pytest.approx(15.0)


async def test_a_retry_that_the_cap_does_not_cover(world: World) -> None:
    """A first attempt that may have been billed uses the budget up; with more of it, the same call is made again."""
    world.write(1)
    world.large.answer = failing(ModelError("timeout", "slow", retryable=True))
    options = {"prices": priced(world), "only": ["large"]}
    cap = worst_usd(DOLLAR, Prompt([{"role": "user", "content": "question 0"}], "Be brief.", {"max_tokens": 200}), 200) + 1
    assert not await world.run(**options, max_cost_usd=cap)
    (one,) = world.results()
    assert one["error"] == "budget: attempt 2 is not covered by the budget"
    assert one["charged_usd"] == pytest.approx(cap - 1)
    assert not await world.run(**options, max_cost_usd=cap)
    assert len(world.large.asked) == 1
    assert await world.run(**options, max_cost_usd=3 * cap)
    record = read_record(world.options.out)
    assert [result.answer for result in record.results] == ["yes"]
    assert record.charged_usd == pytest.approx(cap - 1 + 15.0)


async def test_unknown_tokens_are_charged_at_worst(world: World) -> None:
    world.large.tokens = (None, 5)
    await world.run(prices=priced(world), only=["large"])
    assert world.results()[0]["cost_usd"] is None
    assert world.results()[0]["charged_usd"] == pytest.approx(worst_usd(DOLLAR, world.large.asked[0], 200))


async def test_judges_are_paid_from_the_same_budget(world: World) -> None:
    prices = priced(world, judge=DOLLAR)
    options = {"checks": ["judge:openai:judge"], "prices": prices, "concurrency": 1}
    assert not await world.run(**options, max_cost_usd=3_000.0)
    assert world.models["openai:judge"].asked == []
    assert await world.run(**options, max_cost_usd=8_000.0)
    one = world.results()[0]
    assert one["scores"] == {"judge:openai:judge": 0.5}
    assert one["charged_usd"] == pytest.approx(30.0)
    assert one["cost_usd"] == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_cost_usd": 1.0}, "--max-cost-usd needs the prices of anthropic:l-1, openai:s-1"),
        (
            {"max_cost_usd": 1.0, "prices": {"s-1": DOLLAR, "l-1": DOLLAR}, "checks": ["judge:openai:judge"]},
            "needs the prices of openai:judge",
        ),
        ({"only": ["medium"]}, "--arm: 'medium' is no arm of support: small, large"),
        ({"providers": {"small": "bedrock"}}, "--provider: 'bedrock' of arm 'small' is unknown"),
        ({"providers": {"medium": "openai"}}, "--provider: 'medium' is no arm"),
        ({"checks": []}, r"golden.jsonl:1: has no checks"),
        ({"checks": ["bleu"]}, "check 'bleu' is unknown"),
        ({"checks": ["judge:judge"]}, "write judge:PROVIDER:MODEL"),
        ({"checks": ["judge:anthropic:big"]}, r"the judge is of the family of large \(anthropic\)"),
        ({"checks": ["judge:openai:big"], "judge_family": "ACME"}, r"the judge is of the family of small \(ACME\)"),
        ({"checks": ["judge:openai:l-1"]}, "the judge is of the family of large"),
    ],
)
async def test_what_is_refused_before_the_first_call(world: World, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        await world.run(**changes)
    assert world.small.asked == []
    assert not world.options.out.exists()


async def test_a_cap_needs_limits_of_answers(world: World) -> None:
    del world.experiment.arms[0].config["max_tokens"]
    with pytest.raises(EvaluationError, match="set max_tokens in the config of small"):
        await world.run(prices=priced(world), max_cost_usd=1.0)


async def test_a_judge_of_the_same_family_if_asked_for(world: World) -> None:
    world.models["anthropic:judge"] = world.models["openai:judge"]
    await world.run(checks=["judge:anthropic:judge"], allow_same_family=True)
    assert read_record(world.options.out).settings["judges"] == {"judge:anthropic:judge": "anthropic"}
    assert world.results()[0]["scores"] == {"judge:anthropic:judge": 0.5}


async def test_the_provider_of_an_arm_can_be_named(world: World) -> None:
    world.models["openai:l-1"] = world.large
    await world.run(providers={"large": "openai"})
    assert read_record(world.options.out).settings["arms"]["large"]["provider"] == "openai"
    assert len(world.large.asked) == 4


async def test_an_arm_without_a_model(world: World) -> None:
    world.experiment.arms[0].model = ""
    with pytest.raises(EvaluationError, match="arm 'small' has no model"):
        await world.run()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "must map models to prices"),
        ("[1]", "must map models to prices"),
        ("a: [", "not YAML"),
        ("a: {input_usd: 1}", "a: must have input_usd and output_usd"),
        ("a: {input_usd: -1, output_usd: 2}", "a.input_usd is -1"),
        ("a: {input_usd: .nan, output_usd: 2}", "a.input_usd is nan"),
        ("a: {input_usd: yes, output_usd: 2}", "a.input_usd is True"),
    ],
)
def test_prices_that_are_none(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(EvaluationError, match=said):
        load_prices(path)


def test_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("l-1: {input_usd: 3, output_usd: 15}\nopenai:l-1: {input_usd: 4, output_usd: 16.5}\n")
    prices = load_prices(path)
    assert price_of("anthropic:l-1", prices) == Price(3.0, 15.0)
    assert price_of("openai:l-1", prices) == Price(4.0, 16.5)
    assert price_of("openai:other", prices) is None


def test_the_worst_case_counts_bytes() -> None:
    short, long = (Prompt([{"role": "user", "content": text}]) for text in ("é" * 10, "é" * 1010))
    assert worst_usd(DOLLAR, long, 7) - worst_usd(DOLLAR, short, 7) == pytest.approx(2000.0)
    assert worst_usd(DOLLAR, short, 107) - worst_usd(DOLLAR, short, 7) == pytest.approx(100.0)
