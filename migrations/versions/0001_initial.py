"""The tables of experiments, decisions, events, outcomes and evidence.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE deployment (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    deployment_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO deployment DEFAULT VALUES;

CREATE TABLE token_keys (
    key_id bigint PRIMARY KEY CHECK (key_id BETWEEN 0 AND 4294967295),
    secret bytea NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE experiments (
    incarnation bigint PRIMARY KEY,
    experiment_id text COLLATE "C" NOT NULL,
    description text NOT NULL,
    state text NOT NULL,
    etag text NOT NULL,
    allocation jsonb NOT NULL,
    assignment jsonb NOT NULL,
    reward_rule jsonb NOT NULL,
    reward_rule_version integer NOT NULL,
    bucket_table bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT experiments_experiment_id_key UNIQUE (experiment_id),
    CONSTRAINT experiments_state_check CHECK (state IN ('draft', 'running', 'paused', 'concluded'))
);

CREATE TABLE arms (
    incarnation bigint NOT NULL REFERENCES experiments,
    arm smallint NOT NULL CHECK (arm >= 0),
    position smallint NOT NULL,
    arm_id text COLLATE "C" NOT NULL,
    version integer NOT NULL CHECK (version >= 1),
    model text NOT NULL,
    family text NOT NULL,
    role text NOT NULL CHECK (role IN ('control', 'challenger')),
    config jsonb NOT NULL,
    cap double precision CHECK (cap > 0 AND cap <= 1),
    cost_usd double precision CHECK (cost_usd >= 0),
    active boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    PRIMARY KEY (incarnation, arm),
    UNIQUE (incarnation, arm_id, version)
);
CREATE UNIQUE INDEX arms_one_active_version ON arms (incarnation, arm_id) WHERE active;
CREATE UNIQUE INDEX arms_one_control ON arms (incarnation) WHERE active AND role = 'control';

CREATE TABLE reward_rules (
    incarnation bigint NOT NULL REFERENCES experiments,
    version integer NOT NULL,
    reward_rule jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incarnation, version)
);

-- Narrow, because every batch of events locks its rows: in id order, before it reads outcomes.
CREATE TABLE policy_versions (
    incarnation bigint PRIMARY KEY REFERENCES experiments,
    policy_version bigint NOT NULL DEFAULT 1,
    definition_version bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE evidence (
    incarnation bigint NOT NULL REFERENCES experiments,
    arm smallint NOT NULL,
    segment text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    success_micros bigint NOT NULL,
    failure_micros bigint NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (incarnation, arm, segment, bucket),
    CONSTRAINT evidence_not_negative CHECK (success_micros >= 0 AND failure_micros >= 0 AND n >= 0),
    CONSTRAINT evidence_adds_up CHECK (success_micros + failure_micros = n * 1000000)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE allocations (
    allocation_id uuid PRIMARY KEY,
    incarnation bigint NOT NULL,
    policy_version bigint NOT NULL,
    arms smallint[] NOT NULL,
    probabilities double precision[] NOT NULL,
    CONSTRAINT allocations_aligned CHECK (cardinality(arms) = cardinality(probabilities))
);

CREATE TABLE decisions (
    decision_day date NOT NULL,
    decision_key uuid NOT NULL,
    incarnation bigint NOT NULL,
    arm smallint NOT NULL,
    decided_at timestamptz NOT NULL,
    propensity double precision NOT NULL CHECK (propensity > 0 AND propensity <= 1),
    policy_version bigint NOT NULL,
    allocation_id uuid NOT NULL,
    reason text NOT NULL,
    unit_id text NOT NULL,
    session_id text NOT NULL,
    turn_id text NOT NULL,
    request_id text NOT NULL,
    segment text NOT NULL,
    prompt_fingerprint text NOT NULL,
    prompt_similarity double precision,
    PRIMARY KEY (decision_day, decision_key)
) PARTITION BY RANGE (decision_day);

CREATE TABLE events (
    decision_day date NOT NULL,
    decision_key uuid NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    incarnation bigint NOT NULL,
    arm smallint NOT NULL,
    segment text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    kind text NOT NULL,
    rank smallint NOT NULL,
    decided_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    reward_micros integer CHECK (reward_micros BETWEEN 0 AND 1000000),
    status text NOT NULL,
    reward_rule_version integer NOT NULL,
    policy_version bigint NOT NULL,
    content bytea NOT NULL,
    details jsonb,
    PRIMARY KEY (decision_day, decision_key, event_id)
) PARTITION BY RANGE (decision_day);

CREATE TABLE outcomes (
    decision_day date NOT NULL,
    decision_key uuid NOT NULL,
    incarnation bigint NOT NULL,
    arm smallint NOT NULL,
    segment text COLLATE "C" NOT NULL,
    bucket timestamptz NOT NULL,
    rank smallint NOT NULL,
    occurred_at timestamptz NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    reward_micros integer NOT NULL CHECK (reward_micros BETWEEN 0 AND 1000000),
    PRIMARY KEY (decision_day, decision_key)
) PARTITION BY RANGE (decision_day);

CREATE TABLE sticky_assignments (
    incarnation bigint NOT NULL REFERENCES experiments,
    unit_id text COLLATE "C" NOT NULL,
    epoch integer NOT NULL CHECK (epoch >= 1),
    arm smallint NOT NULL,
    propensity double precision NOT NULL CHECK (propensity > 0 AND propensity <= 1),
    drawn_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (incarnation, unit_id)
);
"""

