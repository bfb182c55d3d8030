"""Decision records."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "decisions",
        sa.Column("request", sa.String(256), primary_key=True),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("key", sa.String(16), nullable=True),
        sa.Column("tenant", sa.String(64), nullable=True),
        sa.Column("binding", sa.String(96), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("decisions_by_time", "decisions", ["at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("decisions")
