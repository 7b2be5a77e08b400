"""The planner as a command: what it prints is the plan, and bad input names the option and the rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bandit.planning import Plan, Question, Risk, plan
from router.cli.main import main

HOUR_US = 3_600_000_000
BRIEF = ["--baseline", "0.62", "--effect", "0.02", "--traffic", "5000/day", "--feedback-delay", "2h", "--risk", "low"]
WANTED = plan(Question(effect=0.02, baseline=0.62, traffic_per_day=5000.0, feedback_delay_us=2 * HOUR_US, risk=Risk.LOW))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def planned(*arguments: str) -> dict:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def same(document: dict, wanted: Plan) -> None:
    for one, strategy in zip(document["strategies"], wanted.strategies, strict=True):
        assert one["strategy"] == strategy.strategy.value
        forecast = strategy.forecast
        assert one["forecast"] == (None if forecast is None else {n: getattr(forecast, n) for n in forecast.__slots__})
        assert tuple(one["reasons"]) == strategy.reasons
    assert document["recommended"] == wanted.recommended.value
    assert document["then"] == (None if wanted.then is None else wanted.then.value)
    assert tuple(document["reasons"]) == wanted.reasons


def test_the_recommendation_comes_first_with_its_reasons() -> None:
    done = run(*BRIEF)
    assert done.exit_code == 0, done.output
    flat = " ".join(done.stdout.split())
    assert flat.startswith(f"Begin with a canary, then run a bandit: {'; '.join(WANTED.reasons)}.")
    assert "a difference of 0.02 from 0.62 (+3.23%), 2 arms, 5,000 decisions a day, feedback after 2 hours" in flat


def test_the_document_shows_what_the_command_prints() -> None:
    text = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
    shown = text.split("--picture plan.png\n")[1].split("```")[0]
    assert " ".join(run(*BRIEF).stdout.split()).startswith(" ".join(shown.split()))
    rows = [line.strip("| ").split(" | ") for line in text.split("| Strategy | Days |")[1].split("\n\n")[0].splitlines()[2:]]
    possible = [(one.strategy.value, one.forecast) for one in WANTED.strategies if one.forecast is not None]
    wanted = [(name, f.days, f.expected_regret, f.harm) for name, f in possible]
    assert [row[0] for row in rows] == [one[0] for one in wanted]
    for row, one in zip(rows, wanted, strict=True):
        assert float(row[1]) == pytest.approx(one[1], abs=0.05)
        assert [float(cell) for cell in row[2:]] == pytest.approx(one[2:], abs=0.5)


def test_the_table_has_every_strategy_with_its_figures() -> None:
    lines = run(*BRIEF).stdout.splitlines()
    rows = {}
    for row in lines:
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        if cells:
            rows[cells[0]] = cells[1:]
    assert list(rows) == ["offline", "shadow", "canary", "ab", "interleaving", "bandit"]
    for one in WANTED.strategies:
        f = one.forecast
        if f is None:
            assert rows[one.strategy.value][0] == "not possible"
            continue
        sample, days, lost, harm, wrong, miss = rows[one.strategy.value]
        assert int(sample.replace(",", "")) == f.sample_size
        assert float(days) == pytest.approx(f.days, abs=0.05)
        assert float(lost) == pytest.approx(f.expected_regret, abs=0.5)
        assert float(harm) == pytest.approx(f.harm, abs=0.5)
        assert wrong == ("no bound" if f.false_positive is None else f"{f.false_positive:.1%}")
        assert miss == f"{f.miss:.1%}"
    flat = " ".join(" ".join(lines).split())
    for one in WANTED.strategies:
        assert f"{one.strategy.value} says {one.answers}" in flat
        for reason in one.reasons:
            assert f"- {reason}" in flat


def test_the_document_is_the_plan() -> None:
    document = planned(*BRIEF)
    same(document, WANTED)
    assert document["advice"] == "Begin with a canary, then run a bandit"
    assert document["situation"]["risk"] == "low"
    assert document["history"] is None


def test_a_relative_effect_is_of_the_baseline() -> None:
    wanted = plan(Question(effect=0.62 * 0.03, baseline=0.62, traffic_per_day=5000.0, feedback_delay_us=0))
    rest = ["--baseline", "0.62", "--traffic", "5000/day", "--feedback-delay", "0s"]
    for effect in ("+3%", "3%", "3.0 %"):
        same(planned("--effect", effect, *rest), wanted)
    assert planned("--effect", ".03", *rest)["situation"]["effect"] == 0.03
    assert planned("--effect", "+0.03", *rest)["situation"]["effect"] == 0.03


@pytest.mark.parametrize(
    ("traffic", "a_day"),
    [("5000/day", 5000), ("5,000/d", 5000), ("200/hour", 4800), ("2.5/h", 60), ("3/s", 259_200), ("1/minute", 1440)],
)
def test_traffic_has_a_unit(traffic: str, a_day: float) -> None:
    document = planned("--baseline", "0.5", "--effect", "0.1", "--traffic", traffic, "--feedback-delay", "90m")
    assert document["situation"]["traffic_per_day"] == a_day
    assert document["situation"]["delay_days"] == pytest.approx(1.5 / 24)


def test_all_other_options_reach_the_plan() -> None:
    more = ["--arms", "4", "--alpha", "0.01", "--power", "0.9", "--horizon", "10d", "--judge-accuracy", "0.7"]
    wanted = plan(Question(0.02, 0.62, 5000.0, 2 * HOUR_US, Risk.LOW, 4, 0.01, 0.9, horizon_days=10.0, judge_accuracy=0.7))
    same(planned(*BRIEF, *more), wanted)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--effect", "0.02"], "--baseline is missing: give it, or an --experiment that has it"),
        (["--effect", "3%"], "--baseline is missing"),
        (["--effect", "0.02", "--baseline", "0.5"], "--traffic is missing"),
        (["--effect", "0.02", "--baseline", "0.5", "--traffic", "9/s"], "--feedback-delay is missing"),
        ([], "Missing option '--effect'"),
        ([*BRIEF, "--baseline", "1.2"], "--baseline: baseline is 1.2: it must be greater than 0 and less than 1"),
        ([*BRIEF, "--baseline", "nan"], "--baseline: baseline is nan"),
        ([*BRIEF, "--baseline", "good"], "'--baseline': 'good' is not a valid float"),
        ([*BRIEF, "--effect", "0"], "--effect: effect is 0.0: it must be greater than 0"),
        ([*BRIEF, "--effect", "0.5"], "--effect: effect is 0.5: baseline + effect must be less than 1, and the baseline is"),
        ([*BRIEF, "--effect", "-0.1"], "'--effect': '-0.1' is not an effect: write a difference of mean rewards, as 0.02"),
        ([*BRIEF, "--effect", "-3%"], "one relative to the baseline, as +3%"),
        ([*BRIEF, "--traffic", "5000"], "'--traffic': '5000' is not a number of decisions in a time: write it as 5000/day"),
        ([*BRIEF, "--traffic", "5/fortnight"], "'--traffic'"),
        ([*BRIEF, "--traffic", "0/day"], "--traffic: traffic_per_day is 0.0: it must be greater than 0, and finite"),
        ([*BRIEF, "--feedback-delay", "2"], "'--feedback-delay': '2' is not a duration: write it as 500ms, 30s, 10m, 2h"),
        ([*BRIEF, "--risk", "none"], "'none' is not one of 'low', 'medium', 'high'"),
        ([*BRIEF, "--arms", "1"], "--arms: arms is 1: it must be a whole number from 2 to 100, the control included"),
        ([*BRIEF, "--alpha", "0.5"], "--alpha: alpha is 0.5"),
        ([*BRIEF, "--power", "0.4"], "--power: power is 0.4"),
        ([*BRIEF, "--horizon", "0d"], "--horizon: horizon_days is 0.0"),
        ([*BRIEF, "--judge-accuracy", "0.5"], "--judge-accuracy: judge_accuracy is 0.5"),
        ([*BRIEF, "--picture", "x.gif"], "--picture x.gif: the name must end with .png, .svg or .pdf"),
        ([*BRIEF, "--start", "2026-11-22T10:00:00Z", "--end", "2026-11-22T10:00:00Z"], "must be before --end"),
        ([*BRIEF, "--start", "2026-11-22"], "does not say its time zone"),
        ([*BRIEF, "--start", "2026-11-22T10:00:00Z"], "--start: is of the past of an --experiment, which is missing"),
        ([*BRIEF, "--end", "2026-11-22T10:00:00Z"], "--end: is of the past of an --experiment, which is missing"),
    ],
)
def test_bad_input_names_the_option_and_the_rule(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_a_plan_is_drawn_on_request(tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    done = run(*BRIEF, "--picture", str(path))
    assert done.exit_code == 0, done.output
    assert f"wrote {path}" in done.stdout.replace("\n", "")
    assert path.read_bytes().startswith(b"<?xml")


def test_thin_traffic_has_one_step() -> None:
    document = planned("--baseline", "0.62", "--effect", "0.02", "--traffic", "20/day", "--feedback-delay", "0s")
    assert document["advice"] == "Run an offline evaluation"
    assert document["then"] is None
