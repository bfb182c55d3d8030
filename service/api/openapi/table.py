"""What each operation takes and gives; paths, methods, words and roles are those of the routes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.api.openapi import condition, documents, looking, records
from service.api.openapi.shape import Shape
from service.edit_request import Evaluation
from service.jobs import STATES
from service.key_request import KeyRequest, Rotation
from service.overview import MINUTES
from service.steer_schema import NAME_PATTERN

ITEMS = "application/x-ndjson"
JSON, YAML, HTML, EVENTS = "application/json", "application/yaml", "text/html", "text/event-stream"
DOCUMENTS = "documents"
"""Stands for one document of any kind, whose schema is that of the policy files."""
EDIT_SET = "edit set"


class Fields(Shape):
    """Fields of a policy's spec to change, such as ``monitors.harm.mode``."""

    set: dict[str, object]


class Rollback(Shape):
    """The revision to go back to; without it, the one before the active one."""

    revision: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None


class NewArtifact(Shape):
    """An artifact: its card, and the base64 text of its safetensors file."""

    card: dict[str, object]
    tensors: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query or a header; ``schema`` is JSON Schema."""

    name: str
    schema: Mapping[str, Any]
    where: Literal["query", "header"] = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        answer: What it gives; None for a page of text.
        status: Of the answer.
        body: What it takes: a model, or one of the words above; None for nothing.
        needs_body: Whether a request without a body is refused.
        parameters: Of the query and headers; those of the path are the path's.
        also: Further media types of the answer.
        unready: Whether 503 is an answer with the same body.
    """

    answer: type[BaseModel] | None
    status: int = 200
    body: type[BaseModel] | str | None = None
    needs_body: bool = True
    parameters: tuple[Parameter, ...] = ()
    also: tuple[str, ...] = ()
    unready: bool = False


def _query(name: str, **schema: Any) -> Parameter:
    return Parameter(name, schema)


def _limit(largest: int = 1000) -> Parameter:
    return _query("limit", type="integer", minimum=1, maximum=largest, default=100)


def _before(least: int) -> Parameter:
    return _query("before", type="integer", minimum=least, maximum=(1 << 62) - 1)


