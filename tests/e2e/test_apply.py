"""Experiments as files: reviewed, applied, exported, and followed by an operator, against a running router."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from processes import COMMAND, Service, serving, wait_until

from router.cli.calls import ExperimentStub, read_if_there
from router.cli.main import main
from router.client import ModelAnswer, RouterClient
from router.v1 import experiments_pb2 as pb

TWO = """\
experiment: support
arms:
  - {id: a, model: model-a, role: control, config: {max_tokens: 1024}}
  - {id: b, model: model-b}
"""
RAMP = """\
ramp:
  stages:
    - {cap: 0.1, duration: 1h}
    - {cap: 1, duration: 1h}
  guardrails: [{metric: retry, limit: 0.2}]
  approval: true
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("service"), "--log-format", "json") as running:
        yield running
        # Every process logs as it was told to.
        lines = [json.loads(line) for line in running.log.splitlines()]
        assert {"time", "level", "logger", "message", "pid"} <= set.intersection(*(set(line) for line in lines))


def command(service: Service, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--server", service.target])


def ok(service: Service, *arguments: str | Path) -> str:
    done = command(service, *arguments)
    assert done.exit_code == 0, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done.stdout


def answer(service: Service, *arguments: str | Path) -> Any:
    return json.loads(ok(service, *arguments, "--json"))


def answered(service: Service, experiment_id: str) -> int:
    (found,) = answer(service, "status", experiment_id)["experiments"]
    return sum(int(arm["interactions"]) for arm in found["metrics"]["metrics"])


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_dry_run_says_what_would_change_and_changes_nothing(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, "dry.yaml", TWO.replace("support", "dry"))
    (planned,) = answer(service, "apply", "-f", file, "--dry-run")
    assert (planned["action"], planned["state"], planned["arms"], planned["dry_run"]) == ("created", "running", 2, True)
    assert "+experiment: dry" in planned["diff"]
    assert command(service, "export", "experiments", "dry").exit_code == 1, "nothing was made"

    assert ok(service, "apply", "-f", file) == "dry: created, running, 2 arms\n"
    before = ok(service, "export", "experiments", "dry")
    file.write_text(file.read_text().replace("model-b", "model-c") + "allocation: {floor: 0.05}\n")
    text = ok(service, "apply", "-f", file, "--dry-run")
    assert text.splitlines()[0] == "dry: would be updated, running, 2 arms"
    changed = [line[2:] for line in text.splitlines() if line.startswith(("  +", "  -")) and line[2:5] not in ("+++", "---")]
    assert changed == ["-  model: model-b", "+  model: model-c", "+allocation:", "+  floor: 0.05"]
    assert "  arm b becomes a new version, which learns afresh\n" in text
    assert "\x1b" not in text, "colours are for terminals"
    assert ok(service, "export", "experiments", "dry") == before

    (applied,) = answer(service, "apply", "-f", file)
    assert (applied["action"], applied["dry_run"]) == ("updated", False)
    (again,) = answer(service, "apply", "-f", file, "--dry-run")
    assert (again["action"], again["diff"], again["etag"]) == ("unchanged", "", applied["etag"])


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "ramp: {}\n",
        RAMP,
        "assignment: {kind: sticky_stored, ttl: 30d, holdout: 0.05}\n",
        "assignment: {kind: interleaved}\nallocation: {kind: uniform}\n",
        "rewards: {thumbs_up: 0.5, follow_up_question: null}\nderived: {retry_within: 10s, abandon_after: 30m}\n"
        "mature_after: 45m\nno_feedback: 0\n",
        "allocation: {kind: fixed, weights: {a: 0.7, b: 0.3}}\nassignment: {kind: sticky_hash}\nstate: draft\n",
    ],
)
def test_applying_an_export_changes_nothing(
    service: Service, tmp_path: Path, rest: str, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["rest"]
    file = written(tmp_path, "own.yaml", TWO.replace("support", f"round/{number}") + rest)
    (applied,) = answer(service, "apply", "-f", file)
    assert answer(service, "apply", "-f", file, "--dry-run")[0]["action"] == "unchanged"
    out = tmp_path / "out"
    (exported,) = answer(service, "export", "experiments", f"round/{number}", "-o", out)
    assert Path(exported["file"]) == out / f"round%2F{number}.yaml"
    (again,) = answer(service, "apply", "-f", out)
    assert (again["action"], again["etag"]) == ("unchanged", applied["etag"])
    assert Path(exported["file"]).read_text() == ok(service, "export", "experiments", f"round/{number}")


def test_nothing_changes_unless_every_file_is_right(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    written(tmp_path, "all/1-good.yaml", TWO.replace("support", "good"))
    written(tmp_path, "all/2-bad.yml", TWO.replace("support", "bad") + "ramp:\n  stagess: []\n")
    written(tmp_path, "all/3-worse.yaml", TWO.replace("support", "worse") + "mature_after: 8d\n")
    written(tmp_path, "all/.hidden.yaml", "not: read")
    written(tmp_path, "all/notes.txt", "not: read")
    done = command(service, "apply", "-f", folder)
    assert done.exit_code == 1
    assert f"{folder}/2-bad.yml:6: ramp.stagess: unknown key (did you mean 'stages'?)" in done.stderr
    assert f"{folder}/3-worse.yaml:5: mature_after: must be at most the attribution window" in done.stderr
    assert command(service, "export", "experiments", "good").exit_code == 1, "nothing was made"

    written(tmp_path, "all/2-bad.yml", TWO.replace("support", "good"))
    written(tmp_path, "all/3-worse.yaml", TWO.replace("support", "worse"))
    done = command(service, "apply", "-f", folder)
    assert done.exit_code == 1
    assert f"{folder}/2-bad.yml: experiment: 'good' is defined by {folder}/1-good.yaml too" in done.stderr
    (folder / "2-bad.yml").unlink()
    # A file that is named beside its directory is one file.
    found = answer(service, "apply", "-f", folder, folder / "3-worse.yaml")
    assert [(one["experiment_id"], one["action"]) for one in found] == [("good", "created"), ("worse", "created")]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: holds no *.yaml or *.yml file" in command(service, "apply", "-f", empty).stderr


def test_states_in_files(service: Service, tmp_path: Path) -> None:
    text = TWO.replace("support", "states")
    file = written(tmp_path, "states.yaml", text)
    for said, state, action in (
        ("state: draft\n", "draft", "created"),
        ("", "running", "updated"),
        ("state: paused\n", "paused", "updated"),
        ("", "paused", "unchanged"),
        ("state: draft\n", "paused", "unchanged"),
        ("state: running\n", "running", "updated"),
    ):
        file.write_text(text + said)
        (found,) = answer(service, "apply", "-f", file)
        assert (found["state"], found["action"]) == (state, action), said
    file.write_text(text + "state: paused\n")
    assert "-state: running" in ok(service, "apply", "-f", file)


SHADOWED = """experiment: shadowed
arms:
  - {id: a, role: control, model: model-a}
  - {id: b, model: model-b}
  - {id: s, role: shadow, model: model-s}
shadow: {rate: 1, text: off}
"""


def test_the_shadow_state_in_files(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, "shadowed.yaml", SHADOWED)
    for said, state, action in (
        ("state: draft\n", "draft", "created"),
        ("state: shadow\n", "shadow", "updated"),
        ("", "shadow", "unchanged"),
        ("state: paused\n", "shadow", "unchanged"),
        ("state: running\n", "running", "updated"),
        ("state: shadow\n", "shadow", "updated"),
        ("state: running\n", "running", "updated"),
        ("state: paused\n", "paused", "updated"),
        ("state: shadow\n", "shadow", "updated"),
    ):
        file.write_text(SHADOWED + said)
        (found,) = answer(service, "apply", "-f", file)
        assert (found["state"], found["action"]) == (state, action), said
    file.write_text(SHADOWED)
    assert "it is in state shadow and stays so; `state: running` in the file starts it" in ok(service, "apply", "-f", file)
    assert "shadow: 1 of the decisions are mirrored to b, s, text off" in ok(service, "status", "shadowed")
    exported = ok(service, "export", "experiments", "shadowed")
    assert "state: shadow" in exported
    file.write_text(exported)
    assert answer(service, "apply", "-f", file)[0]["action"] == "unchanged"
    with RouterClient(service.target) as client:
        decision = client.route("shadowed")
        assert (decision.arm.arm_id, [arm.arm_id for arm in decision.shadow_arms]) == ("a", ["b", "s"])
        answers = {"serving": ModelAnswer(text="one"), "shadow": ModelAnswer(text="two")}
        assert client.record_shadow(decision, "s", **answers)
        assert not client.record_shadow(decision, "s", **answers)
        assert client.route("shadowed", force_control=True).shadow_arms == ()


def test_an_arm_leaves_the_shadow_in_a_file(service: Service, tmp_path: Path) -> None:
    text = SHADOWED.replace("shadowed", "leaving")
    file = written(tmp_path, "leaving.yaml", text)
    ok(service, "apply", "-f", file)
    file.write_text(text.replace("id: s, role: shadow", "id: s").replace("id: b", "id: b, role: shadow"))
    (planned,) = answer(service, "apply", "-f", file, "--dry-run")
    assert planned["notes"] == ["arm b becomes a shadow arm, and answers no more", "arm s competes from now on"]
    # From the shadow state on, a definition without any shadow is started in one go, with a ramp if it has one.
    file.write_text(text + "state: shadow\n")
    ok(service, "apply", "-f", file)
    file.write_text(TWO.replace("support", "leaving") + RAMP + "state: running\n")
    assert answer(service, "apply", "-f", file)[0]["state"] == "running"
    assert "ramp of b: ramping, stage 1" in ok(service, "ramp", "status", "leaving")


def test_a_budget_needs_costs_before_the_shadow_state(service: Service, tmp_path: Path) -> None:
    text = SHADOWED.replace("shadowed", "costly").replace("text: off", "text: off, daily_budget_usd: 3")
    file = written(tmp_path, "costly.yaml", text.replace("id: s,", "id: s, cost_usd: 0.1,"))
    ok(service, "apply", "-f", file)
    file.write_text(file.read_text() + "state: shadow\n")
    done = command(service, "apply", "-f", file)
    assert done.exit_code == 1
    assert "arms[1].cost_usd: with shadow.daily_budget_usd each arm that is mirrored needs it" in done.stderr


def test_who_and_why_are_kept(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, "audit.yaml", TWO.replace("support", "audit"))
    ok(service, "apply", "-f", file, "--actor", "ann", "--reason", "a first try")
    file.write_text(file.read_text().replace("model-b", "model-c"))
    ok(service, "apply", "-f", file, "--reason", "the other model")
    found = answer(service, "transitions", "audit")
    assert [one["kind"] for one in found].count("KIND_DEFINITION") == 2
    assert found[0]["reason"] == "the other model"
    assert "@" in found[0]["actor"], "the user and the host, unless told otherwise"
    assert {(one["actor"], one["reason"]) for one in found[1:]} == {("ann", "a first try")}
    assert len(answer(service, "transitions", "audit", "--limit", "1")) == 1
    assert "the other model" in ok(service, "transitions", "audit")


def test_a_ramp_by_hand(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, "ramped.yaml", TWO.replace("support", "ramped") + RAMP)
    ok(service, "apply", "-f", file)
    shown = ok(service, "ramp", "status", "ramped")
    assert "ramp of b: ramping, stage 1 of 2, 0.05 to 0.1 of the traffic" in shown
    assert command(service, "ramp", "advance", "ramped").exit_code == 2, "a reason is needed"
    advanced = answer(service, "ramp", "advance", "ramped", "--reason", "it looks good", "--actor", "ann")
    assert (advanced["ramp_status"]["stage"], advanced["ramp_status"]["phase"]) == (1, "PHASE_RAMPING")
    assert advanced["ramp_status"]["cap"] == 1
    done = command(service, "ramp", "advance", "ramped", "--reason", "again")
    assert done.exit_code == 1
    assert "promote instead" in done.stderr
    assert answer(service, "ramp", "approve", "ramped", "--reason", "legal is fine")["ramp_status"]["approved"]
    promoted = answer(service, "ramp", "promote", "ramped", "--reason", "enough", "--actor", "bob")
    assert promoted["ramp_status"]["phase"] == "PHASE_PROMOTED"
    assert answer(service, "ramp", "abort", "ramped", "--reason", "a fire")["ramp_status"]["phase"] == "PHASE_ABORTED"
    moves = [(one["actor"], one["reason"]) for one in answer(service, "transitions", "ramped") if one["kind"] == "KIND_RAMP"]
    assert moves[0][1] == "a fire"
    assert moves[1] == ("bob", "enough")
    assert ("ann", "it looks good") in moves
    # Before it is applied, an operator reads what a change does to the ramp.
    for text, note in (
        (file.read_text().replace("model-b", "model-c"), "its ramp starts over"),
        (file.read_text().replace("cap: 0.1", "cap: 0.2"), "its ramp starts over"),
        (TWO.replace("support", "ramped"), "its ramp ends, and the challenger competes at once"),
        (file.read_text().replace("model-a", "model-c"), ""),
        (file.read_text().replace("approval: true", "strict: true"), ""),
    ):
        (planned,) = answer(service, "apply", "-f", written(tmp_path, "next.yaml", text), "--dry-run")
        assert [one for one in planned["notes"] if "ramp" in one] == ([note] if note else []), text
    # What an operator did by hand is no part of the definition.
    assert answer(service, "apply", "-f", file, "--dry-run")[0]["action"] == "unchanged"
    done = command(service, "ramp", "promote", "dry", "--reason", "none there", "--yes")
    assert done.exit_code == 1
    assert "no ramp" in done.stderr


def test_what_cannot_be_undone_is_asked_on_a_terminal(service: Service, tmp_path: Path) -> None:
    ok(service, "apply", "-f", written(tmp_path, "asked.yaml", TWO.replace("support", "asked") + RAMP))
    terminal, theirs = pty.openpty()
    try:
        for answered_with, phase in (("n", "PHASE_RAMPING"), ("y", "PHASE_ABORTED")):
            os.write(terminal, f"{answered_with}\n".encode())
            arguments = ["ramp", "abort", "asked", "--reason", "a fire", "--server", service.target]
            done = subprocess.run([*COMMAND, *arguments], stdin=theirs, capture_output=True, text=True, timeout=60)
            assert "asked: take the challenger out for good?" in done.stderr
            assert "ramp of b: ramping" in done.stdout, "what it is about is shown first"
            assert done.returncode == (0 if answered_with == "y" else 1)
            assert answer(service, "ramp", "status", "asked")["ramp_status"]["phase"] == phase
    finally:
        os.close(terminal)
        os.close(theirs)


def test_a_change_in_between_is_left_alone(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(tmp_path, "first.yaml", TWO.replace("support", "first"))
    file = written(tmp_path, "raced.yaml", TWO.replace("support", "raced"))
    ok(service, "apply", "-f", file)
    file.write_text(file.read_text().replace("model-b", "model-mine"))
    theirs = written(tmp_path, "theirs.yaml", TWO.replace("support", "raced").replace("model-b", "model-theirs"))

    def read_and_lose(stub: ExperimentStub, experiment_id: str) -> pb.Experiment | None:
        found = read_if_there(stub, experiment_id)
        if experiment_id == "raced":
            monkeypatch.undo()
            ok(service, "apply", "-f", theirs, "--actor", "ann", "--reason", "a hurry")
        return found

    monkeypatch.setattr("router.cli.apply.read_if_there", read_and_lose)
    done = command(service, "apply", "-f", first, file, "--json")
    assert done.exit_code == 1
    assert "raced: ann changed it since it was read" in done.stderr
    assert "(a hurry): read what changed, then apply again" in done.stderr
    # What came before it was applied, and is said to be.
    assert [one["experiment_id"] for one in json.loads(done.stdout)["applied"]] == ["first"]
    assert "model-theirs" in ok(service, "export", "experiments", "raced")


def test_an_update_that_leaves_no_arm_is_refused(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, "none.yaml", "experiment: none\narms: []\n")
    done = command(service, "apply", "-f", file)
    assert done.exit_code == 1
    assert "arms: must contain at least 1 item" in done.stderr


def test_status_of_one_experiment_shows_everything(service: Service, tmp_path: Path) -> None:
    file = written(tmp_path, "shown.yaml", TWO.replace("support", "shown") + RAMP)
    ok(service, "apply", "-f", file, "--reason", "to look at")
    found = answer(service, "status", "shown")
    (one,) = found["experiments"]
    assert {"experiment", "posterior", "metrics", "transitions"} <= set(one)
    assert one["experiment"]["ramp_status"]["phase"] == "PHASE_RAMPING"
    assert one["transitions"][-1]["reason"] == "to look at"
    with RouterClient(service.target) as client:
        decisions = [client.route("shown", unit_id=f"u-{n}", session_id=f"s-{n}", turn_id="0") for n in range(40)]
        for decision in decisions[:30]:
            client.reward(decision, event_id="e", signal="task_completed")
        # Decisions are counted once they are stored, a moment after their reply.
        wait_until(lambda: answered(service, "shown") == 40, "the decisions are stored")
    counted = answer(service, "status", "shown")["experiments"][0]["metrics"]["metrics"]
    assert sum(int(arm["completion"]["count"]) for arm in counted) == 30
    text = ok(service, "status", "shown", "--since", "24h")
    assert "arm routed feedback retried rephrased left asked on done reward" in re.sub(" +", " ", text)
    for part in ("ramp of b: ramping, stage 1 of 2", "the last 24h", "the last changes", "expected loss"):
        assert part in text, text
    assert "the last" not in ok(service, "status"), "counting what users did is for experiments that are named"
    assert command(service, "status", "shown", "--since", "week").exit_code == 2
