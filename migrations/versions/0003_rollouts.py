"""Rollouts: ramps and what changed them, outcomes that wait to mature, and interleavings.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

RAMPS = """
ALTER TABLE experiments ADD COLUMN ramp jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN experiments.ramp IS 'The RampRule as it was given, in protobuf JSON; {} where there is none';

CREATE TABLE ramps (
    incarnation bigint PRIMARY KEY REFERENCES experiments,
    phase text NOT NULL CHECK (phase IN ('ramping', 'awaiting approval', 'promoted', 'rolled back', 'aborted')),
    stage integer NOT NULL CHECK (stage >= 0),
    stage_since timestamptz NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    approved boolean NOT NULL,
    assessment jsonb
);
COMMENT ON TABLE ramps IS 'Where the canary ramp of each experiment stands';
COMMENT ON COLUMN ramps.incarnation IS 'The experiment';
COMMENT ON COLUMN ramps.phase IS 'ramping, awaiting approval, promoted, rolled back or aborted';
COMMENT ON COLUMN ramps.stage IS 'Index of the stage, from 0; of a ramp that has ended, the last one it was in';
COMMENT ON COLUMN ramps.stage_since IS 'When that stage began';
COMMENT ON COLUMN ramps.version IS '+1 with each transition: a change names the version that it changes';
COMMENT ON COLUMN ramps.approved IS 'Whether a human has approved the promotion';
COMMENT ON COLUMN ramps.assessment IS 'The last look, a RampAssessment in protobuf JSON; null before the first';

CREATE TABLE transitions (
    transition_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incarnation bigint NOT NULL REFERENCES experiments,
    transition_at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('definition', 'state', 'ramp', 'verdict')),
    from_value text NOT NULL,
    to_value text NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    assessment jsonb
);
CREATE INDEX transitions_incarnation ON transitions (incarnation, transition_id);
COMMENT ON TABLE transitions IS 'Every change of an experiment, its ramp and the verdict on its stage, with who and why';
COMMENT ON COLUMN transitions.transition_id IS 'Grows with time';
COMMENT ON COLUMN transitions.incarnation IS 'The experiment';
COMMENT ON COLUMN transitions.transition_at IS 'When, by the clock of the replica that did it';
COMMENT ON COLUMN transitions.kind IS 'What changed: definition, state, ramp or verdict';
COMMENT ON COLUMN transitions.from_value IS
    'From what: an etag, a state, a phase and stage, an outcome; empty where something begins';
COMMENT ON COLUMN transitions.to_value IS 'To what';
COMMENT ON COLUMN transitions.actor IS 'Who asked for it; ramp where nobody did; empty where it is not known';
COMMENT ON COLUMN transitions.reason IS 'Why, for people';
COMMENT ON COLUMN transitions.assessment IS
    'The numbers behind it, a RampAssessment in protobuf JSON; null for what people ask for';
"""

# Guardrails, metrics and derived signals read the decisions of one experiment from one time to another.
DECISIONS = """
CREATE INDEX decisions_incarnation ON decisions (incarnation, decided_at);
CREATE INDEX decisions_session ON decisions (incarnation, session_id, decided_at) WHERE session_id <> '';
"""

MATURING = """
ALTER TABLE policy_versions ADD COLUMN matured_to timestamptz;
COMMENT ON COLUMN policy_versions.matured_to IS
    'Outcomes of decisions made until then are in the evidence, later ones wait; null: every outcome counts at once';

ALTER TABLE outcomes ADD COLUMN decided_at timestamptz;
COMMENT ON COLUMN outcomes.decided_at IS
    'When the decision was made, where the outcome had to wait; null: it counted at once';

