"""The interleaving demo: two arms take turns within sessions, and are compared within them.

Model
    A session is about one task of the table, so that what makes a session hard is common to its turns. The arms answer its
    turns by draft. A wrong answer is followed by a rephrased question, a right last one completes the task.

Assumes
    No carry-over: a turn's prompt does not depend on the answers before. The paired difference then estimates the difference
    of the arms over all prompts, which the table knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.table import Table as RichTable

from bandit.crossover import paired_difference, sensitivity_gain
from bandit.turns import Turns
from router.client import RewardEvent, RouteRequest
from router.demo.ab import CHALLENGER, CONTROL, covers
from router.demo.checks import Check, replay_agrees
from router.demo.data import Array, Table
from router.demo.records import Records
from router.demo.scene import Scene, Story
from router.v1 import interleave_pb2 as pb

EXPERIMENT = "interleaved"
ARMS = (CONTROL, CHALLENGER)
_FILE = """\
experiment: interleaved
arms:
  - {{id: {control}, role: control}}
  - {{id: {challenger}}}
allocation: {{kind: uniform}}
assignment: {{kind: interleaved}}
"""
SESSIONS, TURNS = 1200, 6
_BATCH = 200
_TIMEOUT_S = 60.0
_RETRIED = 200


@dataclass(frozen=True, slots=True)
class Played:
    """What happened in every session, and what the router makes of it."""

    #: (S, TURNS): 0 for the control, 1 for the challenger.
    arm: Array
    #: (S, TURNS): 1 for a bad turn.
    bad: Array
    #: Turns that were asked for again and got another arm.
    changed: int
    compared: pb.CompareTurnsResponse


async def play(scene: Scene, table: Table) -> Played:
    """Drive every session, turn by turn."""
    await scene.apply(_FILE.format(control=CONTROL, challenger=CHALLENGER))
    column = [table.arm_ids.index(arm_id) for arm_id in ARMS]
    prompts = _sessions(table, scene.rng)
    arm, bad = np.full((SESSIONS, TURNS), -1.0), np.zeros((SESSIONS, TURNS))
    for turn in range(TURNS):
        for first in range(0, SESSIONS, _BATCH):
            rows = range(first, min(first + _BATCH, SESSIONS))
            decisions = await scene.route([_request(scene, row, turn) for row in rows])
            events = []
            for row, decision in zip(rows, decisions, strict=True):
                arm[row, turn] = ARMS.index(decision.arm.arm_id)
                right = scene.rng.random() < table.scores[prompts[row, turn], column[int(arm[row, turn])]]
                bad[row, turn] = not right
                if not right:
                    events.append(RewardEvent(decision, event_id="1", signal="rephrased_query"))
                elif turn == TURNS - 1:
                    events.append(RewardEvent(decision, event_id="1", signal="task_completed"))
            await scene.reward(events)
            done = turn * SESSIONS + rows[-1] + 1
            scene.board.show(_rates(arm, bad), f"{done:,} of {SESSIONS * TURNS:,} turns in {SESSIONS:,} sessions")
    again = await scene.route([_request(scene, row, 0) for row in range(_RETRIED)])
    changed = sum(ARMS.index(decision.arm.arm_id) != arm[row, 0] for row, decision in enumerate(again))
    await scene.stored(EXPERIMENT, SESSIONS * TURNS + _RETRIED)
    request = pb.CompareTurnsRequest(experiment_id=EXPERIMENT, arm_id=CHALLENGER)
    return Played(arm, bad, changed, await scene.interleave.CompareTurns(request, timeout=_TIMEOUT_S))


def _request(scene: Scene, session: int, turn: int) -> RouteRequest:
    return RouteRequest(EXPERIMENT, session_id=f"s-{scene.seed}-{session}", turn_id=str(turn))


def _sessions(table: Table, rng: np.random.Generator) -> Array:
    """Return the prompts of each session's turns, all of one task, tasks by their size; shape (S, TURNS)."""
    tasks = np.array(table.tasks)
    names, sizes = np.unique(tasks, return_counts=True)
    chosen = rng.choice(names, size=SESSIONS, p=sizes / sizes.sum())
    rows = {name: np.flatnonzero(tasks == name) for name in names}
    return np.stack([rng.choice(rows[name], size=TURNS, replace=False) for name in chosen])


