"""Imports of outcomes from before, and the audit of imports and erasures.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

IMPORTS = """
CREATE TABLE imports (
    incarnation bigint NOT NULL REFERENCES experiments,
    import_id text COLLATE "C" NOT NULL,
    imported_at timestamptz NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    applied_version bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    arms smallint[] NOT NULL,
    segments text[] NOT NULL,
    success_micros bigint[] NOT NULL,
    failure_micros bigint[] NOT NULL,
    n bigint[] NOT NULL,
    PRIMARY KEY (incarnation, import_id),
    UNIQUE (incarnation, content_hash),
    CONSTRAINT imports_aligned CHECK (cardinality(arms) = ALL (ARRAY[
        cardinality(segments), cardinality(success_micros), cardinality(failure_micros), cardinality(n)]))
);
COMMENT ON TABLE imports IS
    'Outcomes from elsewhere that were added to evidence_base: rows are added and never changed. The arrays are aligned';
COMMENT ON COLUMN imports.incarnation IS 'The experiment';
COMMENT ON COLUMN imports.import_id IS 'The name of the import: importing under it again changes nothing';
COMMENT ON COLUMN imports.imported_at IS 'When, by Postgres'' clock';
COMMENT ON COLUMN imports.content_hash IS 'SHA-256 of the file: the same one is not imported twice';
COMMENT ON COLUMN imports.first_at IS 'The earliest time in the file';
COMMENT ON COLUMN imports.last_at IS 'The latest time in the file';
COMMENT ON COLUMN imports.applied_version IS 'The version of the evidence that it came to: later versions hold it';
COMMENT ON COLUMN imports.actor IS 'Who asked for it';
COMMENT ON COLUMN imports.reason IS 'Why, for people';
COMMENT ON COLUMN imports.arms IS 'Numbers of the arms within the experiment';
COMMENT ON COLUMN imports.segments IS 'As in evidence_base';
COMMENT ON COLUMN imports.success_micros IS 'Sum of the rewards, in millionths';
COMMENT ON COLUMN imports.failure_micros IS 'Sum of 1 - reward, in millionths';
COMMENT ON COLUMN imports.n IS 'Outcomes';
COMMENT ON TABLE evidence_base IS 'What the outcomes of dropped days and of imports add up to; the rest is in evidence';
COMMENT ON VIEW evidence_all IS 'Evidence of kept days by the hour, and of dropped days and imports in one sum';
COMMENT ON COLUMN evidence_all.bucket IS 'The hour of the decisions; null for all dropped days and imports together';
COMMENT ON COLUMN posterior_latest.n IS 'Outcomes counted, those of dropped days and of imports included';
"""

# Not validated against the rows there are: it only widens what was allowed.
TRANSITIONS = """
ALTER TABLE transitions DROP CONSTRAINT transitions_kind_check;
ALTER TABLE transitions ADD CONSTRAINT transitions_kind_check
    CHECK (kind IN ('definition', 'state', 'ramp', 'verdict', 'import', 'erasure')) NOT VALID;
COMMENT ON COLUMN transitions.kind IS 'What changed: definition, state, ramp, verdict, import or erasure';
"""

# The columns of the first release's view that said nothing.
DECISION_LOG = """
COMMENT ON COLUMN decision_log.experiment_id IS 'The experiment';
COMMENT ON COLUMN decision_log.decision_key IS 'The decision: events and outcomes have it too';
COMMENT ON COLUMN decision_log.decided_at IS 'When it was made';
COMMENT ON COLUMN decision_log.arm_id IS 'The arm';
COMMENT ON COLUMN decision_log.arm_version IS 'Another model or config under the same arm id is another version';
COMMENT ON COLUMN decision_log.model IS 'The model of the arm';
COMMENT ON COLUMN decision_log.policy_version IS 'The policy that made it';
COMMENT ON COLUMN decision_log.reason IS
    'sampled: drawn then; sticky: this unit''s earlier draw; fallback; forced and holdout: never learned from';
COMMENT ON COLUMN decision_log.unit_id IS 'What is randomised; empty where the caller gave none, or it was erased';
COMMENT ON COLUMN decision_log.session_id IS 'Likewise';
COMMENT ON COLUMN decision_log.turn_id IS 'Likewise';
COMMENT ON COLUMN decision_log.request_id IS 'Likewise';
COMMENT ON COLUMN decision_log.segment IS 'The caller''s label of a slice of traffic';
COMMENT ON COLUMN decision_log.prompt_fingerprint IS 'The caller''s fingerprint of the prompt; may be empty';
COMMENT ON COLUMN decision_log.prompt_similarity IS 'To the turn before, in [0, 1]; null where the caller gave none';
COMMENT ON COLUMN decision_log.outcome_at IS 'When what decided the outcome happened; null while there is none';
COMMENT ON COLUMN decision_log.allocation_arm_ids IS 'The arms that could have been drawn';
"""


def upgrade() -> None:
    """Create what imports need, and describe what was not described; nothing that is there is rewritten."""
    for statements in (IMPORTS, TRANSITIONS, DECISION_LOG):
        op.execute(statements)
