"""Answers about the server itself."""

from service.api.openapi.documents import UseShape
from service.api.openapi.shape import Count, Digest, Number, Shape, Time


class Live(Shape):
    """The process answers."""

    live: bool


class Ready(Shape):
    """Whether requests are served, and every reason why not."""

    ready: bool
    reasons: list[str]


class ModelShape(Shape):
    """The model that is served."""

    fingerprint: Digest
    family: str
    d_model: Number
    n_layers: Number


class FileProblem(Shape):
    """What is wrong in a file of the policy directory."""

    file: str | None
    line: int | None
    column: int | None
    path: str
    message: str


class DirectoryShape(Shape):
    """The policy directory; ``refused`` says why its last state is not served."""

    path: str | None
    errors: list[FileProblem]
    refused: str | None


class SiteShape(Shape):
    """What an instrumented hook point has room for."""

    rows: Count
    reads: Count
    writes: Count


class CapacityShape(Shape):
    """What fills the tables."""

    used: dict[str, Count]
    draining: Count
    sites: dict[str, SiteShape]


class HealthShape(Shape):
    """Whether the store can be used, and since when."""

    ok: bool
    since: Time
    error: str | None


class RingShape(Shape):
    """The keys that are known; an age of null was never read."""

    live: Count
    age_seconds: float | None
    fault: str | None


class Status(Shape):
    """What is active, what fills the tables and what is wrong."""

    model: ModelShape
    generation: Count
    behind: str | None
    policies: dict[str, Number]
    monitors: dict[str, dict[str, UseShape]]
    edits: dict[str, Digest]
    merged: list[str]
    directory: DirectoryShape
    capacity: CapacityShape
    ready: bool
    reasons: list[str]
    store: HealthShape
    version: str
    replica: str
    served_names: list[str]
    adapters: list[str]
    keys: RingShape
    uptime_seconds: float
