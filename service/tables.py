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

# Numbers are never used again (AUTOINCREMENT), so that a reader can tell what retention took.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("request", sa.String(256), nullable=False),
    sa.Column("choice", sa.Integer, nullable=False),
    sa.Column("policy", sa.String(96), nullable=False),
    sa.Column("monitor", sa.String(160), nullable=False),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("do", sa.String(16), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("fired", sa.Boolean, nullable=False),
    sa.Column("score", sa.Float, nullable=True),
    sa.Column("threshold", sa.Float, nullable=True),
    sa.Column("rarity", sa.Float, nullable=True),
    sa.Column("position", sa.Integer, nullable=True),
    sa.Column("token", sa.Integer, nullable=True),
    sa.Column("coverage", sa.Float, nullable=False),
    sa.Column("fault", sa.String(32), nullable=True),
    sa.Column("text", sa.Text, nullable=True),
    sa.Index("events_by_time", "at"),
    sqlite_autoincrement=True,
)

# Ids order the queue. Whoever runs a job gives its attempt with every change: one that was thought
# lost, and whose job another runs by now, changes nothing.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(64), nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=True),
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("started_at", sa.String(32), nullable=True),
    sa.Column("seen_at", sa.String(32), nullable=True),
    sa.Column("ended_at", sa.String(32), nullable=True),
    sa.Index("jobs_by_state", "state", "id"),
    sqlite_autoincrement=True,
)
