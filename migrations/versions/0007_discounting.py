"""Discounted evidence: the hour that it is seen from, and the rule that a snapshot was taken under.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE policy_versions ADD COLUMN seen_from timestamptz;
COMMENT ON COLUMN policy_versions.seen_from IS
    'The hour that discounted evidence is seen from, at this policy version; null: nothing is discounted';
ALTER TABLE snapshots ADD COLUMN seen_from timestamptz, ADD COLUMN half_life_us bigint, ADD COLUMN window_us bigint,
    ADD CONSTRAINT snapshots_discount CHECK ((seen_from IS NULL AND half_life_us IS NULL AND window_us IS NULL)
        OR (seen_from IS NOT NULL AND (half_life_us IS NULL) <> (window_us IS NULL))) NOT VALID;
COMMENT ON COLUMN snapshots.seen_from IS
    'The hour that the evidence was seen from, where it was discounted; alpha and beta are of what it weighed then';
COMMENT ON COLUMN snapshots.half_life_us IS 'The half-life in force then, in microseconds; null where there was none';
COMMENT ON COLUMN snapshots.window_us IS 'The window in force then, in microseconds; null where there was none';
COMMENT ON COLUMN snapshots.alpha IS 'Prior plus successes, as they weighed then';
COMMENT ON COLUMN snapshots.beta IS 'Prior plus failures, as they weighed then';
"""

# As 0004 has it, but for evidence that is discounted. power() would refuse a result that is no float any more.
LATEST = """
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
    SELECT rtrim(x.allocation #>> '{discount,halfLife}', 's')::double precision AS half_life_s,
           rtrim(x.allocation #>> '{discount,window}', 's')::double precision AS window_s
) g
LEFT JOIN LATERAL (
    SELECT sum(e.success_micros * w.weight) AS success_micros, sum(e.failure_micros * w.weight) AS failure_micros
    FROM evidence e
    CROSS JOIN LATERAL (SELECT greatest(0, extract(epoch FROM v.seen_from - e.bucket))::double precision AS age_s) t
    CROSS JOIN LATERAL (
        SELECT CASE WHEN g.window_s IS NOT NULL THEN (t.age_s < g.window_s)::integer::double precision
                    WHEN t.age_s > 1000 * g.half_life_s THEN 0 ELSE power(2, -t.age_s / g.half_life_s) END AS weight
    ) w
    WHERE v.seen_from IS NOT NULL AND e.incarnation = a.incarnation AND e.arm = a.arm
) d ON true
CROSS JOIN LATERAL (
    SELECT coalesce(x.allocation #> ARRAY['priors', a.arm_id], x.allocation -> 'prior') AS own
) r
CROSS JOIN LATERAL (
    SELECT coalesce((r.own ->> 'alpha')::double precision, 1)
           + CASE WHEN v.seen_from IS NULL THEN s.success_micros / 1e6 ELSE coalesce(d.success_micros, 0) / 1e6 END AS alpha,
           coalesce((r.own ->> 'beta')::double precision, 1)
           + CASE WHEN v.seen_from IS NULL THEN s.failure_micros / 1e6 ELSE coalesce(d.failure_micros, 0) / 1e6 END AS beta,
           s.n AS n
) p
WHERE NOT (a.active AND a.role = 'shadow');
COMMENT ON COLUMN posterior_latest.alpha IS
    'The arm''s own prior, or that of all, plus successes; where they are discounted, as they weigh now';
COMMENT ON COLUMN posterior_latest.beta IS
    'The arm''s own prior, or that of all, plus failures; where they are discounted, as they weigh now';
COMMENT ON COLUMN posterior_latest.n IS
    'Outcomes counted, those of dropped days and of imports included, also where they are discounted';
"""


def upgrade() -> None:
    """Add what discounting needs; nothing that is there is rewritten."""
    for statements in (COLUMNS, LATEST):
        op.execute(statements)
