"""What the dashboard asks for: an event whole, labels, counts, scores in bins, who asks."""

from typing import Annotated

from pydantic import Field

from service.api.openapi.records import EventShape
from service.api.openapi.shape import Count, Number, Shape, Time


class TraceShape(Shape):
    """The tokens around an event with the scores of its policy's monitors."""

    first: Count
    prompt_length: Count
    tokens: list[str]
    scores: dict[str, list[float | None]]
    thresholds: dict[str, float | None]
    prompt: str
    answer: str


class UnsteeredShape(Shape):
    """What the model said to the event's prompt under no policy."""

    answer: str
    generated: Count
    finish: str | None
    by: str
    at: Time


class EventDetail(EventShape):
    """An event; ``trace`` is where its policy captures, ``unsteered`` where it was replayed."""

    trace: TraceShape | None
    unsteered: UnsteeredShape | None


class Label(Shape):
    """Whether an event was right to be raised; null takes back what was said."""

    label: Annotated[bool | None, Field(strict=True)]


class OverviewUse(Shape):
    """What one use of a monitor did lately; ``coverage`` is the lowest of a choice."""

    policy: str
    monitor: str
    mode: str
    do: str
    choices: Count
    fired: Count
    acted: Count
    faults: Count
    coverage: float


class OverviewShape(Shape):
    """Counts by step of a span; ``times`` are the steps' starts in seconds since 1970."""

    minutes: Number
    times: list[Count]
    requests: list[Count]
    policies: dict[str, list[Count]]
    events: dict[str, list[Count]]
    records: Count
    uses: list[OverviewUse]


class Benign(Shape):
    """Scores of a calibration's benign requests, by bin."""

    requests: Count
    counts: list[Count]


class ScoredUse(Shape):
    """Scores of one use of a monitor, by bin; ``psi`` is null where they are too few."""

    policy: str
    mode: str
    choices: Count
    fired: Count
    coverage: float
    thresholds: list[float]
    counts: list[Count]
    psi: float | None


class MonitorScores(Shape):
    """A monitor's scores over the newest decision records; a bin lies between two edges."""

    records: Count
    edges: list[float]
    benign: Benign
    uses: list[ScoredUse]


class SessionShape(Shape):
    """Who asks."""

    name: str
    key: str | None
    role: str
    tenant: str | None
