"""The store's tables; every change of them is a migration too."""

import sqlalchemy as sa

metadata = sa.MetaData()

# Immutable: a row is inserted once. Content and artifacts are canonical JSON, so that the digest
# can be recomputed from what is stored.
revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("artifacts", sa.Text, nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
)

# A row without a revision is a tombstone: the name was active and was removed.
active = sa.Table(
    "active",
    metadata,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=True),
    sa.Column("changed_at", sa.String(32), nullable=False),
    sa.ForeignKeyConstraint(
        ["kind", "name", "revision"],
        ["revisions.kind", "revisions.name", "revisions.revision"],
        name="active_revision",
    ),
)

# ``position`` orders artifacts of one name: adding one again makes it the newest.
artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False, unique=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("card", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Index("artifacts_by_name", "kind", "name", "position"),
)
