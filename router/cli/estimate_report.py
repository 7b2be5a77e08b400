"""What `estimate` finds, computed by `bandit` from what was read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click
import numpy as np
from numpy.typing import NDArray

from bandit.allocation import LEARNING, AllocationKind, apply_floor
from bandit.arm_estimates import ArmEstimates, estimate_arms
from bandit.arm_intervals import ArmIntervals, arm_intervals
from bandit.estimate import Estimate
from bandit.learners import BetaLearner
from bandit.logged import cluster_indices
from bandit.offpolicy import raw_mean
from bandit.policy_values import PolicyValue, policy_value
from bandit.posterior import probability_best
from bandit.rejection import Replay, rejection_replay
from bandit.split import Split, split_of
from bandit.stopping import StoppingDecision, decide
from bandit.targets import fixed_arm, uniform, with_floor
from bandit.top_two import top_two
from router.cli.estimate_options import AskedLearner, AskedPolicy
from router.rules import assignment_of
from router.storage.drawn import Drawn
from router.storage.logged import Logged
from router.storage.present import Present


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a learner earned, once for each run; or why it is not known."""

    asked: AskedLearner
    insufficient: str
    runs: tuple[Replay, ...] = ()


@dataclass(frozen=True, slots=True)
class Splits:
    """The test of the split on all first draws, and again on those with feedback; None where there are none."""

    drawn: Drawn
    every: Split | None
    with_feedback: Split | None

    def found_at(self, split: Split) -> datetime:
        """Return when the decision was made after which a mismatch showed."""
        if split.found_at is None:
            raise ValueError("split.found_at is None: there is no mismatch")
        times = self.drawn.decided_at_us
        if split is self.with_feedback:
            times = times[self.drawn.feedback]
        return datetime.fromtimestamp(int(times[split.found_at]) / 1e6, UTC)


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. Indices of arms are of `logged.arm_ids`, those of splits of `splits.drawn.arm_ids`."""

    experiment_id: str
    logged: Logged
    #: Independent units among the decisions, or their number where each is one of its own.
    units: int
    control: int | None
    splits: Splits
    arms: tuple[ArmEstimates, ...]
    intervals: tuple[ArmIntervals, ...]
    #: What the log earned; None of a log of less than two units.
    as_run: Estimate | None
    policies: tuple[tuple[AskedPolicy, PolicyValue], ...]
    replays: tuple[Replayed, ...]
    #: None where fewer than two arms compete.
    stopping: StoppingDecision | None
    present: Present


def report_of(
    experiment_id: str,
    logged: Logged,
    drawn: Drawn,
    present: Present,
    policies: Sequence[AskedPolicy],
    learners: Sequence[AskedLearner],
    runs: int,
    seed: int,
    ran: Callable[[], None] = lambda: None,
) -> Report:
    """Compute everything; `ran` is called after each run of a learner, which takes longest.

    Raises UsageError for a policy or a learner that these arms cannot have.
    """
    n, k = logged.arms.size, len(logged.arm_ids)
    log = (logged.rewards, logged.arms, logged.propensities)
    units = int(np.unique(logged.clusters).size) if logged.clusters is not None else n
    control = present.definition.rules.allocation.control
    for asked in policies:
        _check_policy(asked, logged.arm_ids)
    for asked_learner in learners:
        _learner(asked_learner, present)
    return Report(
        experiment_id,
        logged,
        units,
        control,
        _splits(drawn),
        estimate_arms(*log, k, logged.clusters, logged.allocations) if n else (),
        arm_intervals(*log, logged.allocations, control, logged.clusters) if n else (),
        raw_mean(logged.rewards, logged.clusters) if units > 1 else None,
        tuple((asked, _value(asked, logged, present)) for asked in policies) if n else (),
        tuple(_replayed(asked, logged, present, runs, seed, ran) for asked in learners) if n else (),
        _stopping(present),
        present,
    )


def named(text: str, arm_ids: Sequence[str]) -> str:
    """Return a sentence of `bandit`, which knows arms by their index, with their ids."""

    def name(found: re.Match[str]) -> str:
        index = int(found[1])
        return f"arm {arm_ids[index]}" if index < len(arm_ids) else found[0]

    return re.sub(r"\barm (\d+)\b", name, text)


def _splits(drawn: Drawn) -> Splits:
    some = drawn.feedback
    return Splits(
        drawn,
        split_of(drawn.arms, drawn.allocations) if drawn.arms.size else None,
        split_of(drawn.arms[some], drawn.allocations[some]) if some.any() else None,
    )


def _check_policy(asked: AskedPolicy, arm_ids: Sequence[str]) -> None:
    if asked.arm_id and asked.arm_id not in arm_ids:
        raise click.UsageError(f"--policy {asked.text}: no arm of this id is offered traffic now, but {', '.join(arm_ids)}")
    if asked.floor is not None:
        try:
            apply_floor(uniform(len(arm_ids)), asked.floor)
        except ValueError as error:
            raise click.UsageError(f"--policy {asked.text}: {error}") from None


def _value(asked: AskedPolicy, logged: Logged, present: Present) -> PolicyValue:
    rule, k = present.definition.rules.allocation, len(logged.arm_ids)
    policy: NDArray[np.float64]
    if asked.arm_id:
        policy = fixed_arm(logged.arm_ids.index(asked.arm_id), k)
    elif asked.floor is None:
        policy = uniform(k)
    elif min(rule.caps, default=1.0) < 1.0:
        return PolicyValue("arms have caps now: what they cut off cannot be told from the log")
    else:
        try:
            policy = with_floor(logged.allocations, rule.floor, asked.floor)
        except ValueError as error:
            return PolicyValue(f"{error}; the floor, or the rule that it is of, was another one when the decision was made")
    return policy_value(logged.rewards, logged.arms, logged.propensities, logged.allocations, policy, logged.clusters)


def _learner(asked: AskedLearner, present: Present) -> BetaLearner:
    rules = present.definition.rules
    kind = asked.kind or (rules.allocation.kind.value if rules.allocation.kind in LEARNING else "thompson")
    priors = [asked.prior or rules.prior_of(arm) for arm in present.definition.active_arms]
    share = rules.allocation.leader_share
    try:
        return BetaLearner(
            priors,
            (lambda alpha, beta: top_two(alpha, beta, share)) if kind == AllocationKind.TOP_TWO.value else probability_best,
            rules.allocation.floor if asked.floor is None else asked.floor,
            asked.discount,
            asked.every,
        )
    except ValueError as error:
        raise click.UsageError(f"--replay {asked.text}: {error}") from None


def _replayed(
    asked: AskedLearner, logged: Logged, present: Present, runs: int, seed: int, ran: Callable[[], None]
) -> Replayed:
    kept, clusters = np.arange(logged.rewards.size), logged.clusters
    if assignment_of(present.definition.assignment) != "per_request":
        # Later decisions of a unit are no draws of their own.
        kept, clusters = np.sort(cluster_indices(clusters, kept.size)[1]), None
    log = (logged.rewards[kept], logged.arms[kept], logged.allocations[kept])
    found = []
    for run in range(runs):
        try:
            learner = _learner(asked, present)
            found.append(rejection_replay(*log, learner, np.random.default_rng([seed, run]), clusters))
        except ValueError as error:
            return Replayed(asked, str(error))
        ran()
    return Replayed(asked, "", tuple(found))


def _stopping(present: Present) -> StoppingDecision | None:
    if len(present.alpha) < 2:
        return None
    started, now = (round(time.timestamp() * 1e6) for time in (present.started_at, present.now))
    return decide(
        present.alpha,
        present.beta,
        present.successes,
        present.n,
        # A clock that is behind says that it has not run at all.
        min(started, now),
        now,
        discounted=present.definition.rules.discount is not None,
    )
