"""Traces of events, labels and sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    op.add_column("events", sa.Column("trace", sa.Text, nullable=True))
    op.create_table(
        "labels",
        sa.Column("event", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("label", sa.Boolean, nullable=False),
        sa.Column("by", sa.String(96), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["event"], ["events.id"], name="labelled_event", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("sessions")
    op.drop_table("labels")
    op.drop_column("events", "trace")
