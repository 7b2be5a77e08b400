"""Retention: the base of evidence that dropped days leave behind, and what lets tables grow to many days.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE evidence_base (
    incarnation bigint NOT NULL REFERENCES experiments,
    arm smallint NOT NULL,
    segment text COLLATE "C" NOT NULL,
    success_micros bigint NOT NULL,
    failure_micros bigint NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (incarnation, arm, segment),
    CONSTRAINT evidence_base_not_negative CHECK (success_micros >= 0 AND failure_micros >= 0 AND n >= 0),
    CONSTRAINT evidence_base_adds_up CHECK (success_micros + failure_micros = n * 1000000)
);
COMMENT ON TABLE evidence_base IS 'What the outcomes of dropped days add up to; the rest is in evidence';
COMMENT ON COLUMN evidence_base.incarnation IS 'The experiment';
COMMENT ON COLUMN evidence_base.arm IS 'The number of the arm within the experiment';
COMMENT ON COLUMN evidence_base.segment IS 'As in evidence';
COMMENT ON COLUMN evidence_base.success_micros IS 'Sum of the rewards, in millionths';
COMMENT ON COLUMN evidence_base.failure_micros IS 'Sum of 1 - reward, in millionths';
COMMENT ON COLUMN evidence_base.n IS 'Outcomes counted';

CREATE TABLE retention (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    kept_from date
);
INSERT INTO retention DEFAULT VALUES;
COMMENT ON TABLE retention IS 'Which days are kept';
COMMENT ON COLUMN retention.only_row IS 'Always true: there is one row';
COMMENT ON COLUMN retention.kept_from IS
    'Earlier days, of the decision and in UTC, take no events and are dropped or about to be; null: every day is kept';

CREATE TABLE dropped_allocations (
    allocation_id uuid PRIMARY KEY
);
COMMENT ON TABLE dropped_allocations IS 'Work under way: allocations to delete, unless a kept decision was drawn from them';
COMMENT ON COLUMN dropped_allocations.allocation_id IS 'A decision of a dropped day was drawn from it';
"""

# Written with the version, so that replicas can tell how long ago what they learn of happened.
VERSIONS = """
ALTER TABLE policy_versions ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN policy_versions.changed_at IS 'When the policy version was last raised';
"""

# Replicas read every hour of an experiment whenever it learns. Its rows lie scattered over the table, since all experiments
# write at once; in the index they lie together. Updates are no longer HOT for it, and pages need no room for them.
EVIDENCE = """
ALTER TABLE evidence DROP CONSTRAINT evidence_pkey,
    ADD CONSTRAINT evidence_pkey PRIMARY KEY (incarnation, arm, segment, bucket)
        INCLUDE (success_micros, failure_micros, n);
ALTER TABLE evidence RESET (fillfactor);
"""

# Whether a kept decision still refers to an allocation.
ALLOCATIONS = "CREATE INDEX decisions_allocation_id ON decisions (allocation_id)"

STICKY = """
ALTER TABLE sticky_assignments SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05)
"""

# New partitions get these from router/storage/partitions.py, outcomes with room for corrections besides.
PARTITIONS = """
DO $$
DECLARE
    partition regclass;
BEGIN
    FOR partition IN
        SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent IN ('decisions'::regclass, 'events'::regclass, 'outcomes'::regclass)
    LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_vacuum_insert_scale_factor = 0,'
            ' autovacuum_vacuum_insert_threshold = 100000, autovacuum_freeze_min_age = 0)', partition);
    END LOOP;
END $$
"""

VIEWS = """
CREATE VIEW evidence_all AS
SELECT incarnation, arm, segment, bucket, success_micros, failure_micros, n FROM evidence
UNION ALL
SELECT incarnation, arm, segment, NULL, success_micros, failure_micros, n FROM evidence_base;
COMMENT ON VIEW evidence_all IS 'Evidence of kept days by the hour, and of dropped days in one sum';
COMMENT ON COLUMN evidence_all.incarnation IS 'The experiment';
COMMENT ON COLUMN evidence_all.arm IS 'The number of the arm within the experiment';
COMMENT ON COLUMN evidence_all.segment IS 'As in evidence';
COMMENT ON COLUMN evidence_all.bucket IS 'The hour of the decisions; null for all dropped days together';
COMMENT ON COLUMN evidence_all.success_micros IS 'Sum of the rewards, in millionths';
COMMENT ON COLUMN evidence_all.failure_micros IS 'Sum of 1 - reward, in millionths';
COMMENT ON COLUMN evidence_all.n IS 'Outcomes counted';

CREATE OR REPLACE VIEW posterior_latest AS
SELECT x.experiment_id, a.arm_id, a.version AS arm_version, a.active, v.policy_version, p.alpha, p.beta,
       p.n, p.alpha / (p.alpha + p.beta) AS mean
FROM experiments x
JOIN policy_versions v USING (incarnation)
JOIN arms a USING (incarnation)
LEFT JOIN LATERAL (
    SELECT coalesce(sum(e.success_micros), 0) AS success_micros, coalesce(sum(e.failure_micros), 0) AS failure_micros,
           coalesce(sum(e.n), 0)::bigint AS n
    FROM evidence_all e WHERE e.incarnation = a.incarnation AND e.arm = a.arm
) s ON true
CROSS JOIN LATERAL (
    SELECT coalesce((x.allocation #>> '{prior,alpha}')::double precision, 1) + s.success_micros / 1e6 AS alpha,
           coalesce((x.allocation #>> '{prior,beta}')::double precision, 1) + s.failure_micros / 1e6 AS beta,
           s.n AS n
) p;
COMMENT ON COLUMN posterior_latest.experiment_id IS 'The experiment';
COMMENT ON COLUMN posterior_latest.arm_id IS 'The arm';
COMMENT ON COLUMN posterior_latest.arm_version IS 'Another model or config under the same arm id is another version';
COMMENT ON COLUMN posterior_latest.active IS 'Whether decisions may still choose it';
COMMENT ON COLUMN posterior_latest.n IS 'Outcomes counted, those of dropped days included';
"""

# Nobody reads or writes what these statements change from here to the commit. In the order in which a batch of events comes
# to the tables, so that none of them and the migration wait for one another.
LOCKS = "LOCK TABLE policy_versions, events, evidence IN ACCESS EXCLUSIVE MODE"

# Rows of the version before, which may still write while replicas are replaced, keep the name in details.
SIGNALS = """
ALTER TABLE events ADD COLUMN signal text;
COMMENT ON COLUMN events.signal IS 'The name of the signal; null for a reward or a call';
UPDATE events SET signal = details ->> 'signal', details = nullif(details - 'signal', '{}'::jsonb)
WHERE kind = 'signal' AND details ->> 'signal' IS NOT NULL;
"""


def upgrade() -> None:
    """Create the tables, and rewrite what is there."""
    for statements in (TABLES, ALLOCATIONS, STICKY, PARTITIONS, LOCKS, VERSIONS, EVIDENCE, SIGNALS, VIEWS):
        op.execute(statements)
