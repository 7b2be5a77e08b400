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

CREATE TABLE pending_outcomes (
    incarnation bigint NOT NULL REFERENCES experiments,
    decided_at timestamptz NOT NULL,
    decision_day date NOT NULL,
    decision_key uuid NOT NULL,
    PRIMARY KEY (incarnation, decided_at, decision_key)
);
COMMENT ON TABLE pending_outcomes IS 'Decisions with an outcome that is not in the evidence yet, because they are too young';
COMMENT ON COLUMN pending_outcomes.incarnation IS 'The experiment';
COMMENT ON COLUMN pending_outcomes.decided_at IS 'When the decision was made';
COMMENT ON COLUMN pending_outcomes.decision_day IS 'Its day, in UTC';
COMMENT ON COLUMN pending_outcomes.decision_key IS 'The decision';
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


def upgrade() -> None:
    """Create what rollouts need; nothing that is there is rewritten."""
    for statements in (RAMPS, DECISIONS, MATURING, INTERLEAVINGS):
        op.execute(statements)
