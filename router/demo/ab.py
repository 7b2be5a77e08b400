"""The A/B demo: a stable hash assigns users, the share grows once, and the difference is estimated.

Model
    Every user asks several prompts, drawn anew each time, first at 10 % for the challenger and then at 30 %. A right answer
    completes the task, a wrong one is followed by a rephrased question. The estimate is the difference of completion rates
    at 30 %, from the means of users, since a user's decisions are not independent: Welch's interval.

Assumes
    A user's prompts are a sample of all prompts, so that the table itself says what the difference is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table as RichTable
from scipy.special import ndtri
from scipy.stats import binomtest

from router.client import Decision, RewardEvent, RouteRequest
from router.demo.checks import FALSE_ALARM, Check, replay_agrees
from router.demo.data import Table
from router.demo.records import Records
from router.demo.scene import Scene, Story

CONTROL, CHALLENGER = "llama-3.1-8b-instruct", "llama-3.1-nemotron-51b-instruct"
EXPERIMENT = "ab"
SHARES = (0.1, 0.3)
_FILE = """\
experiment: ab
arms:
  - {{id: {control}, role: control}}
  - {{id: {challenger}}}
allocation: {{kind: fixed, weights: {{{control}: {rest}, {challenger}: {share}}}}}
assignment: {{kind: sticky_hash}}
"""
_USERS, _ASKS, _BATCH = 4000, 2, 200
#: How long replicas may take to hear of new weights.
_HEARS_S = 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One decision as its caller saw it."""

    user: int
    #: Index into SHARES.
    phase: int
    challenger: bool
    propensity: float
    right: bool


async def play(scene: Scene, table: Table) -> list[Asked]:
    """Route every user's prompts at both shares."""
    asked: list[Asked] = []
    for phase, share in enumerate(SHARES):
        text = _FILE.format(control=CONTROL, challenger=CHALLENGER, share=share, rest=round(1 - share, 6))
        await scene.apply(text)
        await _heard(scene, share)
        for ask in range(_ASKS):
            for first in range(0, _USERS, _BATCH):
                users = range(first, min(first + _BATCH, _USERS))
                asked += await _ask(scene, table, users, phase, ask)
                scene.board.show(picture(asked), _line(asked, share))
    return asked


async def _heard(scene: Scene, share: float) -> None:
    """Wait until no worker decides by the weights before."""
    give_up_at, agreed = time.monotonic() + _HEARS_S, 0
    while agreed < 40 and time.monotonic() < give_up_at:
        (decision,) = await scene.route([RouteRequest(EXPERIMENT, unit_id="probe")])
        agreed = agreed + 1 if math.isclose(decision.allocation[CHALLENGER], share) else 0
        await asyncio.sleep(0 if agreed else 0.01)


async def _ask(scene: Scene, table: Table, users: Sequence[int], phase: int, ask: int) -> list[Asked]:
    column = {arm_id: i for i, arm_id in enumerate(table.arm_ids)}
    names = [f"user-{scene.seed}-{user}" for user in users]
    requests = [RouteRequest(EXPERIMENT, unit_id=name, request_id=f"{phase}-{ask}-{name}") for name in names]
    decisions: list[Decision] = await scene.route(requests)
    prompts = scene.rng.integers(len(table.scores), size=len(decisions))
    rights = [
        bool(scene.rng.random() < table.scores[prompt, column[decision.arm.arm_id]])
        for decision, prompt in zip(decisions, prompts, strict=True)
    ]
    signals = ["task_completed" if right else "rephrased_query" for right in rights]
    await scene.reward([RewardEvent(d, event_id="1", signal=s) for d, s in zip(decisions, signals, strict=True)])
    return [
        Asked(user, phase, decision.arm.arm_id == CHALLENGER, decision.propensity, right)
        for user, decision, right in zip(users, decisions, rights, strict=True)
    ]


def picture(asked: Sequence[Asked]) -> RichTable:
    """Return users and completions by share and arm."""
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("challenger's share", "arm", "users", "decisions", "completed"):
        table.add_column(name, justify="left" if name in ("challenger's share", "arm") else "right")
    for phase, share in enumerate(SHARES):
        for challenger in (False, True):
            mine = [one for one in asked if one.phase == phase and one.challenger == challenger]
            rate = f"{sum(one.right for one in mine) / len(mine):.1%}" if mine else ""
            users = len({one.user for one in mine})
            name = CHALLENGER if challenger else CONTROL
            table.add_row(f"{share:.0%}", name, f"{users:,}", f"{len(mine):,}", rate)
    return table


