"""Answers about what is kept: artifacts, jobs, events, decisions, keys, audit rows, servers."""

from typing import Literal

from service.api.openapi.shape import Count, Digest, Json, Number, Shape, Time
from service.callers import Role
from service.jobs import JobKind, JobState


class ArtifactLine(Shape):
    """An artifact in a list."""

    digest: Digest
    kind: str
    name: str
    created_at: Time


class Artifacts(Shape):
    """Every artifact, newest first."""

    artifacts: list[ArtifactLine]


class ArtifactDetail(ArtifactLine):
    """An artifact with its card."""

    card: Json


class RemovedArtifacts(Shape):
    """What was taken away."""

    removed: list[ArtifactLine]


class Collected(RemovedArtifacts):
    """What nothing named; ``orphans`` are files without a row, ``bytes`` is what it all held."""

    dry_run: bool
    orphans: list[str]
    bytes: Count


class Progress(Shape):
    """How far a job is in its stage; a total of 0 cannot be counted."""

    stage: str
    done: Count
    total: Count


class JobLine(Shape):
    """A job."""

    id: Number
    kind: JobKind
    name: str
    state: JobState
    attempt: Count
    error: str | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    progress: Progress


class Jobs(Shape):
    """The newest jobs, newest first."""

    jobs: list[JobLine]


class JobDetail(JobLine):
    """A job with what it was asked and what it found."""

    request: Json
    result: Json | None


class EventShape(Shape):
    """A verdict that fired or failed."""

    id: Number
    at: Time
    request: str
    choice: Count
    policy: str
    monitor: str
    mode: str
    do: str
    action: str
    fired: bool
    score: float | None
    threshold: float | None
    rarity: float | None
    position: int | None
    token: int | None
    coverage: float
    fault: str | None
    text: str | None
    label: bool | None
    labelled_by: str | None
    labelled_at: Time | None


class Events(Shape):
    """A page of events; ``last`` is the number to go on after, ``lost`` those kept no longer."""

    events: list[EventShape]
    last: Count
    lost: Count


class Examples(Shape):
    """Requests at which a monitor in shadow and those enforced differ."""

    alone: list[str]
    missed: list[str]


class VerdictUse(Shape):
    """What one use of a monitor did; the last four are there in shadow."""

    policy: str
    monitor: str
    mode: str
    do: str
    choices: Count
    fired: Count
    acted: Count
    faults: Count
    agreed: Count = 0
    alone: Count = 0
    missed: Count = 0
    examples: Examples | None = None


class Verdicts(Shape):
    """What monitors did over the newest records."""

    records: Count
    uses: list[VerdictUse]


class CallerShape(Shape):
    """Who asked."""

    key: str | None
    name: str
    tenant: str | None


class DecidedPolicy(Shape):
    """A policy that a request ran under."""

    policy: str
    digest: Digest
    mode: str
    source: Literal["operator", "client"]


class DecidedChoice(Shape):
    """What became of one choice of an answer; without verdicts nothing was watched."""

    index: Count
    finish: str | None
    prompt_tokens: Count = 0
    generated: Count = 0
    verdicts: dict[str, Json]


class DecisionShape(Shape):
    """The record of a request: which revisions acted, and what monitors found."""

    id: Number
    request: str
    answer: str
    at: Time
    caller: CallerShape
    binding: str
    canary: Literal["canary", "stable"] | None
    generation: Count
    policies: list[DecidedPolicy]
    strength: float | None
    digest: str
    merged: list[str]
    route: str
    stream: bool
    adapters: list[str]
    status: int | None
    outcome: str
    seconds: float
    choices: list[DecidedChoice]
    probe: dict[str, str] | None = None


class Decisions(Shape):
    """A page of records, newest first; ``before`` goes on, null at the end."""

    decisions: list[DecisionShape]
    before: Number | None


class Sides(Shape):
    """A figure of both sides of a canary."""

    canary: float
    stable: float


class RuleShape(Shape):
    """A rule that ends a canary, and how it stands."""

    metric: str
    monitor: str = ""
    above: float
    at_least: Count
    share: Sides


class CanaryShape(Shape):
    """A canary as it runs."""

    binding: str
    digest: Digest
    policy: str
    replaces: str | None
    share: float
    by: str
    halted: str | None
    requests: Sides
    rules: list[RuleShape]


class Canaries(Shape):
    """Every canary."""

    canaries: list[CanaryShape]


class KeyShape(Shape):
    """A key without its text."""

    id: str
    name: str
    role: Role
    tenant: str | None
    limits: dict[str, float]
    created_at: Time
    created_by: str
    expires_at: Time | None
    revoked_at: Time | None
    replaced_by: str | None
    state: Literal["live", "expired", "revoked"]


class IssuedKeyShape(KeyShape):
    """A key that was just made; its text is shown this once."""

    key: str


class KeyList(Shape):
    """Every key, newest first."""

    keys: list[KeyShape]


class AuditEntry(Shape):
    """A row of the audit log."""

    seq: Number
    at: Time
    actor: str
    action: str
    target: str
    before: Json | None
    after: Json | None
    previous: str
    hash: Digest


class AuditPage(Shape):
    """Rows, newest first; ``next`` is what to go on before, null at the end."""

    entries: list[AuditEntry]
    next: Number | None


class Flaw(Shape):
    """The first row that is not as it was written."""

    seq: int
    flaw: str
    message: str


class VerificationShape(Shape):
    """What a check of the chain found; ``anchor`` is the last row that holds."""

    ok: bool
    rows: Count
    anchor: str
    bad: Flaw | None


class ReplicaShape(Shape):
    """A server of the store."""

    id: str
    started_at: Time
    seen_at: Time
    beats: Count
    generation: Count
    digest: str
    fault: str | None
    alive: bool
    self: bool


class Replicas(Shape):
    """Every server of the store."""

    replicas: list[ReplicaShape]
