"""Model calls: shadow arms and what they answered, judge runs and their judgments, priors of single arms.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The checks are not validated against the rows there are: they only widen what was allowed.
EXPERIMENTS = """
ALTER TABLE experiments ADD COLUMN shadow jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN experiments.shadow IS 'The ShadowRule as it was given, in protobuf JSON; {} where there is none';
ALTER TABLE experiments DROP CONSTRAINT experiments_state_check;
ALTER TABLE experiments ADD CONSTRAINT experiments_state_check
    CHECK (state IN ('draft', 'shadow', 'running', 'paused', 'concluded')) NOT VALID;
ALTER TABLE arms DROP CONSTRAINT arms_role_check;
ALTER TABLE arms ADD CONSTRAINT arms_role_check CHECK (role IN ('control', 'challenger', 'shadow')) NOT VALID;
"""

SHADOW = """
CREATE TABLE shadow_comparisons (
    decision_key uuid NOT NULL,
    shadow_arm smallint NOT NULL,
    incarnation bigint NOT NULL REFERENCES experiments,
    serving_arm smallint NOT NULL,
    decision_day date NOT NULL,
    decided_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    unit_hash bytea,
    request_id text NOT NULL,
    text_mode text NOT NULL CHECK (text_mode IN ('full', 'truncated', 'off')),
    prompt text,
    serving_text text,
    serving_model text NOT NULL,
    serving_stop_reason text NOT NULL,
    serving_provider_request_id text NOT NULL,
    serving_latency_us bigint,
    serving_input_tokens bigint,
    serving_output_tokens bigint,
    serving_cost_usd double precision,
    serving_error text NOT NULL,
    shadow_text text,
    shadow_model text NOT NULL,
    shadow_stop_reason text NOT NULL,
    shadow_provider_request_id text NOT NULL,
    shadow_latency_us bigint,
    shadow_input_tokens bigint,
    shadow_output_tokens bigint,
    shadow_cost_usd double precision,
    shadow_error text NOT NULL,
    PRIMARY KEY (decision_key, shadow_arm),
    CONSTRAINT shadow_comparisons_text CHECK (text_mode <> 'off'
        OR (prompt IS NULL AND serving_text IS NULL AND shadow_text IS NULL))
);
CREATE INDEX shadow_comparisons_incarnation ON shadow_comparisons (incarnation, decided_at, decision_key, shadow_arm);
CREATE INDEX shadow_comparisons_day ON shadow_comparisons (decision_day);
COMMENT ON TABLE shadow_comparisons IS
    'What a shadow arm answered beside what was served, a row for each decision and shadow arm';
COMMENT ON COLUMN shadow_comparisons.decision_key IS 'The decision';
COMMENT ON COLUMN shadow_comparisons.shadow_arm IS 'Number of the arm that was mirrored to';
COMMENT ON COLUMN shadow_comparisons.incarnation IS 'The experiment';
COMMENT ON COLUMN shadow_comparisons.serving_arm IS 'Number of the arm that was decided for';
COMMENT ON COLUMN shadow_comparisons.decision_day IS 'The day of the decision, in UTC';
COMMENT ON COLUMN shadow_comparisons.decided_at IS 'When it was decided';
COMMENT ON COLUMN shadow_comparisons.recorded_at IS 'When this was recorded';
COMMENT ON COLUMN shadow_comparisons.unit_hash IS
    'The hash of the unit, so that estimates can cluster by it; null without a unit';
