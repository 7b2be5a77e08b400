"""The checks that a demo must pass: what callers saw, what Postgres holds and what the statistics say must agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincc

from bandit.reward import Evidence
from router.client import Reason, Status
from router.demo.data import Array
from router.demo.drive import Answer, request_id
from router.demo.expect import Expectation
from router.demo.records import LoggedDecision, Records
from router.demo.users import micros

#: The rate at which correct routing fails the test of its own propensities, about. The counts of adaptively chosen arms
#: vary no more than a multinomial of their mean allocation, so Pearson's test is not too eager: of 800 simulated runs, p was
#: below .1 in 9.8 %, below .01 in .6 %, and never below .001.
FALSE_ALARM = 1e-4
_LEAST_EXPECTED = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what holds if it is `ok`, and the numbers it rests on."""

    name: str
    ok: bool
    detail: str
    numbers: Mapping[str, float | int | str | bool]


def all_checks(
    answers: Sequence[Answer],
    statuses: Mapping[Status, int],
    records: Records,
    arm_ids: Sequence[str],
    expected: Expectation,
    *,
    sticky: bool,
) -> tuple[Check, ...]:
    """Return every check, in the order in which they are shown."""
    return (
        learned(answers, expected),
        counted_once(answers, statuses, records),
        outcomes_true(answers, records, arm_ids),
        replay_agrees(records),
        all_logged(answers, records, arm_ids),
        propensities_honest(first_draws(records.decisions) if sticky else records.decisions, arm_ids),
    )


def learned(answers: Sequence[Answer], expected: Expectation) -> Check:
    """The average reward reaches its bound."""
    average = sum(answer.score for answer in answers) / len(answers)
    simulated = f"{expected.mean:.3f} ± {expected.deviation:.3f} simulated"
    detail = f"average reward {average:.4f}, at least {expected.bound:.3f} needed ({simulated})"
    return Check(
        "the router learned",
        average >= expected.bound,
        detail,
        {
            "average_reward": average,
            "bound": expected.bound,
            "simulated_mean": expected.mean,
            "simulated_deviation": expected.deviation,
        },
    )


def counted_once(answers: Sequence[Answer], statuses: Mapping[Status, int], records: Records) -> Check:
    """Every distinct event is stored once, beside its decision, and the replies said so."""
    told = {(request_id(answer.prompt), event.event_id): event for answer in answers for event in answer.events}
    sendings = sum(len(event.lags) for event in told.values())
    counting = sum(event.counts for event in told.values())
    said = {
        Status.APPLIED: counting,
        Status.NEUTRAL: len(told) - counting,
        Status.DUPLICATE: sendings - len(told),
    }
    stored = Counter((event.request_id, event.event_id) for event in records.events)
    wrong = sum(count != 1 or key not in told for key, count in stored.items()) + len(told.keys() - stored.keys())
    counts = {status: count for status, count in statuses.items() if count}
    ok = not wrong and counts == {status: count for status, count in said.items() if count}
    replies = ", ".join(f"{count:,} {status.name}" for status, count in sorted(counts.items()))
    return Check(
        "every event counted once",
        ok,
        f"{len(records.events):,} events stored for {len(told):,} sent, {sendings:,} times in all: {replies}",
        {"distinct_events": len(told), "stored_events": len(records.events), "misplaced": wrong, "sendings": sendings},
    )


def outcomes_true(answers: Sequence[Answer], records: Records, arm_ids: Sequence[str]) -> Check:
    """Each decision has one outcome, the real score of its arm on its prompt, and the evidence is their sum."""
    truth = {request_id(answer.prompt): micros(answer.score) for answer in answers}
    wrong = sum(truth.get(decision.request_id) != decision.reward_micros for decision in records.decisions)
    sums: defaultdict[str, Evidence] = defaultdict(Evidence)
    for answer in answers:
        sums[arm_ids[answer.arm]] += Evidence.of(micros(answer.score))
    n = sum(evidence.n for evidence in records.evidence.values())
    exact = dict(records.evidence) == dict(sums)
    ok = not wrong and exact and n == records.outcomes == len(answers)
    detail = f"{n:,} in the evidence, {records.outcomes:,} outcomes of {len(answers):,} decisions; {wrong:,} are wrong"
    return Check(
        "every outcome is the real score",
        ok,
        detail,
        {"evidence_n": n, "outcomes": records.outcomes, "wrong": wrong, "evidence_exact": exact},
    )