def _line(asked: Sequence[Asked], share: float) -> str:
    return f"{len(asked):,} of {len(SHARES) * _ASKS * _USERS:,} decisions, the challenger has {share:.0%} of the users"


def story(asked: Sequence[Asked], table: Table, records: Records) -> Story:
    """Return the estimate, and whether users were assigned as promised."""
    estimate, stderr = difference([one for one in asked if one.phase == len(SHARES) - 1])
    half = float(ndtri(0.975)) * stderr
    means = dict(zip(table.arm_ids, table.scores.mean(axis=0), strict=True))
    truth = float(means[CHALLENGER] - means[CONTROL])
    checks = (
        _stable(asked),
        _moved(asked),
        _propensities(asked),
        covers("the interval is honest", estimate, stderr, truth),
        replay_agrees(records),
    )
    numbers = {
        "difference": f"{estimate:+.3f} [{estimate - half:+.3f}, {estimate + half:+.3f}] at {SHARES[-1]:.0%}, by user",
        "over all prompts": f"{truth:+.3f}",
    }
    figures = {"decisions": len(asked), "users": _USERS, "difference": estimate, "stderr": stderr, "truth": truth}
    return Story("ab", numbers, picture(asked), checks, figures)


def difference(asked: Sequence[Asked]) -> tuple[float, float]:
    """Return the challenger's completion rate less the control's, and its standard error, from the means of users."""
    right: dict[bool, dict[int, list[bool]]] = {True: defaultdict(list), False: defaultdict(list)}
    for one in asked:
        right[one.challenger][one.user].append(one.right)
    means = {arm: np.array([np.mean(found) for found in users.values()]) for arm, users in right.items()}
    estimate = float(means[True].mean() - means[False].mean())
    return estimate, math.sqrt(sum(float(m.var(ddof=1)) / len(m) for m in means.values()))


def covers(name: str, estimate: float, stderr: float, truth: float) -> Check:
    """The truth is as near to an estimate as its standard error says, but for false alarms."""
    reach = float(ndtri(1 - FALSE_ALARM / 2))
    z = (estimate - truth) / stderr
    detail = f"{estimate:+.4f} ± {stderr:.4f} for {truth:+.4f}: {z:+.2f} standard errors off; false alarms {FALSE_ALARM:g}"
    return Check(name, abs(z) < reach, detail, {"estimate": estimate, "stderr": stderr, "truth": truth, "z": z})


def _arms(asked: Sequence[Asked], phase: int) -> dict[int, set[bool]]:
    found: dict[int, set[bool]] = defaultdict(set)
    for one in asked:
        if one.phase == phase:
            found[one.user].add(one.challenger)
    return found


def _stable(asked: Sequence[Asked]) -> Check:
    both = sum(len(arms) > 1 for phase in range(len(SHARES)) for arms in _arms(asked, phase).values())
    detail = f"{both} of {_USERS:,} users met both arms at one share, on {_ASKS} visits each to any worker"
    return Check("a user keeps their arm", not both, detail, {"unstable": both})


def _moved(asked: Sequence[Asked]) -> Check:
    before, after = _arms(asked, 0), _arms(asked, 1)
    to = sum(before[user] == {False} and after[user] == {True} for user in before)
    back = sum(before[user] == {True} and after[user] != {True} for user in before)
    needed = SHARES[1] - SHARES[0]
    p = float(binomtest(to, len(before), needed).pvalue)
    detail = f"{to:,} of {len(before):,} users moved to the challenger ({needed:.0%} had to), {back} moved back"
    name = "growing the share moved only whom it had to"
    return Check(name, not back and p >= FALSE_ALARM, detail, {"moved": to, "moved_back": back, "p": p})


def _propensities(asked: Sequence[Asked]) -> Check:
    off = sum(
        not math.isclose(one.propensity, SHARES[one.phase] if one.challenger else 1 - SHARES[one.phase]) for one in asked
    )
    return Check("propensities are the shares", not off, f"{off} of {len(asked):,} differ", {"off": off})
