"""What a journal says of each arm, and of each arm beside the control."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bandit.paired import Comparison, compare, holm, items_needed, mean_interval, paired_means
from router.llm.evaluate.errors import EvaluationError
from router.llm.evaluate.journal import Key, Result, read_journal
from router.llm.report_text import shortened

LEVEL: Final = 0.95
#: What is kept of an answer in memory.
_EXCERPT: Final = 300

#: Scores by item.
Scores = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Record:
    """A journal in memory: its settings, and the last result of each key without the length of its answer."""

    settings: Mapping[str, Any]
    #: In the order of item line, arm and sample, whatever the order in which they came.
    results: Sequence[Result]
    #: Over all attempts, also those that a later result replaced.
    charged_usd: float

    @property
    def arms(self) -> list[str]:
        """The arms, in the order of the experiment."""
        return list(self.settings["arms"])

    @property
    def checks(self) -> list[str]:
        """The checks of the run, then those that single items had."""
        own = dict.fromkeys(name for result in self.results for name in result.checks)
        return list(dict.fromkeys([*self.settings["checks"], *own]))

    @property
    def planned(self) -> int:
        """How many answers there are to get in all."""
        return int(self.settings["dataset"]["items"]) * len(self.arms) * int(self.settings["samples"])


@dataclass(frozen=True, slots=True)
class Mean:
    """An arm's mean score by one check."""

    #: None without a single score.
    estimate: float | None
    lower: float
    upper: float
    #: Items with a score.
    items: int


@dataclass(frozen=True, slots=True)
class ArmFindings:
    """What came of asking one arm."""

    results: int
    errors: int
    #: By check.
    means: Mapping[str, Mean]
    #: Median and 95th percentile of the calls that succeeded; None without one.
    latency_p50_s: float | None
    latency_p95_s: float | None
    #: Means over the answers whose server said so.
    input_tokens: float | None
    output_tokens: float | None
    #: Mean over the answers with a known cost.
    cost_usd: float | None
    #: How answers ended, and errors by kind.
    stop_reasons: Mapping[str, int]
    error_kinds: Mapping[str, int]

    @property
    def error_rate(self) -> float:
        """The share of calls that gave no answer."""
        return self.errors / self.results if self.results else 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm beside the control, by one check."""

    arm: str
    check: str
    #: None where no item has scores of both; its interval is one of several that hold at once.
    comparison: Comparison | None
    #: p, adjusted by Holm's procedure for all comparisons of the report.
    p: float
    #: "better", "worse", "no difference shown" or "no common items".
    verdict: str
    #: How many items in all would show the effect asked about.
    items_needed: int | None
    #: Items by how much the arm loses, the worst first: (item, score of the arm, score of the control).
    worst: Sequence[tuple[str, float, float]] = field(default=())


def read_record(path: Path) -> Record:
    """Read a journal. Raises EvaluationError."""
    last: dict[Key, Result] = {}
    charged = 0.0

    def keep(result: Result) -> None:
        nonlocal charged
        charged += result.charged_usd
        answer = None if result.answer is None else shortened(result.answer, _EXCERPT)
        last[result.key] = replace(result, answer=answer)

    settings = read_journal(path, keep)
    results = sorted(last.values(), key=lambda result: (result.line, result.arm, result.sample))
    return Record(settings, results, charged)


def scores_of(record: Record, errors_score: float | None) -> dict[str, dict[str, Scores]]:
    """Return the scores by arm, check and item. An error has none, or counts as `errors_score` in each check."""
    found: dict[str, dict[str, Scores]] = {arm: {check: defaultdict(list) for check in record.checks} for arm in record.arms}
    for result in record.results:
        failed = result.error is not None and errors_score is not None
        scores = dict.fromkeys(result.checks, errors_score) if failed else result.scores
        for check, score in scores.items():
            if score is not None:
                found[result.arm][check][result.item].append(score)
    return found


def arm_findings(record: Record, arm: str, scores: Mapping[str, Scores]) -> ArmFindings:
    """Return what came of asking an arm."""
    results = [result for result in record.results if result.arm == arm]
    answers = [result for result in results if result.error is None]
    latencies = [result.latency_s for result in answers if result.latency_s is not None]
    p50, p95 = (float(q) for q in np.quantile(latencies, [0.5, 0.95])) if latencies else (None, None)
    return ArmFindings(
        results=len(results),
        errors=len(results) - len(answers),
        means={check: _mean(scores[check]) for check in record.checks},
        latency_p50_s=p50,
        latency_p95_s=p95,
        input_tokens=_average([result.input_tokens for result in answers]),
        output_tokens=_average([result.output_tokens for result in answers]),
        cost_usd=_average([result.cost_usd for result in answers]),
        stop_reasons=dict(sorted(Counter(result.stop_reason for result in answers).items())),
        error_kinds=dict(sorted(Counter(str(result.error).partition(":")[0] for result in results if result.error).items())),
    )


def differences(record: Record, control: str, scores: Mapping[str, Mapping[str, Scores]], effect: float) -> list[Difference]:
    """Compare every arm with the control by every check. Raises EvaluationError if the control was not evaluated."""
    if control not in record.arms:
        raise EvaluationError(f"--control: {control!r} was not evaluated: {', '.join(record.arms)}")
    pairs = [(arm, check) for check in record.checks for arm in record.arms if arm != control]
    level = 1.0 - (1.0 - LEVEL) / max(1, len(pairs))
    found: list[tuple[str, str, Comparison | None, list[tuple[str, float, float]]]] = []
    for arm, check in pairs:
        items, of_arm, of_control = paired_means(scores[arm][check], scores[control][check])
        comparison = None
        if items:
            # A generator of its own for each comparison: the others do not change its p.
            rng = np.random.default_rng(zlib.crc32(f"{arm}\n{check}".encode()))
            comparison = compare(of_arm, of_control, rng, level)
        rows = list(zip(items, of_arm.tolist(), of_control.tolist(), strict=True))
        worst = sorted((row for row in rows if row[1] < row[2] - 1e-9), key=lambda row: (row[1] - row[2], row[0]))
        found.append((arm, check, comparison, worst))
    adjusted = iter(holm([comparison.p for _, _, comparison, _ in found if comparison is not None]).tolist())
    return [
        _difference(arm, check, comparison, next(adjusted) if comparison else 1.0, effect, worst)
        for arm, check, comparison, worst in found
    ]


def _difference(
    arm: str, check: str, comparison: Comparison | None, p: float, effect: float, worst: list[tuple[str, float, float]]
) -> Difference:
    if comparison is None:
        return Difference(arm, check, None, 1.0, "no common items", None)
    shown = p <= 1.0 - LEVEL
    verdict = "no difference shown" if not shown else "better" if comparison.estimate > 0.0 else "worse"
    return Difference(arm, check, comparison, p, verdict, items_needed(comparison.deviation, effect, LEVEL), worst)


def _mean(scores: Scores) -> Mean:
    means = [float(np.mean(found)) for _, found in sorted(scores.items()) if found]
    lower, upper = mean_interval(means, LEVEL)
    return Mean(float(np.mean(means)) if means else None, lower, upper, len(means))


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
