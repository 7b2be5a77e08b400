"""Segments: snapshots of the posteriors that segments have of their own.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Snapshots are few, some hundreds for each experiment: their key is made anew in no time.
COLUMNS = """
ALTER TABLE snapshots ADD COLUMN segment text COLLATE "C" NOT NULL DEFAULT '', ADD COLUMN weight double precision,
    ADD COLUMN largest double precision,
    ADD CONSTRAINT snapshots_segment CHECK ((weight IS NULL) = (segment = '') AND (largest IS NULL) = (segment = ''))
        NOT VALID,
    DROP CONSTRAINT snapshots_pkey, ADD CONSTRAINT snapshots_pkey PRIMARY KEY (incarnation, segment, policy_version);
DROP INDEX snapshots_taken;
CREATE INDEX snapshots_taken ON snapshots (incarnation, segment, taken_at);
COMMENT ON COLUMN snapshots.segment IS 'The segment that the posterior is of; empty: of all traffic';
COMMENT ON COLUMN snapshots.weight IS 'Of a segment: what an outcome of other traffic was worth in its prior';
COMMENT ON COLUMN snapshots.largest IS 'Of a segment: outcomes that the other traffic was worth at most';
COMMENT ON COLUMN snapshots.success_micros IS 'Sum of the rewards, in millionths; of a segment, its own';
COMMENT ON COLUMN snapshots.failure_micros IS 'Sum of 1 - reward, in millionths; of a segment, its own';
COMMENT ON COLUMN snapshots.n IS 'Outcomes counted; of a segment, its own';
COMMENT ON COLUMN snapshots.prior_alpha IS 'Imagined successes of the prior in force then, without what a segment borrowed';
COMMENT ON COLUMN snapshots.prior_beta IS 'Imagined failures of the prior in force then, without what a segment borrowed';
COMMENT ON COLUMN snapshots.alpha IS 'Prior plus successes, as they weighed then; of a segment with what it borrowed';
COMMENT ON COLUMN snapshots.beta IS 'Prior plus failures, as they weighed then; of a segment with what it borrowed';
"""

# As 0005 has it, of all traffic, as before.
HISTORY = """
CREATE OR REPLACE VIEW posterior_history AS
SELECT x.experiment_id, s.policy_version, s.taken_at, a.arm_id, a.version AS arm_version, p.active, p.alpha, p.beta, p.n,
       p.alpha / (p.alpha + p.beta) AS mean, p.probability_best, p.expected_loss, p.allocation, s.matured_to
FROM snapshots s
JOIN experiments x USING (incarnation)
CROSS JOIN LATERAL unnest(s.arms, s.active, s.alpha, s.beta, s.n, s.probability_best, s.expected_loss, s.allocation)
    AS p (arm, active, alpha, beta, n, probability_best, expected_loss, allocation)
JOIN arms a ON a.incarnation = s.incarnation AND a.arm = p.arm
WHERE s.segment = '';
COMMENT ON VIEW posterior_history IS 'The posterior of every arm over all traffic, at every snapshot; order by taken_at';
"""

SEGMENTS = """
CREATE VIEW posterior_segments AS
SELECT x.experiment_id, s.segment, s.policy_version, s.taken_at, a.arm_id, a.version AS arm_version, p.active, p.alpha,
       p.beta, p.n, p.alpha / (p.alpha + p.beta) AS mean, p.probability_best, p.expected_loss, p.allocation, s.matured_to,
       s.weight, s.largest
FROM snapshots s
JOIN experiments x USING (incarnation)
CROSS JOIN LATERAL unnest(s.arms, s.active, s.alpha, s.beta, s.n, s.probability_best, s.expected_loss, s.allocation)
    AS p (arm, active, alpha, beta, n, probability_best, expected_loss, allocation)
JOIN arms a ON a.incarnation = s.incarnation AND a.arm = p.arm
WHERE s.segment <> '';
COMMENT ON VIEW posterior_segments IS 'The posterior of every arm in every segment that has its own, at every snapshot';
COMMENT ON COLUMN posterior_segments.experiment_id IS 'The experiment';
COMMENT ON COLUMN posterior_segments.segment IS 'The segment';
COMMENT ON COLUMN posterior_segments.policy_version IS 'The version of the evidence';
COMMENT ON COLUMN posterior_segments.taken_at IS 'When the snapshot was taken';
COMMENT ON COLUMN posterior_segments.arm_id IS 'The arm';
COMMENT ON COLUMN posterior_segments.arm_version IS 'Another model or config under the same arm id is another version';
COMMENT ON COLUMN posterior_segments.active IS 'Whether the arm was offered traffic';
COMMENT ON COLUMN posterior_segments.alpha IS
    'Prior, what it borrowed of other traffic, and the segment''s successes, as they weighed';
COMMENT ON COLUMN posterior_segments.beta IS
    'Prior, what it borrowed of other traffic, and the segment''s failures, as they weighed';
COMMENT ON COLUMN posterior_segments.n IS 'Outcomes counted in the segment';
COMMENT ON COLUMN posterior_segments.mean IS 'alpha / (alpha + beta)';
COMMENT ON COLUMN posterior_segments.probability_best IS
    'Probability that the arm was the best of the active ones in the segment; 0 for retired ones';
COMMENT ON COLUMN posterior_segments.expected_loss IS
    'Expected reward given up by choosing the arm for ever in the segment; 0 for retired ones';
COMMENT ON COLUMN posterior_segments.allocation IS
    'Propensity of the arm in the segment, after floor and caps; 0 for retired ones';
COMMENT ON COLUMN posterior_segments.matured_to IS
    'Outcomes of decisions made until then were in the evidence, later ones waited; null: every outcome counted at once';
COMMENT ON COLUMN posterior_segments.weight IS 'What an outcome of other traffic was worth in the prior';
COMMENT ON COLUMN posterior_segments.largest IS 'Outcomes that the other traffic was worth at most';
"""


def upgrade() -> None:
    """Give snapshots a segment; what is there is of all traffic."""
    for statements in (COLUMNS, HISTORY, SEGMENTS):
        op.execute(statements)