COMMENT ON COLUMN shadow_comparisons.request_id IS 'The caller''s own id; may be empty';
COMMENT ON COLUMN shadow_comparisons.text_mode IS 'How much text the rule let be recorded: full, truncated or off';
COMMENT ON COLUMN shadow_comparisons.prompt IS 'What both were asked, after redaction; null where text is off';
COMMENT ON COLUMN shadow_comparisons.serving_text IS 'What was served; null where text is off';
COMMENT ON COLUMN shadow_comparisons.serving_model IS 'The model as its server named it';
COMMENT ON COLUMN shadow_comparisons.serving_stop_reason IS 'Why the answer ended, in the words of its server';
COMMENT ON COLUMN shadow_comparisons.serving_provider_request_id IS 'The server''s id of the request';
COMMENT ON COLUMN shadow_comparisons.serving_latency_us IS 'Microseconds to the last byte; null where it was not reported';
COMMENT ON COLUMN shadow_comparisons.serving_input_tokens IS 'Tokens read; null where they were not reported';
COMMENT ON COLUMN shadow_comparisons.serving_output_tokens IS 'Tokens written; null where they were not reported';
COMMENT ON COLUMN shadow_comparisons.serving_cost_usd IS 'US dollars; null where they were not reported';
COMMENT ON COLUMN shadow_comparisons.serving_error IS 'The kind of failure; empty where the call succeeded';
COMMENT ON COLUMN shadow_comparisons.shadow_text IS
    'What the shadow arm answered, which nobody was shown; null where text is off';
COMMENT ON COLUMN shadow_comparisons.shadow_model IS 'The model as its server named it';
COMMENT ON COLUMN shadow_comparisons.shadow_stop_reason IS 'Why the answer ended, in the words of its server';
COMMENT ON COLUMN shadow_comparisons.shadow_provider_request_id IS 'The server''s id of the request';
COMMENT ON COLUMN shadow_comparisons.shadow_latency_us IS 'Microseconds to the last byte; null where it was not reported';
COMMENT ON COLUMN shadow_comparisons.shadow_input_tokens IS 'Tokens read; null where they were not reported';
COMMENT ON COLUMN shadow_comparisons.shadow_output_tokens IS 'Tokens written; null where they were not reported';
COMMENT ON COLUMN shadow_comparisons.shadow_cost_usd IS 'US dollars; null where they were not reported';
COMMENT ON COLUMN shadow_comparisons.shadow_error IS 'The kind of failure; empty where the call succeeded';

CREATE TABLE shadow_spend (
    incarnation bigint NOT NULL REFERENCES experiments,
    day date NOT NULL,
    cost_usd double precision NOT NULL CHECK (cost_usd >= 0),
    calls bigint NOT NULL CHECK (calls >= 0),
    PRIMARY KEY (incarnation, day)
);
COMMENT ON TABLE shadow_spend IS 'What shadow calls have cost, a row for each experiment and day';
COMMENT ON COLUMN shadow_spend.incarnation IS 'The experiment';
COMMENT ON COLUMN shadow_spend.day IS 'The day they were recorded, in UTC';
COMMENT ON COLUMN shadow_spend.cost_usd IS 'US dollars; a call recorded without a cost counts as its arm''s cost_usd';
COMMENT ON COLUMN shadow_spend.calls IS 'How many there were';
"""

JUDGE = """
CREATE TABLE judge_runs (
    run_id text COLLATE "C" PRIMARY KEY,
    incarnation bigint NOT NULL REFERENCES experiments,
    created_at timestamptz NOT NULL,
    arm smallint NOT NULL,
    other_arm smallint NOT NULL,
    settings jsonb NOT NULL
);
CREATE INDEX judge_runs_incarnation ON judge_runs (incarnation, created_at);
COMMENT ON TABLE judge_runs IS 'Runs of a judge over a sample of shadow comparisons';
COMMENT ON COLUMN judge_runs.run_id IS 'The run';
COMMENT ON COLUMN judge_runs.incarnation IS 'The experiment';
COMMENT ON COLUMN judge_runs.created_at IS 'When the sample was drawn';
COMMENT ON COLUMN judge_runs.arm IS 'Number of the arm in question, whose shadow answers are compared';
COMMENT ON COLUMN judge_runs.other_arm IS 'Number of the serving arm they are compared with';
COMMENT ON COLUMN judge_runs.settings IS 'The JudgeRun as it was given, in protobuf JSON';

