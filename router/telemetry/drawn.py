"""How decisions fell out, beside what the vectors that they were drawn from promised: for sample ratios.

On the hot path a decision is one increment in a list. Labels and sums of probabilities are made when somebody asks.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from router.policy import Choice, Policy
from router.telemetry import catalogue
from router.telemetry.tallies import Names, Sample, Tally
from router.v1 import routing_pb2

_REASONS: Final = tuple(name.removeprefix("REASON_").lower() for name in routing_pb2.Reason.DESCRIPTOR.values_by_name)
_SAMPLED: Final = routing_pb2.REASON_SAMPLED
#: Vectors whose counts are kept apart; policies change many times a second under load.
_VECTORS: Final = 256


class _Vector(NamedTuple):
    experiment_id: str
    arm_ids: tuple[str, ...]
    probabilities: tuple[float, ...]
    #: By position of the arm, then by reason.
    counts: list[int]


class Drawn:
    """The decisions of one process."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._vectors: dict[bytes, _Vector] = {}
        #: Decided, and not made yet.
        self._pending: list[tuple[list[int], int]] = []
        self._decisions = Tally(catalogue.DECISIONS)
        self._expected = Tally(catalogue.EXPECTED)
        #: By experiment id, decisions to be mirrored.
        self.mirrored: Counter[str] = Counter()

    def decided(self, policy: Policy, choice: Choice, position: int, reason: int) -> None:
        """Take note of a decision, which counts once `made` is called."""
        vector = self._vectors.get(choice.allocation_id)
        if vector is None:
            vector = self._begin(policy, choice)
        self._pending.append((vector.counts, position * len(_REASONS) + reason))

    def made(self) -> None:
        """Count what was decided: it is in the journal."""
        for counts, index in self._pending:
            counts[index] += 1
        self._pending.clear()

    def dropped(self) -> None:
        """Forget what was decided: the journal refused it."""
        self._pending.clear()

    def samples(self) -> Iterator[Sample]:
        """Return what was counted."""
        self._fold()
        yield from self._decisions.samples()
        yield from self._expected.samples()
        for experiment_id, count in self.mirrored.items():
            yield catalogue.MIRRORED.name, self._names.of(experiment_id)[:1], count

    def _begin(self, policy: Policy, choice: Choice) -> _Vector:
        if len(self._vectors) >= _VECTORS and not self._pending:
            self._fold()
            self._vectors.clear()
        arm_ids = tuple(arm.arm_id for arm in policy.arms)
        counts = [0] * (len(arm_ids) * len(_REASONS))
        vector = _Vector(policy.definition.experiment_id, arm_ids, tuple(choice.probabilities.tolist()), counts)
        self._vectors[choice.allocation_id] = vector
        return vector

    def _fold(self) -> None:
        """Add up by experiment and arm what was counted by vector."""
        for vector in self._vectors.values():
            labels = [self._names.of(vector.experiment_id, arm_id) for arm_id in vector.arm_ids]
            drawn = 0
            for index, count in enumerate(vector.counts):
                if count:
                    position, reason = divmod(index, len(_REASONS))
                    self._decisions.add((*labels[position], _REASONS[reason]), count)
                    drawn += count * (reason == _SAMPLED)
                    vector.counts[index] = 0
            if drawn:
                for label, probability in zip(labels, vector.probabilities, strict=True):
                    self._expected.add(label, drawn * probability)
                    # Both series of an arm begin together: what a series begins with is no increase to Prometheus.
                    self._decisions.add((*label, _REASONS[_SAMPLED]), 0)
