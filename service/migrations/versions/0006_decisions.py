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
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("request", sa.String(32), nullable=False, unique=True),
        sa.Column("answer", sa.String(256), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("key", sa.String(16), nullable=True),
        sa.Column("policies", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("decisions_by_time", "decisions", ["at"])
    op.create_index("decisions_by_answer", "decisions", ["answer"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("decisions")
