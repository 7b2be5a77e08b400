"""Shares of units: how many of a unit's outcomes have counted.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Empty, so nothing that is there is read or locked. The version before neither reads nor writes it: while it still stores
# events, these take nothing of a share. Analysts have no use for hashes of units.
TABLE = """
CREATE TABLE unit_shares (
    unit_hash bigint NOT NULL,
    incarnation bigint NOT NULL,
    share_day date NOT NULL,
    n integer NOT NULL CHECK (n > 0),
    PRIMARY KEY (unit_hash, incarnation, share_day)
) PARTITION BY RANGE (share_day);
CREATE TABLE unit_shares_for_good PARTITION OF unit_shares FOR VALUES FROM (MINVALUE) TO ('0001-01-01');
COMMENT ON TABLE unit_shares IS 'How many outcomes of each unit have counted. Analysts cannot read it';
COMMENT ON COLUMN unit_shares.unit_hash IS 'The keyed hash of the unit, of eight bytes, as a number';
COMMENT ON COLUMN unit_shares.incarnation IS 'The experiment';
COMMENT ON COLUMN unit_shares.share_day IS
    'The day of the decisions, in UTC; -infinity where units count once: those rows stay when days are dropped';
COMMENT ON COLUMN unit_shares.n IS 'Decisions that took one of the share';
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(TABLE)
