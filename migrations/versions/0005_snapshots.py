"""Snapshots: posteriors as they were, and for each event which of them it is in.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SNAPSHOTS = """
CREATE TABLE snapshots (
    incarnation bigint NOT NULL REFERENCES experiments,
    policy_version bigint NOT NULL,
    taken_at timestamptz NOT NULL,
    matured_to timestamptz,
    kept_from date,
    arms smallint[] NOT NULL,
    active boolean[] NOT NULL,
    success_micros bigint[] NOT NULL,
    failure_micros bigint[] NOT NULL,
    n bigint[] NOT NULL,
    prior_alpha double precision[] NOT NULL,
    prior_beta double precision[] NOT NULL,
    alpha double precision[] NOT NULL,
    beta double precision[] NOT NULL,
    probability_best double precision[] NOT NULL,
    expected_loss double precision[] NOT NULL,
    allocation double precision[] NOT NULL,
    PRIMARY KEY (incarnation, policy_version),
    CONSTRAINT snapshots_aligned CHECK (cardinality(arms) = ALL (ARRAY[
        cardinality(active), cardinality(success_micros), cardinality(failure_micros), cardinality(n),
        cardinality(prior_alpha), cardinality(prior_beta), cardinality(alpha), cardinality(beta),
        cardinality(probability_best), cardinality(expected_loss), cardinality(allocation)]))
);
CREATE INDEX snapshots_taken ON snapshots (incarnation, taken_at);
COMMENT ON TABLE snapshots IS 'Posteriors as they were: rows are added and never changed. The arrays are aligned with arms';
COMMENT ON COLUMN snapshots.incarnation IS 'The experiment';
COMMENT ON COLUMN snapshots.policy_version IS
    'The version of the evidence: it holds every event whose applied_version is lower, and no other';
COMMENT ON COLUMN snapshots.taken_at IS 'When it was taken, by the clock of the replica that did it';
COMMENT ON COLUMN snapshots.matured_to IS
    'Outcomes of decisions made until then were in the evidence, later ones waited; null: every outcome counted at once';
COMMENT ON COLUMN snapshots.kept_from IS 'The first day whose events were kept then; null: every day was';
COMMENT ON COLUMN snapshots.arms IS 'Numbers of the arms: active ones in the order of the definition, then retired ones';
COMMENT ON COLUMN snapshots.active IS 'Whether the arm was offered traffic';
COMMENT ON COLUMN snapshots.success_micros IS 'Sum of the rewards, in millionths';
COMMENT ON COLUMN snapshots.failure_micros IS 'Sum of 1 - reward, in millionths';
COMMENT ON COLUMN snapshots.n IS 'Outcomes counted';
COMMENT ON COLUMN snapshots.prior_alpha IS 'Imagined successes of the prior in force then';
COMMENT ON COLUMN snapshots.prior_beta IS 'Imagined failures of the prior in force then';
COMMENT ON COLUMN snapshots.alpha IS 'Prior plus successes';
COMMENT ON COLUMN snapshots.beta IS 'Prior plus failures';
COMMENT ON COLUMN snapshots.probability_best IS
    'Probability that the arm was the best of the active ones; 0 for retired ones';
COMMENT ON COLUMN snapshots.expected_loss IS 'Expected reward given up by choosing the arm for ever; 0 for retired ones';
COMMENT ON COLUMN snapshots.allocation IS 'Propensity of the arm, after floor and caps; 0 for retired ones';

ALTER TABLE events ADD COLUMN applied_version bigint;
COMMENT ON COLUMN events.applied_version IS
    'The version of the evidence that the event came to: later versions hold it; null: stored before this was kept';

CREATE VIEW posterior_history AS
SELECT x.experiment_id, s.policy_version, s.taken_at, a.arm_id, a.version AS arm_version, p.active, p.alpha, p.beta, p.n,
       p.alpha / (p.alpha + p.beta) AS mean, p.probability_best, p.expected_loss, p.allocation, s.matured_to
FROM snapshots s
JOIN experiments x USING (incarnation)
CROSS JOIN LATERAL unnest(s.arms, s.active, s.alpha, s.beta, s.n, s.probability_best, s.expected_loss, s.allocation)
    AS p (arm, active, alpha, beta, n, probability_best, expected_loss, allocation)
JOIN arms a ON a.incarnation = s.incarnation AND a.arm = p.arm;
COMMENT ON VIEW posterior_history IS 'The posterior of every arm at every snapshot; order by taken_at';
COMMENT ON COLUMN posterior_history.experiment_id IS 'The experiment';
COMMENT ON COLUMN posterior_history.policy_version IS 'The version of the evidence';
COMMENT ON COLUMN posterior_history.taken_at IS 'When the snapshot was taken';
COMMENT ON COLUMN posterior_history.arm_id IS 'The arm';
COMMENT ON COLUMN posterior_history.arm_version IS 'Another model or config under the same arm id is another version';
COMMENT ON COLUMN posterior_history.active IS 'Whether the arm was offered traffic';
COMMENT ON COLUMN posterior_history.alpha IS 'Prior plus successes';
COMMENT ON COLUMN posterior_history.beta IS 'Prior plus failures';
COMMENT ON COLUMN posterior_history.n IS 'Outcomes counted';
COMMENT ON COLUMN posterior_history.mean IS 'alpha / (alpha + beta)';
COMMENT ON COLUMN posterior_history.probability_best IS
    'Probability that the arm was the best of the active ones; 0 for retired ones';
COMMENT ON COLUMN posterior_history.expected_loss IS
    'Expected reward given up by choosing the arm for ever; 0 for retired ones';
COMMENT ON COLUMN posterior_history.allocation IS 'Propensity of the arm, after floor and caps; 0 for retired ones';
COMMENT ON COLUMN posterior_history.matured_to IS
    'Outcomes of decisions made until then were in the evidence, later ones waited; null: every outcome counted at once';
"""


def upgrade() -> None:
    """Create what snapshots need; nothing that is there is rewritten."""
    op.execute(SNAPSHOTS)