VIEWS = """
CREATE VIEW posterior_latest AS
SELECT x.experiment_id, a.arm_id, a.version AS arm_version, a.active, v.policy_version, p.alpha, p.beta,
       p.n, p.alpha / (p.alpha + p.beta) AS mean
FROM experiments x
JOIN policy_versions v USING (incarnation)
JOIN arms a USING (incarnation)
LEFT JOIN LATERAL (
    SELECT coalesce(sum(e.success_micros), 0) AS success_micros, coalesce(sum(e.failure_micros), 0) AS failure_micros,
           coalesce(sum(e.n), 0)::bigint AS n
    FROM evidence e WHERE e.incarnation = a.incarnation AND e.arm = a.arm
) s ON true
CROSS JOIN LATERAL (
    SELECT coalesce((x.allocation #>> '{prior,alpha}')::double precision, 1) + s.success_micros / 1e6 AS alpha,
           coalesce((x.allocation #>> '{prior,beta}')::double precision, 1) + s.failure_micros / 1e6 AS beta,
           s.n AS n
) p;
COMMENT ON VIEW posterior_latest IS 'The Beta posterior of every arm as it stands now';
COMMENT ON COLUMN posterior_latest.alpha IS 'Prior plus successes';
COMMENT ON COLUMN posterior_latest.beta IS 'Prior plus failures';
COMMENT ON COLUMN posterior_latest.n IS 'Outcomes counted';
COMMENT ON COLUMN posterior_latest.mean IS 'alpha / (alpha + beta)';
COMMENT ON COLUMN posterior_latest.policy_version IS '+1 whenever the allocation may have changed';

CREATE VIEW decision_log AS
SELECT x.experiment_id, d.decision_key, d.decided_at, a.arm_id, a.version AS arm_version, a.model, d.propensity,
       d.policy_version, d.reason, d.unit_id, d.session_id, d.turn_id, d.request_id, d.segment, d.prompt_fingerprint,
       d.prompt_similarity, o.reward_micros / 1e6 AS reward, o.occurred_at AS outcome_at,
       (SELECT array_agg(b.arm_id ORDER BY t.i) FROM unnest(l.arms) WITH ORDINALITY t (arm, i)
        JOIN arms b ON b.incarnation = d.incarnation AND b.arm = t.arm) AS allocation_arm_ids,
       l.probabilities AS allocation
FROM decisions d
JOIN experiments x USING (incarnation)
JOIN arms a ON a.incarnation = d.incarnation AND a.arm = d.arm
LEFT JOIN allocations l USING (allocation_id)
LEFT JOIN outcomes o ON o.decision_day = d.decision_day AND o.decision_key = d.decision_key;
COMMENT ON VIEW decision_log IS 'Every decision with its arm, propensity and outcome, if it has one';
COMMENT ON COLUMN decision_log.propensity IS 'Probability with which the arm was drawn, when it was drawn';
COMMENT ON COLUMN decision_log.reward IS 'The outcome in [0, 1]; null while there is none';
COMMENT ON COLUMN decision_log.allocation IS 'The vector drawn from, aligned with allocation_arm_ids';
"""


def upgrade() -> None:
    """Create everything."""
    op.execute(TABLES)
    op.execute(VIEWS)
