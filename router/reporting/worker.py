"""What a worker reports."""

from collections.abc import Iterator
from dataclasses import dataclass

from router.budgets import Budgets, is_limited
from router.feedback_spool import FeedbackSpool
from router.ingest import Ingest
from router.journal import Journal
from router.registry import Registry
from router.reporting.process import process_samples
from router.storage.database import Database
from router.telemetry import catalogue
from router.telemetry.answered import Answered
from router.telemetry.calls import Calls
from router.telemetry.drawn import Drawn
from router.telemetry.tallies import Names, Sample


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The parts of a worker that know something."""

    names: Names
    calls: Calls
    drawn: Drawn
    answered: Answered
    registry: Registry
    budgets: Budgets
    ingest: Ingest
    journal: Journal
    feedback_spool: FeedbackSpool
    database: Database

    def samples(self) -> Iterator[Sample]:
        """Return every value, as of now."""
        yield from self.calls.samples()
        yield from self.drawn.samples()
        yield from self.answered.samples()
        yield from self.registry.lag.samples()
        yield catalogue.CONTRADICTIONS.name, (), self.ingest.contradictions
        yield catalogue.EVENTS_WAITING.name, (), self.ingest.waiting
        yield catalogue.SPOOL_REFUSED.name, ("decisions",), self.journal.refused
        yield catalogue.SPOOL_REFUSED.name, ("events",), self.feedback_spool.refused
        yield from self._learned()
        yield from process_samples("worker", self.database)

    def _learned(self) -> Iterator[Sample]:
        yield catalogue.STALE.name, (), self.registry.stale_for_s()
        yield catalogue.UNREADABLE.name, (), self.registry.unreadable
        for entry in self.registry.entries:
            definition = entry.definition
            experiment_id = definition.experiment_id
            # Those that nobody routed have no series here: a worker may know thousands of them.
            if experiment_id not in self.names:
                continue
            if entry.policy is not None:
                yield catalogue.POLICY_VERSION.name, (experiment_id,), entry.policy_version
                yield catalogue.POLICY_AGE.name, (experiment_id,), self.registry.age_s(entry)
            rule = definition.rules.shadow
            if is_limited(definition) and rule is not None and rule.daily_budget_usd is not None:
                yield catalogue.SHADOW_BUDGET.name, (experiment_id,), rule.daily_budget_usd
                yield catalogue.SHADOW_SPEND.name, (experiment_id,), self.budgets.spent_usd(definition.incarnation)