def replay_agrees(*records: Records) -> Check:
    """Folding the log of events again gives the evidence, to the last digit; these are all of the experiments there are."""
    report = records[-1].replayed
    return Check(
        "replay equals live evidence",
        report.agrees and report.outcomes == sum(one.outcomes for one in records),
        f"{report.events:,} events, {report.outcomes:,} outcomes; {len(report.disagreements)} of {report.rows} rows differ",
        {"events": report.events, "outcomes": report.outcomes, "rows": report.rows, "differ": len(report.disagreements)},
    )


def all_logged(answers: Sequence[Answer], records: Records, arm_ids: Sequence[str]) -> Check:
    """The decision log holds exactly the decisions that were answered, as they were answered."""
    seen = sorted(
        (request_id(a.prompt), arm_ids[a.arm], a.propensity, a.policy_version, a.reason.name.lower(), a.unit_id)
        for a in answers
    )
    logged = sorted((d.request_id, d.arm_id, d.propensity, d.policy_version, d.reason, d.unit_id) for d in records.decisions)
    keys = len({decision.decision_key for decision in records.decisions})
    differ = len(set(seen) ^ set(logged))
    return Check(
        "every decision is in Postgres",
        seen == logged and keys == len(answers),
        f"{len(logged):,} logged for {len(seen):,} answered, {differ} differ; journal drained in {records.drained_s:.2f} s",
        {"logged": len(logged), "answered": len(seen), "differ": differ, "drained_s": round(records.drained_s, 3)},
    )


def first_draws(decisions: Iterable[LoggedDecision]) -> list[LoggedDecision]:
    """Return the decisions that drew their unit's arm, in the order given: of time.

    Stored draws say so by their reason. A hash draws at a unit's first decision: later ones depend on it, because
    the same number meets another allocation.
    """
    ordered = list(decisions)
    if any(decision.reason == Reason.SAMPLED.name.lower() for decision in ordered):
        return [decision for decision in ordered if decision.reason == Reason.SAMPLED.name.lower()]
    first: dict[str, LoggedDecision] = {}
    for decision in ordered:
        first.setdefault(decision.unit_id, decision)
    return list(first.values())


def propensities_honest(decisions: Sequence[LoggedDecision], arm_ids: Sequence[str]) -> Check:
    """Arms were drawn as often as the logged vectors say, and each propensity is its vector's entry."""
    counts = Counter(decision.arm_id for decision in decisions)
    vectors = np.array([[decision.allocation.get(arm_id, 0.0) for arm_id in arm_ids] for decision in decisions])
    off = sum(decision.allocation.get(decision.arm_id) != decision.propensity for decision in decisions)
    sums = float(np.abs(vectors.sum(axis=1) - 1.0).max())
    observed = np.array([counts[arm_id] for arm_id in arm_ids], dtype=np.float64)
    statistic, freedom, p = pearson(observed, vectors.sum(axis=0))
    return Check(
        "arms were drawn as logged",
        p >= FALSE_ALARM and not off and sums < 1e-9,
        f"χ²({freedom}) = {statistic:.2f}, p = {p:.3f} over {len(decisions):,} draws; false alarms {FALSE_ALARM:g}",
        {"statistic": statistic, "degrees_of_freedom": freedom, "p": p, "draws": len(decisions), "propensities_off": off},
    )


def pearson(observed: Array, expected: Array) -> tuple[float, int, float]:
    """Return Pearson's χ², its degrees of freedom and p; arms expected fewer than 5 times are pooled.

    If all of them together are still too few, they join the next smallest arm.
    """
    order = np.argsort(expected)
    o, e = observed[order], expected[order]
    pooled = int(np.searchsorted(e, _LEAST_EXPECTED))
    while 0 < pooled < len(e) and e[:pooled].sum() < _LEAST_EXPECTED:
        pooled += 1
    if pooled:
        o = np.concatenate(([o[:pooled].sum()], o[pooled:]))
        e = np.concatenate(([e[:pooled].sum()], e[pooled:]))
    freedom = len(e) - 1
    if freedom == 0:
        return 0.0, 0, 1.0
    statistic = float(((o - e) ** 2 / e).sum())
    return statistic, freedom, float(gammaincc(freedom / 2, statistic / 2))
