"""Coverage: whether feedback reaches the decisions for every arm alike, before arms are compared by what it says.

Model
    Of n_i decisions for arm i, x_i have feedback. If each has it with the same probability, Pearson's statistic
    sum (x_i - n_i x / n)^2 / (n_i (x / n) (1 - x / n)) with x = sum x_i, n = sum n_i is about chi-squared with K - 1
    degrees of freedom.

Assumes
    Decisions are independent. Those of one user are not, so that with many decisions a user it flags too often; and a share
    that changes with time flags arms whose traffic changed with it. A flag is a reason to look, not a verdict.

Source
    Pearson (1900); Cochran (1954), "Some methods for strengthening the common chi-squared tests", for how few suffice.

Shapes
    K   number of arms with decisions
"""

from collections.abc import Sequence

from scipy.special import chdtrc

#: The statistic is not trusted where fewer decisions of an arm than this would have, or lack, feedback.
LEAST_EXPECTED = 5.0


def coverage_test(covered: Sequence[int], decisions: Sequence[int]) -> float | None:
    """Return p of the null that the share of decisions with feedback is the same for all arms.

    Arms without decisions are left out. None where there is nothing to compare or too little: fewer than two arms, or fewer
    than five expected with or without feedback. Raises ValueError unless the arguments are aligned and 0 <= covered <=
    decisions.
    """
    if len(covered) != len(decisions):
        raise ValueError(f"covered has {len(covered)} entries, decisions has {len(decisions)}: they must be aligned")
    for i, (x, n) in enumerate(zip(covered, decisions, strict=True)):
        if not 0 <= x <= n:
            raise ValueError(f"covered[{i}] is {x}: it must be from 0 to its decisions, {n}")
    arms = [(x, n) for x, n in zip(covered, decisions, strict=True) if n]
    total = sum(n for _, n in arms)
    if len(arms) < 2:
        return None
    share = sum(x for x, _ in arms) / total
    if 0.0 < share < 1.0 and min(n for _, n in arms) * min(share, 1.0 - share) < LEAST_EXPECTED:
        return None
    if share in (0.0, 1.0):
        return 1.0
    statistic = sum((x - n * share) ** 2 / (n * share * (1.0 - share)) for x, n in arms)
    return float(chdtrc(len(arms) - 1, statistic))
