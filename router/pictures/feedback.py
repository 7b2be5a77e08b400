"""How much feedback arms get over time: where it differs between arms, their rewards compare different users."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bandit.coverage import coverage_test
from bandit.inference import rate_interval
from router.pictures.beliefs import of
from router.pictures.style import INK, PALETTE, canvas, colours_of, day_of, name_ends, time_axis
from router.pictures.values import Covered, NothingToDrawError

#: As GetMetrics warns.
_DIFFERENT = 0.01
#: Within its period an arm is drawn between these shares of it, so that intervals stand beside one another.
_FROM, _UNTIL = 0.3, 0.7


def coverage(entries: Sequence[Covered], *, experiment: str = "", arm_ids: Sequence[str] = ()) -> Figure:
    """Draw the share of each arm's decisions that have feedback, by period, with 95 % Wilson intervals for one look.

    The title says whether it differs between the arms over all of the time: chi-squared, p below .01. The eight arms with
    most decisions are named; `arm_ids`, in the order of the definition, give them the colours of other pictures.
    Raises NothingToDrawError without a decision.
    """
    seen = [one for one in entries if one.decisions]
    if not seen:
        raise NothingToDrawError("no decisions were made in this time: there is nothing to draw")
    totals: dict[str, list[int]] = {}
    for one in seen:
        total = totals.setdefault(one.arm_id, [0, 0])
        total[0] += one.covered
        total[1] += one.decisions
    names = sorted(totals, key=lambda name: (-totals[name][1], name))
    detail = f"{of(experiment)}share of the decisions of each period with any feedback, and its 95 % Wilson interval"
    figure, axes = canvas(_finding(totals), detail)
    colours = colours_of(arm_ids, names)
    ends = []
    for place, name in enumerate(names):
        own = sorted((one for one in seen if one.arm_id == name), key=lambda one: one.start)
        at = _FROM + (_UNTIL - _FROM) * (place + 0.5) / len(names)
        x = [day_of(one.start + at * (one.end - one.start)) for one in own]
        rates = [one.covered / one.decisions for one in own]
        intervals = [rate_interval(one.covered, one.decisions) for one in own]
        # Rounding may put the end of an interval a hair on the wrong side of its rate.
        below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, intervals, strict=True)]
        above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, intervals, strict=True)]
        axes.errorbar(
            x, rates, yerr=[below, above], color=colours[name], marker="o", linewidth=1.8, elinewidth=1.2, capsize=3
        )
        if place < len(PALETTE):
            ends.append((rates[-1], name, colours[name]))
    name_ends(axes, ends, 0.05)
    axes.set_ylim(-0.01, 1.01)
    start, end = min(one.start for one in seen), max(one.end for one in seen)
    axes.set_xlim(day_of(start), day_of(max(end, start + timedelta(seconds=1))))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("decisions with feedback", fontsize=11, color=INK)
    time_axis(axes)
    return figure


def _finding(totals: dict[str, list[int]]) -> str:
    covered, decisions = zip(*totals.values(), strict=True)
    every = sum(covered) / sum(decisions)
    p = coverage_test(covered, decisions)
    if p is None:
        return f"Feedback covers {every:.0%} of the decisions"
    if p >= _DIFFERENT:
        return f"Feedback covers the arms alike: {every:.0%} of the decisions"
    rates = {name: own / n for name, (own, n) in totals.items()}
    low, high = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
    return f"Feedback covers the arms differently: {low} {rates[low]:.0%}, {high} {rates[high]:.0%}"