def _rates(arm: Array, bad: Array) -> RichTable:
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("arm", "turns", "bad"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for number, arm_id in enumerate(ARMS):
        mine = bad[arm == number]
        table.add_row(arm_id, f"{mine.size:,}", f"{mine.mean():.1%}" if mine.size else "")
    return table


def story(played: Played, table: Table, records: Records) -> Story:
    """Return both estimates and what the pairing gained."""
    paired, first = played.compared.paired, played.compared.first_turn
    means = 1.0 - table.scores.mean(axis=0)
    truth = float(means[table.arm_ids.index(CHALLENGER)] - means[table.arm_ids.index(CONTROL)])
    icc = intraclass_correlation(played.bad)
    gain = sensitivity_gain(TURNS, icc)
    blocks = played.arm.reshape(SESSIONS, -1, len(ARMS))
    fair = bool((np.sort(blocks, axis=2) == np.arange(len(ARMS))).all()) and not played.changed
    detail = f"{blocks.shape[0] * blocks.shape[1]:,} blocks of turns have each arm once; {played.changed} of"
    detail += f" {_RETRIED} turns that were asked for again changed their arm"
    drafted = Check("the arms took turns", fair, detail, {"blocks": blocks.shape[0] * blocks.shape[1]})
    checks = (
        drafted,
        _recomputed(played),
        covers("the paired interval is honest", paired.estimate, paired.stderr, truth),
        covers("and so is that of first turns", first.estimate, first.stderr, truth),
        _sharper(played),
        replay_agrees(records),
    )
    numbers = {
        "difference, paired": f"{_interval(paired)}, p {played.compared.p_value:.2g}",
        "of first turns alone": _interval(first),
        "over all prompts": f"{truth:+.3f}",
        "gain": f"an A/B test by session needs {gain:.1f} times the sessions ({TURNS} turns, correlation {icc:.2f})",
    }
    figures = {
        "sessions": SESSIONS,
        "turns": SESSIONS * TURNS,
        "paired": {"estimate": paired.estimate, "stderr": paired.stderr, "lower": paired.lower, "upper": paired.upper},
        "first_turn": {"estimate": first.estimate, "stderr": first.stderr, "lower": first.lower, "upper": first.upper},
        "truth": truth,
        "icc": icc,
        "gain": gain,
    }
    return Story("interleave", numbers, _rates(played.arm, played.bad), checks, figures)


def _interval(found: pb.TurnDifference) -> str:
    return f"{found.estimate:+.3f} [{found.lower:+.3f}, {found.upper:+.3f}]"


def intraclass_correlation(values: Array) -> float:
    """Return the share of the variance that lies between rows, by one-way analysis of variance, at least 0."""
    columns = values.shape[1]
    between = columns * float(values.mean(axis=1).var(ddof=1))
    within = float(values.var(axis=1, ddof=1).mean())
    return float(max(0.0, (between - within) / (between + (columns - 1) * within)))


def _recomputed(played: Played) -> Check:
    session, turn = np.indices(played.arm.shape)
    turns = Turns.of(len(ARMS), session.ravel(), turn.ravel(), played.arm.ravel().astype(int), played.bad.ravel())
    mine, theirs = paired_difference(turns, 1, 0), played.compared.paired
    off = max(abs(mine.estimate - theirs.estimate), abs(mine.stderr - theirs.stderr))
    detail = f"from what callers saw {mine.estimate:+.6f} ± {mine.stderr:.6f}, {off:.0e} from the router's"
    return Check("the router counted every turn", off < 1e-9, detail, {"off": off})


def _sharper(played: Played) -> Check:
    paired, first = played.compared.paired, played.compared.first_turn
    ratio = (first.stderr / paired.stderr) ** 2
    detail = f"first turns alone need {ratio:.1f} times the sessions for the same standard error"
    # 6 turns for one, less what the pairs share: far from 1 in any run.
    return Check("pairs tell more than first turns", ratio > 2.0, detail, {"ratio": ratio})
