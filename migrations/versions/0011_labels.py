"""Labels: what stands in the place of a unit that was forgotten, as the columns say that hold one.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Comments alone: no row is read, and the version before takes a label for a unit like any other.
COMMENTS = """
COMMENT ON COLUMN decision_log.unit_id IS
    'What is randomised; empty where the caller gave none. Once it was forgotten a random label, one for all its decisions';
COMMENT ON COLUMN decisions.unit_id IS
    'What is randomised, or the label of one that was forgotten; empty where there is none';
COMMENT ON COLUMN interleavings.unit_id IS
    'The user or session it was made for, or the label of one that was forgotten; may be empty';
COMMENT ON COLUMN shadow_comparisons.unit_hash IS
    'The hash of the unit, or of its label once it was forgotten, so that estimates can cluster by it; null without a unit';
COMMENT ON COLUMN judgments.unit_hash IS
    'The hash of the unit, or of its label, kept for clustering when the comparison is gone; null without a unit';
COMMENT ON COLUMN events.content IS
    'A keyed hash of what was sent, to tell a repetition from a contradiction; empty once metadata was erased';
COMMENT ON COLUMN events.details IS
    'Call report; metadata, and with it the hash of the unit, to find it by when it is forgotten';
"""


def upgrade() -> None:
    """Say so."""
    op.execute(COMMENTS)
