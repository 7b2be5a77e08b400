"""The canary demo: two challengers on the same prompts, one better than the control and one worse, each behind a ramp.

Model
    A right answer completes the task, a wrong one makes the user retry at once. Prompts are drawn again and again, since the
    table is too small for a ramp. Stages last seconds here; nothing else is different.

Assumes
    The chance that the worse challenger passes a stage, or that the better one fails, is what docs/canary.md says of
    guardrails: with these rates, each far below 5 %.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from rich.table import Table as RichTable
from rich.text import Text

from router.client import RewardEvent, RouteRequest
from router.demo.checks import Check, replay_agrees
from router.demo.data import Table
from router.demo.records import LoggedDecision, Records
from router.demo.scene import Scene, Story
from router.v1 import experiments_pb2 as pb

CONTROL, GOOD, BAD = "qwen2.5-7b-instruct", "llama-3.1-nemotron-51b-instruct", "codegemma-7b"
CAPS = (0.05, 0.2, 0.5, 1.0)
_FILE = """\
experiment: {name}
arms:
  - {{id: {control}, role: control}}
  - {{id: {challenger}}}
allocation: {{kind: fixed, weights: {{{challenger}: 1}}}}
assignment: {{kind: per_request, unit: request}}
ramp:
  stages:
    - {{cap: 0.05, duration: 3s}}
    - {{cap: 0.2, duration: 3s}}
    - {{cap: 0.5, duration: 3s}}
    # The control has no traffic left to be compared with.
    - {{cap: 1, duration: 3s, guardrails: [{{metric: retry, limit: 0.55}}]}}
  guardrails: [{{metric: retry, ratio: 1.1}}]
