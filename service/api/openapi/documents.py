"""Answers about documents: policies, monitors, bindings, edits, and changes of them."""

from typing import Annotated, Literal

from pydantic import Field

from service.api.openapi.shape import Count, Digest, Json, Number, Shape, Time
from service.schemas import Kind

Owner = Literal["api", "directory"]
Mode = Literal["off", "shadow", "enforce"]


class RevisionShape(Shape):
    """A revision in short."""

    revision: Number
    digest: Digest
    owner: Owner
    created_at: Time


class DocumentLine(RevisionShape):
    """What lists say of every kind of document."""

    name: str
    description: str


class StrengthShape(Shape):
    """What a client's strength may be."""

    default: float
    min: float
    max: float


class PolicyLine(DocumentLine):
    """A policy in a list; ``artifacts`` are the digests that its names were resolved to."""

    mode: Mode
    selectable: bool
    strength: StrengthShape
    artifacts: dict[str, Digest]


class Policies(Shape):
    """The active policies; the ETag is their generation."""

    generation: Count
    policies: list[PolicyLine]


class PolicyDetail(PolicyLine):
    """A revision of a policy, and all of them in short; ``file`` is where a directory has it."""

    active: bool
    content: Json
    file: str | None
    revisions: list[RevisionShape]


class BindingLine(DocumentLine):
    """A binding; ``mandatory`` holds what it inherits too, ``halted`` why its canary was ended."""

    spec: Json
    mandatory: list[str] | None = None
    halted: str | None = None


class Bindings(Shape):
    """The active bindings."""

    bindings: list[BindingLine]


class BindingDetail(BindingLine):
    """A binding and its revisions."""

    active: bool
    content: Json
    artifacts: dict[str, Digest]
    revisions: list[RevisionShape]


class UseShape(Shape):
    """How one policy uses a monitor."""

    mode: Mode
    threshold: float | None
    calibrated: bool
    fault: str | None
    do: str


class ThresholdShape(Shape):
    """A threshold and the interval of its false-positive rate."""

    fpr: float
    threshold: float | None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    benign_requests_needed: Count


class CalibrationShape(Shape):
    """What a calibration is bound to."""

    name: str
    digest: Digest
    model: str
    tokenizer: str
    chat_template: str | None
    plan: str
    writes: str
    benign_requests: Count
    benign_tokens: Count
    thresholds: list[ThresholdShape]


class MonitorLine(Shape):
    """A monitor: where it reads, its calibrations, and which policies use it how."""

    name: str
    revision: Number
    digest: Digest
    owner: Owner
    description: str
    plan: Digest
    at: str
    reads: Number
    tokens: str
    pool: str
    artifacts: dict[str, Digest]
    calibrations: list[CalibrationShape]
    policies: dict[str, UseShape]


class Monitors(Shape):
    """The active monitors."""

    monitors: list[MonitorLine]


class MonitorDetail(MonitorLine):
    """A monitor, its document and its revisions."""

    content: Json
    revisions: list[RevisionShape]


class NamedRevision(Shape):
    """A document that changed; bindings show no digest."""

    name: str
    revision: Number
    digest: Digest


class BoundRevision(Shape):
    """A binding that changed."""

    name: str
    revision: Number


class Changed(Shape):
    """What a change did; the ETag is the generation after it."""

    generation: Count
    changed: list[NamedRevision]
    removed: list[str]
    changed_bindings: list[BoundRevision]
    removed_bindings: list[str]
    changed_monitors: list[NamedRevision]
    removed_monitors: list[str]
    changed_edits: list[NamedRevision]
    removed_edits: list[str]


class AppliedDocument(Shape):
    """A document of the body and the revision that is active now."""

    kind: Kind
    name: str
    revision: Number


class Applied(Changed):
    """What applying did."""

    applied: list[AppliedDocument]


class ChangedPolicy(Changed):
    """What a change of one policy did."""

    name: str
    revision: Number


class DifferenceShape(Shape):
    """A field that differs; a side that is left out has no such field."""

    path: str
    before: object = None
    after: object = None


class DocumentPlanShape(Shape):
    """What would become of one document."""

    kind: Kind
    name: str
    action: str
    before: Number | None
    after: Number | None
    differences: list[DifferenceShape]
    artifacts: dict[str, Digest] | None
    artifact_differences: list[DifferenceShape]
    monitors: list[str]


class CachePlanShape(Shape):
    """Where cached prompts or answers could not be used any more."""

    binding: str
    policy: str
    prompts: bool
    answers: bool


class TablePlanShape(Shape):
    """A table that is needed more of."""

    table: str
    more: Count
    free: int
    size: Count


class PlanRefusal(Shape):
    """What applying would be answered with."""

    model_config = Shape.model_config | {"extra": "allow"}

    status: int
    code: str
    message: str


class PlanShape(Shape):
    """What a change would do to one generation, which the ETag names."""

    generation: Count
    changes: bool
    documents: list[DocumentPlanShape]
    caches: list[CachePlanShape]
    capacity: list[TablePlanShape]
    merged: list[str] | None
    refused: PlanRefusal | None


class EditDocument(Shape):
    """The document of an edit."""

    revision: Number
    owner: Owner
    digest: Digest
    description: str


class EditLine(Shape):
    """An edit set or an edit artifact; what only solving tells is null until it is solved."""

    name: str
    set: str
    solved: bool
    document: EditDocument | None
    serve: str | None
    policies: list[str]
    artifact: Digest | None
    model: str | None
    method: str | None
    layers: list[int] | None
    n_facts: Count
    rank: Count | None
    gates: object
    created_at: Time | None


class Edits(Shape):
    """Every edit."""

    edits: list[EditLine]


class EditDetail(EditLine):
    """An edit with its facts, settings, document and revisions."""

    facts: list[Json]
    content: Json | None
    settings: Json | None
    revisions: list[RevisionShape]
