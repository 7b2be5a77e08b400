"""The report of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from router.llm.evaluate.arms import control_in
from router.llm.evaluate.findings import (
    LEVEL,
    ArmFindings,
    Difference,
    Record,
    arm_findings,
    differences,
    scores_of,
)
from router.llm.report import Interval, IntervalPlot, Report, Table
from router.llm.report_axis import number
from router.llm.report_text import shortened

_FEW_ITEMS: Final = 30
_MANY_ERRORS: Final = 0.05
_MANY_CUT: Final = 0.05
_WORST: Final = 10
_CUT: Final = frozenset({"max_tokens", "length"})
_REFUSED: Final = frozenset({"refusal", "content_filter"})


@dataclass(frozen=True, slots=True)
class Reading:
    """How a journal is to be read."""

    #: The arm that others are compared with; None: the control of the experiment, or its first arm.
    control: str | None = None
    #: What an error counts as; None: nothing.
    errors_score: float | None = None
    #: The difference of mean scores that the sample-size hint is about.
    effect: float = 0.05


def summarise(record: Record, reading: Reading) -> Report:
    """Return the report of a journal: the same for the same answers, in whatever order they came."""
    control = reading.control or control_in({arm: about["role"] for arm, about in record.settings["arms"].items()})
    scores = scores_of(record, reading.errors_score)
    found = {arm: arm_findings(record, arm, scores[arm]) for arm in record.arms}
    compared = differences(record, control, scores, reading.effect)
    return Report(
        title=f"{record.settings['experiment']}: offline evaluation",
        summary=_summary(record, control, found, compared),
        facts=_facts(record, control, reading),
        plots=_plots(record, control, found, compared),
        tables=[
            _arm_table(found),
            _difference_table(compared, reading.effect),
            *_worst_tables(record, control, compared),
            *_check_error_table(record),
        ],
        warnings=list(_warnings(record, control, found, compared)),
        data=_data(record, control, reading, found, compared),
    )


def _summary(record: Record, control: str, found: dict[str, ArmFindings], compared: Sequence[Difference]) -> str:
    if not record.results:
        return "No answers yet."
    check = record.checks[0]
    said = [_sentence(one, control) for one in compared if one.check == check]
    if not said:
        mean = found[control].means[check]
        return f"{control} scores {number(mean.estimate)} on {check}; there is no other arm to compare it with."
    return " ".join(said)


def _sentence(one: Difference, control: str) -> str:
    comparison = one.comparison
    if comparison is None:
        return f"{one.arm} and {control} have no items in common on {one.check}."
    numbers = f"({_range(comparison.lower, comparison.upper)}, p {_p(one.p)}, {comparison.n:,} items)"
    if one.verdict == "no difference shown":
        said = f"No difference is shown between {one.arm} and {control}"
    else:
        said = f"{one.arm} is {one.verdict} than {control}"
    return f"{said} on {one.check}: {_signed(comparison.estimate)} {numbers}."


def _facts(record: Record, control: str, reading: Reading) -> dict[str, str]:
    settings = record.settings
    errors = "left out" if reading.errors_score is None else f"counted as {reading.errors_score:g}"
    facts = {
        "dataset": f"{settings['dataset']['name']}, {settings['dataset']['items']:,} items",
        "answers": f"{len(record.results):,} of {record.planned:,} ({settings['samples']} for each item and arm)",
        "checks": ", ".join(record.checks),
        "control": control,
        "errors": errors,
        "comparison": f"paired by item; intervals hold at once with {LEVEL:.0%}; p by changed places, adjusted (Holm)",
    }
    for arm, about in settings["arms"].items():
        facts[f"arm {arm}"] = f"{about['provider']}:{about['model']} ({about['role']})"
    if settings["prices"]:
        facts["charged"] = f"${record.charged_usd:,.4f}, calls that failed at their worst case"
    return facts


def _plots(
    record: Record, control: str, found: dict[str, ArmFindings], compared: Sequence[Difference]
) -> Sequence[IntervalPlot]:
    plots = []
    for check in record.checks:
        rows = [
            Interval(arm, mean.estimate, mean.lower, mean.upper, mean.items, _errors_note(findings))
            for arm, findings in found.items()
            for mean in [findings.means[check]]
        ]
        plots.append(IntervalPlot(f"Mean score: {check}", rows, axis="mean score of the items"))
        against = [_interval(one) for one in compared if one.check == check]
        if against:
            plots.append(IntervalPlot(f"Difference to {control}: {check}", against, 0.0, "difference of mean scores"))
    return plots


def _interval(one: Difference) -> Interval:
    if one.comparison is None:
        return Interval(one.arm, None, -1.0, 1.0, 0, one.verdict)
    return Interval(
        one.arm, one.comparison.estimate, one.comparison.lower, one.comparison.upper, one.comparison.n, one.verdict
    )


def _errors_note(findings: ArmFindings) -> str:
    return f"{findings.error_rate:.1%} errors" if findings.errors else ""


def _arm_table(found: dict[str, ArmFindings]) -> Table:
    columns = ["arm", "answers", "errors", "p50 latency", "p95 latency", "tokens in", "tokens out", "cost per answer"]
    rows = []
    for arm, findings in found.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in findings.error_kinds.items())
        rows.append(
            [
                arm,
                f"{findings.results - findings.errors:,}",
                f"{findings.error_rate:.1%}" + (f" ({kinds})" if kinds else ""),
                _unit(findings.latency_p50_s, ".3f", " s"),
                _unit(findings.latency_p95_s, ".3f", " s"),
                _unit(findings.input_tokens, ",.1f"),
                _unit(findings.output_tokens, ",.1f"),
                _unit(findings.cost_usd, ".6f", before="$"),
            ]
        )
    return Table("Arms", columns, rows)


def _difference_table(compared: Sequence[Difference], effect: float) -> Table:
    columns = ["arm", "check", "difference", "interval", "p", "verdict", "won", "lost", "items", f"items to show {effect:g}"]
    rows = []
    for one in compared:
        if one.comparison is None:
            rows.append([one.arm, one.check, "unknown", "", "", one.verdict, "", "", "0", "unknown"])
            continue
        c = one.comparison
        span = f"{c.lower:+.3f} to {c.upper:+.3f}"
        won = [f"{c.wins:,}", f"{c.losses:,}", f"{c.n:,}", f"{one.items_needed or 0:,}"]
        rows.append([one.arm, one.check, _signed(c.estimate), span, _p(one.p).removeprefix("= "), one.verdict, *won])
    return Table("Differences to the control", columns, rows)


def _worst_tables(record: Record, control: str, compared: Sequence[Difference]) -> list[Table]:
    """Return for each arm the items where it loses most, with what both answered."""
    answers: dict[tuple[str, str], str] = {}
    prompts: dict[str, str] = {}
    for result in record.results:
        answers.setdefault((result.item, result.arm), result.answer if result.answer is not None else f"({result.error})")
        prompts.setdefault(result.item, result.prompt)
    tables = []
    for one in compared:
        rows = [
            [item, prompts[item], number(ours), number(theirs), answers[item, one.arm], answers[item, control]]
            for item, ours, theirs in one.worst[:_WORST]
        ]
        columns = ["item", "prompt", one.arm, control, f"answer of {one.arm}", f"answer of {control}"]
        if rows:
            tables.append(Table(f"Where {one.arm} loses most: {one.check}", columns, _short(rows)))
    return tables


def _check_error_table(record: Record) -> list[Table]:
    rows = [
        [result.item, result.arm, check, message]
        for result in record.results
        for check, message in result.check_errors.items()
    ]
    if not rows:
        return []
    return [Table("Checks that came to no score (the first)", ["item", "arm", "check", "error"], _short(rows[:_WORST]))]


def _warnings(record: Record, control: str, found: dict[str, ArmFindings], compared: Sequence[Difference]) -> Iterable[str]:
    missing = record.planned - len(record.results)
    if missing:
        yield f"{missing:,} of {record.planned:,} answers are missing: run the same command again to get them"
    few = [one.comparison.n for one in compared if one.comparison is not None and one.comparison.n < _FEW_ITEMS]
    if few:
        yield f"few items: {min(few)} in a comparison; below {_FEW_ITEMS} only large differences show"
    for arm, findings in found.items():
        if findings.error_rate > _MANY_ERRORS:
            rate = f"{findings.error_rate:.1%}"
            yield f"{arm}: {rate} of the calls failed: if hard items fail more often, its score is too good"
        answers = findings.results - findings.errors
        cut = sum(count for reason, count in findings.stop_reasons.items() if reason in _CUT)
        if cut > _MANY_CUT * answers:
            yield f"{arm}: {cut:,} of {answers:,} answers were cut at max_tokens"
        refused = sum(count for reason, count in findings.stop_reasons.items() if reason in _REFUSED)
        if refused > _MANY_CUT * answers:
            yield f"{arm}: {refused:,} of {answers:,} answers were refusals"
    failed = sum(len(result.check_errors) for result in record.results)
    if failed:
        yield f"{failed:,} checks came to no score; those answers are left out of that check"
    for judge, family in record.settings["judges"].items():
        related = [arm for arm, about in record.settings["arms"].items() if about["family"].lower() == family.lower()]
        if related:
            yield f"{judge} is of the family of {', '.join(related)} ({family}): judges favour their own"


def _data(
    record: Record, control: str, reading: Reading, found: dict[str, ArmFindings], compared: Sequence[Difference]
) -> dict[str, Any]:
    return {
        "settings": record.settings,
        "control": control,
        "errors_score": reading.errors_score,
        "effect": reading.effect,
        "level": LEVEL,
        "answers": len(record.results),
        "planned": record.planned,
        "charged_usd": record.charged_usd,
        "arms": {arm: {**asdict(findings), "error_rate": findings.error_rate} for arm, findings in found.items()},
        "differences": [{**asdict(one), "worst": [list(row) for row in one.worst[:_WORST]]} for one in compared],
    }


def _short(rows: list[list[str]]) -> list[list[str]]:
    return [[shortened(cell, 160) for cell in row] for row in rows]


def _unit(value: float | None, form: str, after: str = "", before: str = "") -> str:
    return "unknown" if value is None else f"{before}{value:{form}}{after}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _range(lower: float, upper: float) -> str:
    return f"{lower:+.3f} to {upper:+.3f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