"""
_BATCH = 25
_CALLERS = 2
_LONGEST_S = 45.0
#: Decisions after the end of a ramp, to see that it has ended.
_AFTERWARDS = 500
#: How long after the look that rolls it back began a challenger may still be served: until the evidence is counted, the
#: change is stored and every replica has heard of it. Far below a second where a machine has nothing else to do.
_HEARS_S = 5.0
_ENDED = (pb.RampStatus.PHASE_PROMOTED, pb.RampStatus.PHASE_ROLLED_BACK)


@dataclass(slots=True)
class Trial:
    """One ramp as its callers see it."""

    experiment_id: str
    challenger: str
    experiment: pb.Experiment = field(default_factory=pb.Experiment)
    decisions: int = 0
    chosen: int = 0
    #: Whether the ramp had ended for a moment: by then every replica knows.
    settled: bool = False
    #: Arms of the decisions since.
    afterwards: Counter[str] = field(default_factory=Counter)

    @property
    def phase(self) -> str:
        """Where the ramp stands."""
        return pb.RampStatus.Phase.Name(self.experiment.ramp_status.phase).removeprefix("PHASE_").lower().replace("_", " ")

    @property
    def ended(self) -> bool:
        """Whether it was promoted or rolled back."""
        return self.experiment.ramp_status.phase in _ENDED


async def play(scene: Scene, table: Table) -> list[Trial]:
    """Run both ramps to their ends."""
    trials = [Trial("canary-good", GOOD), Trial("canary-bad", BAD)]
    for trial in trials:
        text = _FILE.format(name=trial.experiment_id, control=CONTROL, challenger=trial.challenger)
        trial.experiment = await scene.apply(text)
    give_up_at = time.monotonic() + _LONGEST_S
    async with asyncio.TaskGroup() as group:
        for number, trial in enumerate(trials):
            for caller in range(_CALLERS):
                rng = np.random.default_rng((scene.seed, number, caller))
                group.create_task(_drive(scene, trial, table, rng, caller, give_up_at))
        group.create_task(_watch(scene, trials, give_up_at))
    return trials


async def _drive(scene: Scene, trial: Trial, table: Table, rng: np.random.Generator, caller: int, give_up_at: float) -> None:
    column = {arm_id: i for i, arm_id in enumerate(table.arm_ids)}
    number = 0
    while trial.afterwards.total() < _AFTERWARDS and time.monotonic() < give_up_at:
        settled = trial.settled
        prompts = rng.integers(len(table.scores), size=_BATCH)
        names = [f"{caller}-{number + i}" for i in range(_BATCH)]
        number += _BATCH
        requests = [RouteRequest(trial.experiment_id, unit_id=name, request_id=name) for name in names]
        decisions = await scene.route(requests)
        events = []
        for decision, prompt in zip(decisions, prompts, strict=True):
            right = rng.random() < table.scores[prompt, column[decision.arm.arm_id]]
            events.append(RewardEvent(decision, event_id="1", signal="task_completed" if right else "immediate_retry"))
        await scene.reward(events)
        chosen = Counter(decision.arm.arm_id for decision in decisions)
        trial.decisions += len(decisions)
        trial.chosen += chosen[trial.challenger]
        if settled:
            trial.afterwards += chosen


async def _watch(scene: Scene, trials: Sequence[Trial], give_up_at: float) -> None:
    while time.monotonic() < give_up_at:
        for trial in trials:
            trial.settled = trial.ended
            trial.experiment = await scene.read(trial.experiment_id)
        scene.board.show(picture(trials), "; ".join(_line(trial) for trial in trials))
        if all(trial.afterwards.total() >= _AFTERWARDS for trial in trials):
            return
        await asyncio.sleep(0.25)


def picture(trials: Sequence[Trial]) -> RichTable:
    """Return where both ramps stand."""
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("challenger", "ramp", "cap", "decisions", "of them", "the last look"):
        table.add_column(name, justify="right" if name in ("cap", "decisions", "of them") else "left")
    for trial in trials:
        status = trial.experiment.ramp_status
        colour = {"promoted": "green", "rolled back": "red"}.get(trial.phase, "yellow")
        reasons = [verdict.reason for verdict in status.assessment.verdicts]
        table.add_row(
            trial.challenger,
            Text(f"{trial.phase}, stage {status.stage + 1} of {len(CAPS)}", style=colour),
            f"{status.cap:.0%}",
            f"{trial.decisions:,}",
            f"{trial.chosen / max(1, trial.decisions):.1%}",
            Text("; ".join(reasons) or "none yet"),
        )
    return table


def _line(trial: Trial) -> str:
    status = trial.experiment.ramp_status
    share = trial.chosen / max(1, trial.decisions)
    return f"{trial.challenger}: {trial.phase}, stage {status.stage + 1}, {share:.1%} of {trial.decisions:,} decisions"


def story(
    trials: Sequence[Trial], transitions: Mapping[str, Sequence[pb.Transition]], records: Mapping[str, Records]
) -> Story:
    """Return what became of both, checked against the log of decisions."""
    good, bad = trials
    checks = (
        _promoted(good, transitions[good.experiment_id]),
        _rolled_back(bad, records[bad.experiment_id], transitions[bad.experiment_id]),
        _within_caps(trials, transitions, records),
        replay_agrees(*records.values()),
    )
    numbers = {}
    for trial in trials:
        for one in reversed(transitions[trial.experiment_id]):
            if one.kind == pb.Transition.KIND_RAMP:
                at = one.transition_time.ToDatetime(UTC)
                numbers[f"{at:%H:%M:%S} {trial.experiment_id}"] = f"{one.to}: {one.reason}"
    figures = {
        "trials": [
            {
                "experiment_id": trial.experiment_id,
                "challenger": trial.challenger,
                "phase": trial.phase,
                "decisions": trial.decisions,
                "chosen": trial.chosen,
                "transitions": [one.to for one in reversed(transitions[trial.experiment_id])],
            }
            for trial in trials
        ]
    }
    return Story("canary", numbers, picture(trials), checks, figures)


def _promoted(trial: Trial, transitions: Sequence[pb.Transition]) -> Check:
    moves = [one for one in transitions if one.kind == pb.Transition.KIND_RAMP]
    others = trial.afterwards.total() - trial.afterwards[trial.challenger]
    # It begins, moves from stage to stage, and is promoted: all by itself.
    ok = trial.phase == "promoted" and len(moves) == len(CAPS) + 1 and trial.afterwards.total() > 0 and not others
    detail = f"{trial.phase} after {len(moves)} transitions; {trial.afterwards[trial.challenger]:,} of the last"
    detail += f" {trial.afterwards.total():,} decisions are for it"
    return Check("the good challenger went to 100 %", ok, detail, {"transitions": len(moves), "others_afterwards": others})


def _rolled_back(trial: Trial, records: Records, transitions: Sequence[pb.Transition]) -> Check:
    mine = [decision for decision in records.decisions if decision.arm_id == trial.challenger]
    after_s = 0.0
    rolled = [one for one in transitions if one.kind == pb.Transition.KIND_RAMP and one.assessment.outcome == 2]
    if mine and rolled:
        after_s = (mine[-1].decided_at - rolled[0].transition_time.ToDatetime(UTC)).total_seconds()
    share = len(mine) / max(1, len(records.decisions))
    ok = trial.phase == "rolled back" and trial.afterwards[trial.challenger] == 0 and after_s < _HEARS_S
    detail = (
        f"{trial.phase} after {len(mine):,} decisions ({share:.1%}); the last {1000 * after_s:.0f} ms after that look began"
    )
    numbers = {"decisions": len(mine), "share": share, "last_after_s": after_s}
    return Check("the bad challenger was rolled back", ok, detail, numbers)


def _within_caps(
    trials: Sequence[Trial], transitions: Mapping[str, Sequence[pb.Transition]], records: Mapping[str, Records]
) -> Check:
    """Each logged vector is within the cap of the stage in force when the decision was made."""
    over, looked_at = 0, 0
    for trial in trials:
        # The first one begins the ramp; a stage that is over cannot come back.
        moves = [one for one in reversed(transitions[trial.experiment_id]) if one.kind == pb.Transition.KIND_RAMP]
        times = [one.transition_time.ToDatetime(UTC) for one in moves]
        for decision in records[trial.experiment_id].decisions:
            looked_at += 1
            over += decision.allocation.get(trial.challenger, 0.0) > _cap(decision, times) + 1e-9
    detail = f"{over} of {looked_at:,} decisions gave a challenger more than its stage allows"
    return Check("no stage was exceeded", not over, detail, {"over": over, "decisions": looked_at})


def _cap(decision: LoggedDecision, times: Sequence[datetime]) -> float:
    begun = sum(time <= decision.decided_at for time in times)
    return CAPS[min(max(begun, 1), len(CAPS)) - 1]
