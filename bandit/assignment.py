"""Assignment: how a unit gets its arm from an allocation.

Model
    A hash of experiment and unit stands in for the random number, so that every replica, at any time, gives a unit the
    same arm. Where weights are fixed, 10,000 buckets are dealt to the arms in a table: growing a share moves only the
    buckets that it needs. Where the allocation moves, weighted rendezvous hashing gives each arm of each unit an
    exponential race time with rate p_i; the first to finish wins, with probability p_i. Moving weight delta moves at
    most 2 delta / (1 + delta) of the units.

    A unit is held out if a number in [0, 1) that is its own is below the share: a larger share adds units and takes
    none away.

Assumes
    SHA-256 and keyed BLAKE2b behave as random functions. The salts of the uses differ, so that the uses are independent
    of one another.

Source
    Thaler & Ravishankar (1998), "Using name-based mappings to increase hit rates"; Schindelhauer & Schomaker (2005),
    "Weighted distributed hash tables", for the logarithmic method; Kohavi, Tang & Xu (2020), "Trustworthy Online
    Controlled Experiments", chapter 4, for hashed buckets.

Shapes
    table   BUCKETS arm numbers, as a tuple
    p       (K,) probabilities aligned with arm_ids
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256

BUCKETS = 10_000
_DRAW_BITS = 53


def bucket(experiment_id: str, unit_id: str, buckets: int = BUCKETS) -> int:
    """Return the unit's bucket in [0, buckets): int(SHA-256("experiment:unit")) mod buckets."""
    return int.from_bytes(sha256(f"{experiment_id}:{unit_id}".encode()).digest(), "big") % buckets


def rendezvous(experiment_id: str, unit_id: str, arm_ids: Sequence[str], p: Sequence[float]) -> str:
    """Return the arm of the unit by weighted rendezvous hashing; an arm of probability 0 is never returned.

    Raises ValueError if the lengths differ or no probability is positive.
    """
    if len(arm_ids) != len(p):
        raise ValueError(f"arm_ids has {len(arm_ids)} entries, p has {len(p)}: they must be aligned")
    winner, best = None, math.inf
    for arm_id, weight in zip(arm_ids, p, strict=True):
        if weight > 0.0:
            time = -math.log(_race_number(experiment_id, unit_id, arm_id)) / weight
            if winner is None or time < best:  # the least of all weights takes for ever
                winner, best = arm_id, time
    if winner is None:
        raise ValueError(f"p = {list(p)!r}: at least one probability must be positive")
    return winner


def _race_number(experiment_id: str, unit_id: str, arm_id: str) -> float:
    """Return a hash in (0, 1) of one arm for one unit. Lengths are hashed too: ids may contain the separator."""
    text = f"rendezvous:{len(experiment_id)}:{len(unit_id)}:{experiment_id}:{unit_id}:{arm_id}"
    number = int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> (64 - _DRAW_BITS)
    return (number + 0.5) * 2.0**-_DRAW_BITS


def unit_number(salt: str, experiment_id: str, unit_id: str) -> float:
    """Return the number in [0, 1) that a unit has for one use; the numbers of two uses tell nothing of one another.

    `salt` names the use, in 1 to 16 bytes. Raises ValueError for another length.
    """
    person = salt.encode()
    if not 1 <= len(person) <= 16:
        raise ValueError(f"salt is {salt!r}: it must have 1 to 16 bytes")
    text = f"{len(experiment_id)}:{experiment_id}{len(unit_id)}:{unit_id}"
    digest = blake2b(text.encode(), digest_size=8, person=person).digest()
    return (int.from_bytes(digest, "big") >> (64 - _DRAW_BITS)) * 2.0**-_DRAW_BITS


def held_out(experiment_id: str, unit_id: str, share: float) -> bool:
    """Return whether a unit belongs to the share of units, in [0, 1], that are held out.

    Independent of the arm that the unit would have. Raises ValueError for another share.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}: it must be from 0 to 1")
    return unit_number("holdout", experiment_id, unit_id) < share


def keyed_number(key: bytes, *parts: str) -> float:
    """Return a number in [0, 1) from a keyed hash of `parts`: the draw of a request that may be retried."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    digest = blake2b(text.encode(), key=key, digest_size=8, person=b"draw").digest()
    return (int.from_bytes(digest, "big") >> (64 - _DRAW_BITS)) * 2.0**-_DRAW_BITS


def bucket_counts(weights: Mapping[int, float], buckets: int = BUCKETS) -> dict[int, int]:
    """Round weights (summing to 1) to whole buckets by largest remainders, ties to the smaller arm number."""
    exact = {arm: weight * buckets for arm, weight in weights.items()}
    counts = {arm: math.floor(value + 1e-9) for arm, value in exact.items()}
    by_remainder = sorted(exact, key=lambda arm: (counts[arm] - exact[arm], arm))
    for arm in by_remainder[: buckets - sum(counts.values())]:
        counts[arm] += 1
    return counts


def deal_buckets(weights: Mapping[int, float], previous: Sequence[int] = (), buckets: int = BUCKETS) -> tuple[int, ...]:
    """Return a table that gives each arm number its share of the buckets, moving as few of `previous` as possible.

    `weights` sum to 1. With no `previous` table the arms get contiguous runs. Deterministic.
    """
    wanted = bucket_counts(weights, buckets)
    table = list(previous) if previous else [-1] * buckets
    surplus = Counter(table)
    surplus.subtract(wanted)
    takers = [arm for arm in sorted(wanted) for _ in range(-surplus[arm])]
    freed: list[int] = []
    for arm, excess in sorted(surplus.items()):
        if excess > 0:
            held = [index for index, owner in enumerate(table) if owner == arm]
            # An arm gives up the end that lies toward the taker, so that a share that shrinks and grows back is the same.
            freed += held[-excess:] if takers[-1] > arm else held[:excess]
    for index, taker in zip(sorted(freed), takers, strict=True):
        table[index] = taker
    return tuple(table)
