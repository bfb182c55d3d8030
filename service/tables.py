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
    sa.Column("trace", sa.Text, nullable=True),
    sa.Index("events_by_time", "at"),
    sqlite_autoincrement=True,
)

# Whether an event was right to be raised, as somebody said last; it goes when its event does.
labels = sa.Table(
    "labels",
    metadata,
    sa.Column("event", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("label", sa.Boolean, nullable=False),
    sa.Column("by", sa.String(96), nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.ForeignKeyConstraint(["event"], ["events.id"], name="labelled_event", ondelete="CASCADE"),
)

# What the model said to an event's prompt under no policy, as it was asked last.
replays = sa.Table(
    "replays",
    metadata,
    sa.Column("event", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("generated", sa.Integer, nullable=False),
    sa.Column("finish", sa.String(32), nullable=True),
    sa.Column("by", sa.String(96), nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.ForeignKeyConstraint(["event"], ["events.id"], name="replayed_event", ondelete="CASCADE"),
)

# A browser's session. ``hash`` is of its secret, which only the browser has; ``key`` is the id of
# the key that it was begun with, empty for the admin key of the environment.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(16), nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.String(32), nullable=False),
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

# ``hash`` is of the secret, which is shown once and kept nowhere. Limits are canonical JSON.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("tenant", sa.String(64), nullable=True),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("limits", sa.Text, nullable=False),
    sa.Column("created_at", sa.String(32), nullable=False),
    sa.Column("created_by", sa.String(96), nullable=False),
    sa.Column("expires_at", sa.String(32), nullable=True),
    sa.Column("revoked_at", sa.String(32), nullable=True),
    sa.Column("replaced_by", sa.String(16), nullable=True),
)

# Append-only: each row's hash covers the row and the hash before it. Numbers have no gap.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(96), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("target", sa.String(160), nullable=False),
    sa.Column("before", sa.Text, nullable=True),
    sa.Column("after", sa.Text, nullable=True),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# One row: number and hash of the last row of ``audit``, so that rows taken off its end are missed.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# One row a request that ran under policies; ``record`` is canonical JSON. ``request`` is our name
# of it, ``answer`` its client's: clients may give two requests one name. ``policies`` are labels,
# each between commas.
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request", sa.String(32), nullable=False, unique=True),
    sa.Column("answer", sa.String(256), nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("key", sa.String(16), nullable=True),
    sa.Column("policies", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Index("decisions_by_time", "at"),
    sa.Index("decisions_by_answer", "answer"),
    sqlite_autoincrement=True,
)

# One row: how often what is active was changed, and the digest of what is. Every change adds one.
generations = sa.Table(
    "generations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("changed_at", sa.String(32), nullable=False),
)

# A row a running server, renewed by its heartbeat, which counts.
replicas = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("started_at", sa.String(32), nullable=False),
    sa.Column("seen_at", sa.String(32), nullable=False),
    sa.Column("beats", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("fault", sa.Text, nullable=True),
)

# A canary that its own rule ended, by the digest of what was declared.
halts = sa.Table(
    "halts",
    metadata,
    sa.Column("canary", sa.String(64), primary_key=True),
    sa.Column("binding", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(32), nullable=False),
)
