"""Answers to events' prompts under no policy."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "replays",
        sa.Column("event", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("generated", sa.Integer, nullable=False),
        sa.Column("finish", sa.String(32), nullable=True),
        sa.Column("by", sa.String(96), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["event"], ["events.id"], name="replayed_event", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("replays")
