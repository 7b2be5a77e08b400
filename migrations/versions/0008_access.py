"""API keys, the audit log, and signing keys that take each other's place.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

API_KEYS = """
CREATE TABLE api_keys (
    key_id text COLLATE "C" PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{12}$'),
    name text NOT NULL CHECK (name <> ''),
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    roles text[] NOT NULL CHECK (cardinality(roles) > 0 AND roles <@ ARRAY['route', 'reward', 'read', 'admin']),
    experiments text[] CHECK (cardinality(experiments) > 0),
    rate double precision CHECK (rate > 0),
    burst double precision CHECK (burst >= 1),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    replaced_by text COLLATE "C" REFERENCES api_keys DEFERRABLE INITIALLY DEFERRED,
    revoked_at timestamptz,
    revoked_by text,
    revoke_reason text,
    last_used_at timestamptz,
    CONSTRAINT api_keys_limit CHECK ((rate IS NULL) = (burst IS NULL)),
    CONSTRAINT api_keys_revocation CHECK ((revoked_at IS NULL) = (revoked_by IS NULL)
        AND (revoked_at IS NULL) = (revoke_reason IS NULL))
);
CREATE UNIQUE INDEX api_keys_one_of_a_name ON api_keys (name) WHERE replaced_by IS NULL AND revoked_at IS NULL;
COMMENT ON TABLE api_keys IS 'Who may call; rows are never deleted. Analysts cannot read it';
COMMENT ON COLUMN api_keys.key_id IS 'The public part of a key';
COMMENT ON COLUMN api_keys.name IS 'Who has it; a key and those that took its place share it';
COMMENT ON COLUMN api_keys.secret_hash IS 'SHA-256 of the whole key: the key itself is kept nowhere';
COMMENT ON COLUMN api_keys.roles IS 'What it may do';
COMMENT ON COLUMN api_keys.experiments IS 'In which experiments, by id; null for all';
COMMENT ON COLUMN api_keys.rate IS 'Calls and items of batches a second, in each worker; null for any number';
COMMENT ON COLUMN api_keys.burst IS 'How many at once after a pause';
COMMENT ON COLUMN api_keys.created_at IS 'When it was made';
COMMENT ON COLUMN api_keys.created_by IS 'Who made it';
COMMENT ON COLUMN api_keys.expires_at IS 'From when it is refused; null for never';
COMMENT ON COLUMN api_keys.replaced_by IS 'The key that takes its place';
COMMENT ON COLUMN api_keys.revoked_at IS 'Since when it is refused; null where it is not';
COMMENT ON COLUMN api_keys.revoked_by IS 'Who revoked it';
COMMENT ON COLUMN api_keys.revoke_reason IS 'Why';
COMMENT ON COLUMN api_keys.last_used_at IS 'When it was used last, to a few minutes; null for never';
"""

SIGNING = """
ALTER TABLE token_keys ADD COLUMN activates_at timestamptz DEFAULT now(), ADD COLUMN retired_at timestamptz;
UPDATE token_keys SET activates_at = created_at;
ALTER TABLE token_keys ALTER COLUMN activates_at SET NOT NULL;
COMMENT ON COLUMN token_keys.activates_at IS 'From when it signs, until a later one does; by then every replica knows it';
COMMENT ON COLUMN token_keys.retired_at IS 'Since when what it signed is refused; null where it is not';
ALTER TABLE deployment ADD COLUMN access_version bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN deployment.access_version IS '+1 whenever a key changed: replicas compare it once a second';
"""

AUDIT = """
CREATE TABLE audit_log (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    source text NOT NULL,
    action text NOT NULL,
    experiment_id text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('done', 'denied')),
    detail jsonb NOT NULL
);
CREATE INDEX audit_log_at ON audit_log (at);
COMMENT ON TABLE audit_log IS
    'Every administrative act: rows are added, and a trigger refuses all else. Analysts cannot read it';
COMMENT ON COLUMN audit_log.at IS 'When, by Postgres'' clock';
COMMENT ON COLUMN audit_log.actor IS 'Name of the key, or the user of a command; empty where no key was asked for';
COMMENT ON COLUMN audit_log.key_id IS 'The key; empty where there was none';
COMMENT ON COLUMN audit_log.source IS 'The address that it came from, or "command"';
COMMENT ON COLUMN audit_log.action IS 'The method of the API, or the command';
COMMENT ON COLUMN audit_log.experiment_id IS 'The experiment; empty where it is about none or several';
COMMENT ON COLUMN audit_log.outcome IS
    'done, in the transaction of what was done; or denied, for want of a role or of scope';
COMMENT ON COLUMN audit_log.detail IS 'What the caller said: actor, reason and the like; never a secret, never a unit';

CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();
"""


def upgrade() -> None:
    """Create what access control needs; nothing that is there is rewritten."""
    for statements in (API_KEYS, SIGNING, AUDIT):
        op.execute(statements)
