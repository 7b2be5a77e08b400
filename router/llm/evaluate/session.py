"""An evaluation from its settings to its journal: everything is checked before the first call."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from router.llm.anthropic_model import DEFAULT_MAX_TOKENS
from router.llm.budget import Budget
from router.llm.evaluate.arms import Arm, arms_of
from router.llm.evaluate.caller import Asked, Caller
from router.llm.evaluate.checks import Check, Tally, plain_check
from router.llm.evaluate.dataset import Dataset, Item, open_dataset
from router.llm.evaluate.errors import EvaluationError
from router.llm.evaluate.journal import Journal, Result
from router.llm.evaluate.judge import MAX_TOKENS, RUBRIC, Judge
from router.llm.evaluate.prices import price_of
from router.llm.evaluate.runner import Run
from router.llm.models import Completion, Model, Price, Prompt
from router.llm.providers import UnknownModel, model_of
from router.v1.experiments_pb2 import Experiment

#: "provider:model" and the timeout of a call give a model.
Connect = Callable[[str, float], Model]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    dataset: Path
    out: Path
    checks: Sequence[str]
    #: Arms to evaluate; empty for all.
    only: Sequence[str] = ()
    #: Providers by arm, and addresses by provider.
    providers: Mapping[str, str] = field(default_factory=dict)
    base_urls: Mapping[str, str] = field(default_factory=dict)
    samples: int = 1
    concurrency: int = 8
    attempts: int = 5
    timeout_s: float = 60.0
    max_cost_usd: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    rubric: str = RUBRIC
    #: The judges' family, where it is not their provider's name.
    judge_family: str | None = None
    allow_same_family: bool = False
    retry_errors: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done: int
    planned: int
    errors: int
    charged_usd: float


class _Checks:
    """The checks of a run and of its items, each made once, when its name first appears."""

    def __init__(self, options: Options, arms: Sequence[Arm]) -> None:
        self.made: dict[str, Check] = {}
        self._wrong: dict[str, str] = {}
        #: The judges' models, by check; connected once everything else is in order.
        self.judge_models: dict[str, str] = {}
        self._options = options
        self._arms = arms
        self.ask: Callable[[str, Prompt, Tally], Any] | None = None

    def accept(self, item: Item) -> str | None:
        """Return what is wrong with an item's checks, or with the item for its checks."""
        names = item.checks or self._options.checks
        if not names:
            return "has no checks, and the run has none either: give --check"
        for name in names:
            if name not in self.made and name not in self._wrong:
                try:
                    self.made[name] = self._make(name)
                except EvaluationError as error:
                    self._wrong[name] = str(error)
            wrong = self._wrong.get(name) or self.made[name].lacks(item)
            if wrong:
                return wrong
        return None

    def make(self, name: str) -> None:
        """Make a check of the run. Raises EvaluationError."""
        self.made[name] = self._make(name)

    def _make(self, name: str) -> Check:
        kind, _, model_name = name.partition(":")
        if kind != "judge":
            return plain_check(name)
        provider, _, model = model_name.partition(":")
        if provider not in ("anthropic", "openai") or not model:
            raise EvaluationError(f"check {name!r}: write judge:PROVIDER:MODEL, with the provider anthropic or openai")
        self._check_family(name, model, self.family(name))
        self.judge_models[name] = model_name

        async def ask(prompt: Prompt, tally: Tally) -> Completion:
            assert self.ask is not None  # noqa: S101 - set before the first call
            completion: Completion = await self.ask(name, prompt, tally)
            return completion

        return Judge(name, self._options.rubric, ask)

    def family(self, name: str) -> str:
        """Return the family of a judge."""
        return self._options.judge_family or name.split(":")[1]

    def _check_family(self, name: str, model: str, family: str) -> None:
        related = [arm.id for arm in self._arms if arm.family.lower() == family.lower() or arm.model == model]
        if related and not self._options.allow_same_family:
            raise EvaluationError(
                f"check {name!r}: the judge is of the family of {', '.join(related)} ({family}), and judges favour "
                "their own: choose one of another family, name its family with --judge-family, or say --allow-same-family"
            )


