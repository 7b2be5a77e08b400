"""Every metric that the router exposes: the one place for its name, kind, meaning, labels and how processes add up.

Names are those of Prometheus: base units, `_total` for counters. A label has few values: methods, codes, experiments, arms.
Never a unit, a session, a decision. A counter or a histogram of a host is the sum over its processes, those that ended
included. A gauge is that of the processes that live, added up or the largest or smallest of them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PREFIX: Final = "bandit_router_"


class Kind(StrEnum):
    """How a metric behaves; the values are Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Over(StrEnum):
    """What the gauge of a host is, of those of its processes."""

    SUM = "sum"
    LARGEST = "largest"
    SMALLEST = "smallest"


class Source(StrEnum):
    """Who knows a metric."""

    WORKER = "workers"
    KEEPER = "the keeper"
    #: One keeper of a deployment: so these are exposed by one host at a time.
    LEADER = "the keeper that leads"
    CHILD = "workers and the keeper"
    SUPERVISOR = "the supervisor"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as its documentation and its exposition need it."""

    #: With prefix, and `_total` where it counts.
    name: str
    kind: Kind
    source: Source
    help: str
    labels: tuple[str, ...] = ()
    over: Over = Over.SUM
    #: Upper bounds of a histogram's buckets, inclusive; the last bucket has none.
    bounds: tuple[float, ...] = ()


CATALOGUE: Final[dict[str, Metric]] = {}


def _add(metric: Metric) -> Metric:
    CATALOGUE[metric.name] = metric
    return metric


def _counter(name: str, source: Source, text: str, *labels: str) -> Metric:
    return _add(Metric(f"{PREFIX}{name}_total", Kind.COUNTER, source, text, labels))


def _gauge(name: str, source: Source, text: str, *labels: str, over: Over = Over.LARGEST) -> Metric:
    return _add(Metric(PREFIX + name, Kind.GAUGE, source, text, labels, over))


def _histogram(name: str, source: Source, text: str, *labels: str, bounds: tuple[float, ...]) -> Metric:
    return _add(Metric(PREFIX + name, Kind.HISTOGRAM, source, text, labels, bounds=bounds))


# Calls.
RPC_DURATION: Final = _histogram(
    "rpc_duration_seconds",
    Source.WORKER,
    "Calls that ended, by the status code that their clients were sent, and how long their handlers took.",
    "service",
    "method",
    "code",
    bounds=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
RPC_IN_FLIGHT: Final = _gauge("rpc_in_flight", Source.WORKER, "Calls that are being handled.", over=Over.SUM)
ITEM_ERRORS: Final = _counter(
    "batch_item_errors", Source.WORKER, "Items of BatchRoute and BatchReward that failed while their call did not.", "code"
)

# Decisions.
DECISIONS: Final = _counter(
    "decisions",
    Source.WORKER,
    "Decisions that were made, by the arm drawn and the reason given. A repeated request id makes none.",
    "experiment",
    "arm",
    "reason",
)
EXPECTED: Final = _counter(
    "expected_decisions",
    Source.WORKER,
    "Sum of each arm's probability over the decisions of reason sampled: what decisions_total should be, but for chance.",
    "experiment",
    "arm",
)
MIRRORED: Final = _counter(
    "mirrored_decisions", Source.WORKER, "Decisions that were to be mirrored to shadow arms.", "experiment"
)
SHADOW_SPEND: Final = _gauge(
    "shadow_spend_dollars", Source.WORKER, "What shadow calls cost today (UTC), where they have a budget.", "experiment"
)
SHADOW_BUDGET: Final = _gauge("shadow_budget_dollars", Source.WORKER, "What shadow calls may cost a day.", "experiment")

# Feedback.
EVENTS: Final = _counter(
    "events",
    Source.WORKER,
    "Events by the status that they were answered with. Those spooled are counted once, as spooled; an experiment that only"
    " Postgres knows while it is away has no name.",
    "experiment",
    "arm",
    "status",
)
CONTRADICTIONS: Final = _counter(
    "contradictory_events", Source.CHILD, "Events whose id was known for their decision, with another content."
)
REWARD_LAG: Final = _histogram(
    "reward_lag_seconds",
    Source.WORKER,
    "From a decision to the receipt of an event about it; without call reports and repetitions.",
    "experiment",
    bounds=(1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800),
)
EVENTS_WAITING: Final = _gauge(
    "events_waiting", Source.WORKER, "Events in memory that wait for a commit to begin.", over=Over.SUM
)
COVERAGE: Final = _gauge(
    "feedback_coverage_ratio",
    Source.LEADER,
    "Share of the arm's recent decisions with any event: of the newest 10,000 of the experiment that are old enough (15"
    " minutes, or mature_after if that is longer) and not older than a day more.",
    "experiment",
    "arm",
)
COVERAGE_DECISIONS: Final = _gauge(
    "feedback_coverage_decisions",
    Source.LEADER,
    "How many decisions feedback_coverage_ratio is the share of.",
    "experiment",
    "arm",
)
ORPHANS: Final = _gauge(
    "orphan_events_ratio",
    Source.LEADER,
    "Share of sampled events, received 15 minutes to two days ago, whose decision is not in Postgres.",
)
ORPHANS_SAMPLED: Final = _gauge(
    "orphan_events_sampled", Source.LEADER, "How many events orphan_events_ratio is the share of."
)

# Learning.
LEARNING_LAG: Final = _histogram(
    "learning_lag_seconds",
    Source.WORKER,
    "From the commit of an event to the policy that knows it, for each policy version that a worker learned.",
    bounds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
STALE: Final = _gauge(
    "stale_seconds", Source.WORKER, "For how long policies could not be refreshed, as stale_for says; 0 when fresh."
)
POLICY_VERSION: Final = _gauge(
    "policy_version", Source.WORKER, "Policy version that Route answers by.", "experiment", over=Over.SMALLEST
)
POLICY_AGE: Final = _gauge(
    "policy_age_seconds", Source.WORKER, "Age of that version. It grows while nothing is learned.", "experiment"
)
UNREADABLE: Final = _gauge(
    "unreadable_experiments",
    Source.WORKER,
    "Experiments that stay at their last policy, as they cannot be read or compiled.",
)
COMMITTED_VERSION: Final = _gauge(
    "committed_policy_version", Source.LEADER, "Policy version that Postgres has.", "experiment"
)
SNAPSHOT_VERSION: Final = _gauge(
    "snapshot_policy_version", Source.LEADER, "Policy version of the last snapshot of the posterior.", "experiment"
)
SNAPSHOT_TIME: Final = _gauge(
    "snapshot_timestamp_seconds", Source.LEADER, "When that snapshot was taken, in seconds since 1970.", "experiment"
)

# What is believed.
ALLOCATION: Final = _gauge(
    "allocation_ratio", Source.LEADER, "Probability of the arm in the allocation.", "experiment", "arm"
)
PROBABILITY_BEST: Final = _gauge(
    "probability_best_ratio", Source.LEADER, "Probability that the arm has the largest mean reward.", "experiment", "arm"
)
MEAN: Final = _gauge("posterior_mean_ratio", Source.LEADER, "Mean of the arm's posterior.", "experiment", "arm")
OUTCOMES: Final = _gauge(
    "evidence_outcomes", Source.LEADER, "Outcomes that the arm's posterior rests on.", "experiment", "arm"
)
EXPECTED_LOSS: Final = _gauge(
    "expected_loss_ratio",
    Source.LEADER,
    "Expected reward that a decision for the arm forgoes: E[max mean - its mean] under the posterior.",
    "experiment",
    "arm",
)
EXPECTED_REGRET: Final = _gauge(
    "expected_regret_ratio",
    Source.LEADER,
    "Estimated regret of a decision: the sum over arms of allocation times expected loss.",
    "experiment",
)
EXPERIMENTS: Final = _gauge("experiments", Source.LEADER, "Experiments by state.", "state")
HIDDEN: Final = _gauge(
    "experiments_without_series",
    Source.LEADER,
    "Running experiments beyond the bound, which have no series of their own here.",
)

# The background.
LEADER: Final = _gauge("leader", Source.KEEPER, "1 while the keeper of this host leads, else 0.")
DUTY_DONE: Final = _gauge(
    "duty_last_success_timestamp_seconds", Source.LEADER, "When the leader last did a duty, in seconds since 1970.", "duty"
)
DUTY_FAILURES: Final = _counter("duty_failures", Source.KEEPER, "Attempts at a duty of the leader that failed.", "duty")
SPOOL_WAITING: Final = _gauge(
    "spool_waiting_bytes", Source.KEEPER, "Bytes in the spool that Postgres does not have, by what they are.", "kind"
)
SPOOL_OLDEST: Final = _gauge(
    "spool_oldest_seconds", Source.KEEPER, "Age of what waits longest, at most; 0 if nothing waits.", "kind"
)
SPOOL_USED: Final = _gauge(
    "spool_used_bytes", Source.KEEPER, "Bytes that the spool takes on disk, stored ones of open segments included.", "kind"
)
SPOOL_LIMIT: Final = _gauge("spool_limit_bytes", Source.KEEPER, "Bytes beyond which calls are refused.", "kind")
SPOOL_STORED: Final = _counter(
    "spool_stored_records", Source.KEEPER, "Records that went from the spool to Postgres.", "kind"
)
SPOOL_SET_ASIDE: Final = _counter(
    "spool_set_aside_records", Source.KEEPER, "Records that Postgres will never take, set aside as .refused.", "kind"
)
SPOOL_REFUSED: Final = _counter(
    "spool_refused_writes", Source.WORKER, "Writes to the spool that its bound or the disk refused.", "kind"
)

# Processes.
POOL: Final = _gauge(
    "database_pool_connections",
    Source.CHILD,
    "Connections of the pools for cold calls, by state: used or idle.",
    "state",
    over=Over.SUM,
)
CONNECT_FAILURES: Final = _counter("database_connect_failures", Source.CHILD, "Attempts to connect to Postgres that failed.")
CPU: Final = _counter("process_cpu_seconds", Source.CHILD, "Processor time that processes took, by role.", "role")
MEMORY: Final = _gauge("process_resident_memory_bytes", Source.CHILD, "Resident memory, by role.", "role", over=Over.SUM)
READY: Final = _gauge("ready", Source.SUPERVISOR, "1 while a worker answers Route, as /readyz says, else 0.")
WORKERS: Final = _gauge(
    "workers", Source.SUPERVISOR, "Workers by state: configured, and those of them that answer.", "state"
)
CHILD_DEATHS: Final = _counter(
    "process_deaths", Source.SUPERVISOR, "Workers and keepers that ended without having been told to, by role.", "role"
)
START_TIME: Final = _gauge(
    "start_timestamp_seconds", Source.SUPERVISOR, "When the service started, in seconds since 1970. Counters begin there."
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "certificate_expiry_timestamp_seconds",
    Source.SUPERVISOR,
    "When the first certificate in the file of --tls-cert expires, in seconds since 1970.",
)
BUILD: Final = _gauge("build_info", Source.SUPERVISOR, "1, of this version.", "version")