IF_MATCH = Parameter("If-Match", {"type": "string", "pattern": r'^("[0-9]{1,18}"|\*)$'}, "header")
_TEXT = {"type": "string", "pattern": "^[^\\x00]*$"}
_POLICY, _KEY = Parameter("policy", _TEXT), Parameter("key", _TEXT)
_DECISIONS = (_before(0), _POLICY, _KEY, _limit())
_APPLY = Operation(documents.Applied, body=DOCUMENTS, parameters=(IF_MATCH,))
_REMOVE = Operation(documents.Changed, parameters=(IF_MATCH,))
_JOB = Operation(records.JobLine, 202)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/livez"): Operation(condition.Live),
    ("GET", "/readyz"): Operation(condition.Ready, unready=True),
    ("POST", "policies/plan"): Operation(
        documents.PlanShape,
        body=DOCUMENTS,
        parameters=(_query("owner", enum=["api", "directory"], default="api"),),
    ),
    ("GET", "policies"): Operation(documents.Policies),
    ("POST", "policies"): _APPLY,
    ("GET", "policies/{name}"): Operation(
        documents.PolicyDetail,
        parameters=(_query("revision", type="integer", minimum=1, maximum=(1 << 31) - 1),),
    ),
    ("DELETE", "policies/{name}"): _REMOVE,
    ("POST", "policies/{name}/set"): Operation(
        documents.ChangedPolicy, body=Fields, parameters=(IF_MATCH,)
    ),
    ("POST", "policies/{name}/rollback"): Operation(
        documents.ChangedPolicy, body=Rollback, needs_body=False, parameters=(IF_MATCH,)
    ),
    ("GET", "monitors"): Operation(documents.Monitors),
    ("POST", "monitors"): _APPLY,
    ("GET", "monitors/{name}"): Operation(documents.MonitorDetail),
    ("DELETE", "monitors/{name}"): _REMOVE,
    ("GET", "bindings"): Operation(documents.Bindings),
    ("POST", "bindings"): _APPLY,
    ("GET", "bindings/{name}"): Operation(documents.BindingDetail),
    ("DELETE", "bindings/{name}"): _REMOVE,
    ("POST", "bindings/{name}/halt"): Operation(records.CanaryShape),
    ("GET", "canaries"): Operation(records.Canaries),
    ("GET", "artifacts"): Operation(records.Artifacts),
    ("POST", "artifacts"): Operation(records.ArtifactLine, 201, NewArtifact),
    ("POST", "artifacts/gc"): Operation(
        records.Collected,
        parameters=(
            _query("dry_run", type="boolean", default=False),
            _query("hours", type="integer", minimum=0, maximum=24 * 3650),
        ),
    ),
    ("GET", "artifacts/{digest}"): Operation(records.ArtifactDetail),
    ("DELETE", "artifacts/{digest}"): Operation(records.RemovedArtifacts),
    ("GET", "edits"): Operation(documents.Edits),
    ("POST", "edits"): Operation(
        records.JobLine,
        202,
        EDIT_SET,
        parameters=(_query("override", type="string"),),
    ),
    ("GET", "edits/{name}"): Operation(documents.EditDetail),
    ("DELETE", "edits/{name}"): _REMOVE,
    ("POST", "edits/{name}/evaluate"): Operation(records.JobLine, 202, Evaluation),
    ("GET", "jobs"): Operation(
        records.Jobs, parameters=(_query("state", enum=list(STATES)), _limit())
    ),
    ("GET", "jobs/{id}"): Operation(records.JobDetail),
    ("POST", "jobs/{id}/cancel"): Operation(records.JobLine),
    ("GET", "jobs/{id}/card"): Operation(None, also=(HTML,)),
    ("GET", "events"): Operation(
        records.Events,
        also=(EVENTS,),
        parameters=(
            _query(
                "since",
                oneOf=[
                    {"type": "integer", "minimum": 0, "maximum": (1 << 62) - 1},
                    {"type": "string", "format": "date-time"},
                ],
            ),
            _before(0),
            Parameter("monitor", _TEXT),
            _POLICY,
            _limit(),
        ),
    ),
    ("GET", "events/labelled"): Operation(
        None,
        also=(ITEMS,),
        parameters=(Parameter("monitor", _TEXT), _query("label", enum=["true", "false"])),
    ),
    ("GET", "events/{id}"): Operation(looking.EventDetail),
    ("POST", "events/{id}/label"): Operation(looking.EventDetail, body=looking.Label),
    ("POST", "events/{id}/replay"): Operation(looking.EventDetail),
    ("GET", "overview"): Operation(
        looking.OverviewShape, parameters=(_query("minutes", enum=list(MINUTES)),)
    ),
    ("GET", "monitors/{name}/scores"): Operation(looking.MonitorScores),
    ("GET", "session"): Operation(looking.SessionShape),
    ("POST", "session"): Operation(looking.SessionShape),
    ("DELETE", "session"): Operation(None, 204),
    ("GET", "verdicts"): Operation(records.Verdicts, parameters=_DECISIONS),
    ("GET", "decisions"): Operation(records.Decisions, parameters=_DECISIONS),
    ("GET", "decisions/{id}"): Operation(records.DecisionShape),
    ("GET", "status"): Operation(condition.Status),
    ("GET", "replicas"): Operation(records.Replicas),
    ("GET", "keys"): Operation(records.KeyList),
    ("POST", "keys"): Operation(records.IssuedKeyShape, 201, KeyRequest),
    ("GET", "keys/{id}"): Operation(records.KeyShape),
    ("DELETE", "keys/{id}"): Operation(records.KeyShape),
    ("POST", "keys/{id}/rotate"): Operation(
        records.IssuedKeyShape, 201, Rotation, needs_body=False
    ),
    ("GET", "audit"): Operation(records.AuditPage, parameters=(_before(1), _limit())),
    ("GET", "audit/verify"): Operation(
        records.VerificationShape,
        parameters=(_query("anchor", type="string", pattern="^[0-9]{1,18}:[0-9a-f]{64}$"),),
    ),
    ("GET", "openapi.json"): Operation(None, also=(JSON,)),
}

PATHS: Mapping[str, Mapping[str, Any]] = {
    "name": {"type": "string", "pattern": NAME_PATTERN},
    "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "events": {"type": "integer", "minimum": 0, "maximum": (1 << 62) - 1},
    "jobs": {"type": "integer", "minimum": 1, "maximum": (1 << 31) - 1},
    "keys": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
"""Schemas of the parts of a path, by their name or by what they are an id of."""