async def evaluate(
    experiment: Experiment,
    options: Options,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    connect: Connect | None = None,
    rng: random.Random | None = None,
    sleep: Callable[[float], Any] = asyncio.sleep,
) -> bool:
    """Get the answers that the journal lacks; False where the cost cap ended the run first. Raises EvaluationError."""
    arms = arms_of(experiment, options.only, options.providers)
    checks = _Checks(options, arms)
    for name in options.checks:
        checks.make(name)
    dataset = open_dataset(options.dataset, checks.accept)
    _check_budget(options, arms, checks.judge_models)
    models = _Models(connect or _connect(options), options.timeout_s)
    try:
        asked = {arm.id: _asked(models.get(arm.model_name), arm.model_name, options, _limit(arm)) for arm in arms}
        judges = {name: _asked(models.get(model), model, options, MAX_TOKENS) for name, model in checks.judge_models.items()}
        settings = _settings(experiment, options, arms, checks, dataset)
        journal = Journal.open(options.out, settings)
        try:
            budget = Budget(options.max_cost_usd, journal.charged_usd)
            caller = Caller(budget, options.attempts, rng or random.Random(), sleep)  # noqa: S311 - pauses are no secret
            checks.ask = lambda name, prompt, tally: caller.ask(judges[name], prompt, tally)
            run = Run(
                dataset=dataset,
                arms=arms,
                asked=asked,
                checks=checks.made,
                default_checks=options.checks,
                judges=judges,
                rubric=options.rubric,
                samples=options.samples,
                journal=journal,
                caller=caller,
                retry_errors=options.retry_errors,
            )

            def tell(result: Result | None = None) -> None:
                on_progress(Progress(len(journal.done), run.planned, journal.errors, budget.spent_usd))

            tell()
            return await run.perform(options.concurrency, tell)
        finally:
            journal.close()
    finally:
        await models.close()


class _Models:
    """The models of a run, each connected once."""

    def __init__(self, connect: Connect, timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._models: dict[str, Model] = {}

    def get(self, name: str) -> Model:
        """Return the model "provider:model". Raises EvaluationError."""
        if name not in self._models:
            try:
                self._models[name] = self._connect(name, self._timeout_s)
            except UnknownModel as error:
                raise EvaluationError(str(error)) from error
        return self._models[name]

    async def close(self) -> None:
        """Let go of all connections."""
        for model in self._models.values():
            await model.close()


def _connect(options: Options) -> Connect:
    def connect(name: str, timeout_s: float) -> Model:
        provider = name.partition(":")[0]
        base_url = options.base_urls.get(provider) or options.base_urls.get("")
        return model_of(name, base_url, timeout_s=timeout_s)

    return connect


def _asked(model: Model, name: str, options: Options, max_tokens: int | None) -> Asked:
    return Asked(model, price_of(name, options.prices), max_tokens)


def _limit(arm: Arm) -> int | None:
    """Return the longest answer of an arm, also where its provider's interface wants a limit and has a default."""
    return arm.max_tokens or (DEFAULT_MAX_TOKENS if arm.provider == "anthropic" else None)


def _check_budget(options: Options, arms: Sequence[Arm], judge_models: Mapping[str, str]) -> None:
    """See that a cap can be kept: every model has a price, and every answer a limit. Raises EvaluationError."""
    if options.max_cost_usd is None:
        return
    names = [*(arm.model_name for arm in arms), *judge_models.values()]
    unknown = sorted({name for name in names if price_of(name, options.prices) is None})
    if unknown:
        raise EvaluationError(f"--max-cost-usd needs the prices of {', '.join(unknown)}: list them in the file of --prices")
    endless = [arm.id for arm in arms if _limit(arm) is None]
    if endless:
        raise EvaluationError(
            f"--max-cost-usd needs a limit on the length of answers: set max_tokens in the config of {', '.join(endless)}"
        )


def _settings(
    experiment: Experiment, options: Options, arms: Sequence[Arm], checks: _Checks, dataset: Dataset
) -> dict[str, Any]:
    """Return what the answers and scores of a journal depend on; a run with other settings may not go on with it."""
    judges = {name: checks.family(name) for name in sorted(checks.judge_models)}
    names = sorted({arm.model_name for arm in arms} | set(checks.judge_models.values()))
    prices = {name: asdict(price) for name in names if (price := price_of(name, options.prices)) is not None}
    return {
        "experiment": experiment.experiment_id,
        "dataset": {"name": dataset.path.name, "items": dataset.items, "sha256": dataset.digest},
        "arms": {arm.id: {key: value for key, value in asdict(arm).items() if key != "id"} for arm in arms},
        "checks": list(options.checks),
        "files": {name: digest for name in sorted(checks.made) if (digest := _digest(name))},
        "judges": judges,
        "rubric": options.rubric if judges else "",
        "samples": options.samples,
        "prices": prices,
    }


def _digest(name: str) -> str | None:
    """Return the SHA-256 of the file that a check is made of, its schema or its module; None for other checks."""
    kind, _, rest = name.partition(":")
    file: str | None = rest if kind == "json_schema" else None
    if kind == "python":
        file = getattr(sys.modules[rest.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