CREATE TABLE judgments (
    run_id text COLLATE "C" NOT NULL REFERENCES judge_runs,
    judgment integer NOT NULL CHECK (judgment >= 0),
    decision_key uuid NOT NULL,
    shadow_arm smallint NOT NULL,
    decision_day date NOT NULL,
    unit_hash bytea,
    shadow_first boolean NOT NULL,
    repeat boolean NOT NULL,
    verdict text CHECK (verdict IN ('a', 'b', 'tie', 'invalid')),
    reason text,
    judged_at timestamptz,
    latency_us bigint,
    input_tokens bigint,
    output_tokens bigint,
    cost_usd double precision,
    PRIMARY KEY (run_id, judgment),
    UNIQUE (run_id, decision_key, shadow_arm, shadow_first, repeat)
);
CREATE INDEX judgments_pending ON judgments (run_id, judgment) WHERE verdict IS NULL;
COMMENT ON TABLE judgments IS 'What a judge was asked, and what it said; a pair may be asked in both orders, and once more';
COMMENT ON COLUMN judgments.run_id IS 'The run';
COMMENT ON COLUMN judgments.judgment IS 'Its number within the run, from 0';
COMMENT ON COLUMN judgments.decision_key IS 'With shadow_arm, the pair: see shadow_comparisons';
COMMENT ON COLUMN judgments.shadow_arm IS 'With decision_key, the pair';
COMMENT ON COLUMN judgments.decision_day IS 'The day of the decision, in UTC';
COMMENT ON COLUMN judgments.unit_hash IS
    'The hash of the unit, kept for clustering when the comparison is gone; null without a unit';
COMMENT ON COLUMN judgments.shadow_first IS 'Whether the shadow answer was shown first, as A';
COMMENT ON COLUMN judgments.repeat IS 'Whether it asks for the second time what was asked in the same order before';
COMMENT ON COLUMN judgments.verdict IS
    'a: the answer shown first is better; b: the second; tie; invalid: no verdict; null: not asked yet';
COMMENT ON COLUMN judgments.reason IS 'Why, in the judge''s words; null where text is not recorded';
COMMENT ON COLUMN judgments.judged_at IS 'When; null before';
COMMENT ON COLUMN judgments.latency_us IS
    'Microseconds of the judge''s call, retries included; null where it was not reported';
COMMENT ON COLUMN judgments.input_tokens IS 'Tokens read; null where they were not reported';
COMMENT ON COLUMN judgments.output_tokens IS 'Tokens written; null where they were not reported';
COMMENT ON COLUMN judgments.cost_usd IS 'US dollars; null where they were not reported';
"""


# As 0002 has it, but for the priors of single arms.
PRIORS = """
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
    SELECT coalesce(x.allocation #> ARRAY['priors', a.arm_id], x.allocation -> 'prior') AS own
) r
CROSS JOIN LATERAL (
    SELECT coalesce((r.own ->> 'alpha')::double precision, 1) + s.success_micros / 1e6 AS alpha,
           coalesce((r.own ->> 'beta')::double precision, 1) + s.failure_micros / 1e6 AS beta,
           s.n AS n
) p
WHERE NOT (a.active AND a.role = 'shadow');
COMMENT ON VIEW posterior_latest IS 'The Beta posterior of every arm as it stands now; shadow arms have none';
COMMENT ON COLUMN posterior_latest.alpha IS 'The arm''s own prior, or that of all, plus successes';
COMMENT ON COLUMN posterior_latest.beta IS 'The arm''s own prior, or that of all, plus failures';
"""


def upgrade() -> None:
    """Create what shadow traffic and judges need; nothing that is there is rewritten."""
    for statements in (EXPERIMENTS, SHADOW, JUDGE, PRIORS):
        op.execute(statements)