CREATE TABLE pending_outcomes (
    incarnation bigint NOT NULL,
    decided_at timestamptz NOT NULL,
    decision_day date NOT NULL,
    decision_key uuid NOT NULL,
    PRIMARY KEY (incarnation, decided_at, decision_key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
COMMENT ON TABLE pending_outcomes IS 'Decisions with an outcome that is not in the evidence yet, because they are too young';
COMMENT ON COLUMN pending_outcomes.incarnation IS 'The experiment';
COMMENT ON COLUMN pending_outcomes.decided_at IS 'As in outcomes';
COMMENT ON COLUMN pending_outcomes.decision_day IS 'The day of the decision, in UTC';
COMMENT ON COLUMN pending_outcomes.decision_key IS 'The decision';

ALTER TABLE reward_rules ADD COLUMN policy_version bigint;
COMMENT ON COLUMN reward_rules.policy_version IS
    'The first policy that decisions by this rule are drawn from; null: before any policy that is still drawn from';
"""

# The log of decisions names the policy, not the rule. A trigger, because routers of the version before still write rules
# while replicas are replaced. The lock keeps the policy version from moving until the one who writes the rule moves it.
RULES = """
CREATE FUNCTION reward_rule_policy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT v.policy_version + CASE WHEN NEW.version > 1 THEN 1 ELSE 0 END INTO NEW.policy_version
    FROM policy_versions v WHERE v.incarnation = NEW.incarnation FOR UPDATE;
    RETURN NEW;
END $$;
CREATE TRIGGER reward_rules_policy BEFORE INSERT ON reward_rules FOR EACH ROW EXECUTE FUNCTION reward_rule_policy();
"""

INTERLEAVINGS = """
CREATE TABLE interleavings (
    interleaving_key uuid PRIMARY KEY,
    incarnation bigint NOT NULL REFERENCES experiments,
    interleaved_at timestamptz NOT NULL,
    unit_id text NOT NULL,
    arms smallint[] NOT NULL,
    item_ids text[] NOT NULL,
    teams smallint[] NOT NULL,
    even smallint NOT NULL,
    CONSTRAINT interleavings_aligned CHECK (cardinality(item_ids) = cardinality(teams))
);
CREATE INDEX interleavings_incarnation ON interleavings (incarnation, interleaved_at);
COMMENT ON TABLE interleavings IS 'Lists made of the rankings of several arms';
COMMENT ON COLUMN interleavings.interleaving_key IS 'The list';
COMMENT ON COLUMN interleavings.incarnation IS 'The experiment';
COMMENT ON COLUMN interleavings.interleaved_at IS 'When it was made';
COMMENT ON COLUMN interleavings.unit_id IS 'The user or session it was made for; may be empty';
COMMENT ON COLUMN interleavings.arms IS 'Numbers of the arms that gave a ranking';
COMMENT ON COLUMN interleavings.item_ids IS 'The items, in the order shown';
COMMENT ON COLUMN interleavings.teams IS 'For each item, the index into arms of the arm that is credited for it';
COMMENT ON COLUMN interleavings.even IS
    'The positions from the top that every arm had the same chance of; others credit nobody';

CREATE TABLE interleaving_credits (
    interleaving_key uuid NOT NULL REFERENCES interleavings,
    position smallint NOT NULL CHECK (position >= 0),
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (interleaving_key, position)
);
COMMENT ON TABLE interleaving_credits IS 'Items of interleavings that users took, each once';
COMMENT ON COLUMN interleaving_credits.interleaving_key IS 'The list';
COMMENT ON COLUMN interleaving_credits.position IS 'The position in it, from 0';
COMMENT ON COLUMN interleaving_credits.occurred_at IS 'When';
COMMENT ON COLUMN interleaving_credits.received_at IS 'When the router heard of it';
"""

VIEWS = """
CREATE VIEW arm_metrics AS
SELECT x.experiment_id, a.arm_id, a.version AS arm_version, d.decision_day AS day, d.reason = 'holdout' AS holdout,
       count(*) AS interactions, count(*) FILTER (WHERE e.covered) AS covered,
       count(*) FILTER (WHERE e.retry) AS retries, count(*) FILTER (WHERE e.rephrase) AS rephrases,
       count(*) FILTER (WHERE e.abandonment) AS abandonments, count(*) FILTER (WHERE e.follow_up) AS follow_ups,
       count(*) FILTER (WHERE e.completion) AS completions,
       count(*) FILTER (WHERE e.covered)::float8 / count(*) AS coverage,
       count(*) FILTER (WHERE e.retry)::float8 / count(*) AS retry_rate,
       count(*) FILTER (WHERE e.rephrase)::float8 / count(*) AS rephrase_rate,
       count(*) FILTER (WHERE e.abandonment)::float8 / count(*) AS abandonment_rate,
       count(*) FILTER (WHERE e.follow_up)::float8 / count(*) AS follow_up_rate,
       count(*) FILTER (WHERE e.completion)::float8 / count(*) AS completion_rate,
       count(o.reward_micros) AS outcomes, (avg(o.reward_micros) / 1000000)::float8 AS mean_reward
FROM experiments x
JOIN decisions d USING (incarnation)
JOIN arms a ON a.incarnation = d.incarnation AND a.arm = d.arm
LEFT JOIN LATERAL (
    SELECT true AS covered, bool_or(signal = 'immediate_retry') AS retry, bool_or(signal = 'rephrased_query') AS rephrase,
           bool_or(signal = 'session_abandoned') AS abandonment, bool_or(signal = 'follow_up_question') AS follow_up,
           bool_or(signal = 'task_completed') AS completion
    FROM (SELECT coalesce(signal, details ->> 'signal') AS signal FROM events
          WHERE decision_day = d.decision_day AND decision_key = d.decision_key AND status <> 'late'
            AND kind <> 'no_feedback') s
    HAVING count(*) > 0
) e ON true
LEFT JOIN outcomes o ON o.decision_day = d.decision_day AND o.decision_key = d.decision_key
WHERE d.reason <> 'forced'
GROUP BY x.experiment_id, a.arm_id, a.version, d.decision_day, d.reason = 'holdout';
COMMENT ON VIEW arm_metrics IS 'What users did after the decisions of a day, by arm: for dashboards, not for significance';
COMMENT ON COLUMN arm_metrics.experiment_id IS 'The experiment';
COMMENT ON COLUMN arm_metrics.arm_id IS 'The arm';
COMMENT ON COLUMN arm_metrics.arm_version IS 'Another model or config under the same arm id is another version';
COMMENT ON COLUMN arm_metrics.day IS 'The day of the decisions, in UTC; say which days you want, others are not read then';
COMMENT ON COLUMN arm_metrics.holdout IS 'Whether these are the decisions for units that are held out';
COMMENT ON COLUMN arm_metrics.interactions IS 'Decisions; forced ones do not count';
COMMENT ON COLUMN arm_metrics.covered IS
    'Those with any event within the attribution window, which is what the shares below count too; silence is none';
COMMENT ON COLUMN arm_metrics.retries IS 'Those with immediate_retry';
COMMENT ON COLUMN arm_metrics.rephrases IS 'Those with rephrased_query';
COMMENT ON COLUMN arm_metrics.abandonments IS 'Those with session_abandoned';
COMMENT ON COLUMN arm_metrics.follow_ups IS 'Those with follow_up_question';
COMMENT ON COLUMN arm_metrics.completions IS 'Those with task_completed';
COMMENT ON COLUMN arm_metrics.coverage IS 'covered / interactions';
COMMENT ON COLUMN arm_metrics.retry_rate IS 'retries / interactions';
COMMENT ON COLUMN arm_metrics.rephrase_rate IS 'rephrases / interactions';
COMMENT ON COLUMN arm_metrics.abandonment_rate IS 'abandonments / interactions';
COMMENT ON COLUMN arm_metrics.follow_up_rate IS 'follow_ups / interactions';
COMMENT ON COLUMN arm_metrics.completion_rate IS 'completions / interactions';
COMMENT ON COLUMN arm_metrics.outcomes IS
    'Decisions with an outcome; those for units that are held out have none here, GetMetrics tells what it would be';
COMMENT ON COLUMN arm_metrics.mean_reward IS 'The mean of the outcomes; null without any';
"""


def upgrade() -> None:
    """Create what rollouts need; nothing that is there is rewritten."""
    for statements in (RAMPS, DECISIONS, MATURING, RULES, INTERLEAVINGS, VIEWS):
        op.execute(statements)
