"""What the log says of each arm, estimator by estimator: where raw means part from the others, adaptivity did it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from bandit.arm_estimates import ArmEstimates
from bandit.estimate import Estimate
from router.pictures.beliefs import of
from router.pictures.style import FAINT, INK, PALETTE, canvas, short
from router.pictures.values import NothingToDrawError

#: By estimator: its name, colour and marker.
_METHODS = {
    "raw": ("raw mean", "#8A8A8A", "s"),
    "ips": ("IPS", PALETTE[1], "v"),
    "snips": ("SNIPS", PALETTE[2], "^"),
    "dr": ("doubly robust", PALETTE[0], "o"),
    "adaptive": ("adaptive", PALETTE[3], "D"),
}


def estimates(arm_ids: Sequence[str], found: Sequence[ArmEstimates], *, experiment: str = "") -> Figure:
    """Draw the estimates of each arm with their intervals: a row for each arm, a line for each estimator.

    `found` is what `bandit.arm_estimates.estimate_arms` returns, and `arm_ids` has a name for each index. A hollow marker
    has an alarm: the estimate's `warnings` say which. Raises NothingToDrawError where no arm has an estimate, ValueError for
    an arm without a name.
    """
    for one in found:
        if not 0 <= one.arm < len(arm_ids):
            raise ValueError(f"arm_ids has {len(arm_ids)} names: there is none for arm {one.arm}")
    if not any(_of_arm(one) for one in found):
        why = f": {found[0].insufficient}" if found else ""
        raise NothingToDrawError(f"no arm can be estimated{why}")
    detail = "mean reward of each arm by estimator, and its interval for one look; hollow: with an alarm"
    figure, axes = canvas(_finding(arm_ids, found), of(experiment) + detail, left=0.19)
    methods = [name for name in _METHODS if any(getattr(one, name) is not None for one in found)]
    drawn = {}
    for row, one in enumerate(reversed(found)):
        if one.insufficient:
            axes.text(0.01, row, "no estimates", transform=axes.get_yaxis_transform(), color=FAINT, va="center")
        for place, name in enumerate(methods):
            estimate: Estimate | None = getattr(one, name)
            if estimate is None:
                continue
            label, colour, marker = _METHODS[name]
            height = row + 0.56 * (0.5 - (place + 0.5) / len(methods))
            axes.plot([estimate.lower, estimate.upper], [height] * 2, color=colour, linewidth=2.4, gid="interval")
            face = "white" if estimate.warnings else colour
            (drawn[label],) = axes.plot([estimate.value], [height], marker, color=colour, markerfacecolor=face, gid=name)
    axes.set_yticks(range(len(found)), [_row(arm_ids[one.arm], one) for one in reversed(found)], fontsize=12)
    axes.set_ylim(-0.5, len(found) - 0.5)
    axes.set_xlabel("mean reward", fontsize=11, color=INK)
    axes.grid(visible=False, axis="y")
    handles = [drawn[_METHODS[name][0]] for name in methods]
    labels = [_METHODS[name][0] for name in methods]
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=11, labelcolor=INK)
    return figure


def _row(arm_id: str, one: ArmEstimates) -> str:
    return f"{short(arm_id)}\n{one.decisions:,} decisions"


def _of_arm(one: ArmEstimates) -> list[Estimate]:
    return [found for found in (one.raw, one.ips, one.snips, one.dr, one.adaptive) if found is not None]


def _finding(arm_ids: Sequence[str], found: Sequence[ArmEstimates]) -> str:
    dr = {one.arm: one.dr for one in found if one.dr is not None}
    raw = {one.arm: one.raw for one in found if one.raw is not None}
    first = max(dr, key=lambda arm: dr[arm].value)
    if len(dr) == 1:
        return f"{arm_ids[first]} earns {dr[first].value:.3f}; no other arm can be estimated"
    by_raw = max(raw, key=lambda arm: raw[arm].value)
    if by_raw != first:
        return f"{arm_ids[first]} earns most by the doubly robust estimates, {arm_ids[by_raw]} by raw means"
    second = max((arm for arm in dr if arm != first), key=lambda arm: dr[arm].value)
    if dr[first].lower <= dr[second].upper:
        return f"{arm_ids[first]} earns most, but its interval overlaps that of {arm_ids[second]}"
    return f"{arm_ids[first]} earns most: {dr[first].value:.3f}, {arm_ids[second]} {dr[second].value:.3f}"
