"""Errors as HTTP answers, in OpenAI's shape or in Anthropic's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import JSONResponse

from forward.container import ArtifactError
from forward.tables import CapacityError
from service.activation import ArtifactGoneError
from service.artifact_store import ArtifactNotFoundError, ArtifactRefusedError, QuotaError
from service.assignment import AssignmentError
from service.audit import AnchorError
from service.catalog import CatalogError
from service.collection import ArtifactInUseError
from service.decisions import DecisionAmbiguousError, DecisionNotFoundError
from service.digest import CanonicalError
from service.documents import DocumentsError
from service.edit_request import RequestError
from service.edits import EditNotFoundError, EditSetError, NotSolvedError
from service.engine.door import DoorError
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.slots import ActivationError
from service.entry import CompileError, EditCompileError, MonitorCompileError
from service.errors import ServiceError
from service.events import EventNotFoundError
from service.generations import ConflictError
from service.jobs import JobNotFoundError, JobOverError
from service.key_request import KeyRequestError
from service.keys import KeyNotFoundError, KeyOverError, KeyRefusedError, KeyTakenError
from service.limits import LimitError
from service.replays import NothingCapturedError
from service.selection import SelectionError
from service.store import (
    RevisionNotFoundError,
    StoreError,
)
from steering.direction import DirectionError

Shape = Literal["openai", "anthropic"]

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

# First match counts: a class stands before its base.
_KNOWN: tuple[tuple[type[Exception], int, str], ...] = (
    (DocumentsError, 422, "invalid_document"),
    (AssignmentError, 422, "invalid_change"),
    (MonitorCompileError, 422, "monitor_refused"),
    (EditCompileError, 422, "edit_refused"),
    (CompileError, 422, "policy_refused"),
    (AnchorError, 400, "invalid_anchor"),
    (ArtifactGoneError, 409, "artifact_gone"),
    (ArtifactInUseError, 409, "artifact_in_use"),
    (QuotaError, 507, "artifact_quota"),
    (ConflictError, 412, "generation_moved"),
    (CapacityError, 409, "no_capacity"),
    (ArtifactRefusedError, 422, "invalid_artifact"),
    (ArtifactNotFoundError, 404, "artifact_not_found"),
    (RevisionNotFoundError, 404, "policy_not_found"),
    (EventNotFoundError, 404, "event_not_found"),
    (NothingCapturedError, 409, "nothing_captured"),
    (DecisionNotFoundError, 404, "decision_not_found"),
    (DecisionAmbiguousError, 409, "ambiguous_name"),
    (JobNotFoundError, 404, "job_not_found"),
    (KeyNotFoundError, 404, "key_not_found"),
    (KeyTakenError, 409, "key_taken"),
    (KeyOverError, 409, "key_over"),
    (KeyRefusedError, 422, "invalid_key"),
    (KeyRequestError, 422, "invalid_key"),
    (LimitError, 429, "rate_limit_exceeded"),
    (JobOverError, 409, "job_over"),
    (EditNotFoundError, 404, "edit_not_found"),
    (NotSolvedError, 409, "edit_not_solved"),
    (EditSetError, 422, "invalid_edit"),
    (RequestError, 422, "invalid_request"),
    (ArtifactError, 422, "invalid_artifact"),
    (DirectionError, 422, "invalid_artifact"),
    (CanonicalError, 422, "invalid_content"),
    (StoreError, 503, "store_unavailable"),
    (ActivationError, 503, "activation_failed"),
    (MergeError, 409, "not_merged"),
    (WeightsUnknownError, 503, "weights_unknown"),
    (DoorError, 503, "not_let_in"),
    (ServiceError, 400, "refused"),
)


@dataclass(eq=False)
class HttpError(ServiceError):
    """A request that is refused with a status; ``extra`` joins the error object."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        """Return the message."""
        return self.message


KNOWN = tuple(kind for kind, _, _ in _KNOWN)
"""Errors that ``as_http`` can put into an answer."""


def as_http(error: Exception) -> HttpError:
    """Return the answer to an expected error; it must be one of ``KNOWN``."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, SelectionError):
        return HttpError(error.status, error.code, error.message, error.param)
    if isinstance(error, CatalogError):
        return HttpError(error.status, error.code, error.message)
    status, code = next((s, c) for kind, s, c in _KNOWN if isinstance(error, kind))
    return HttpError(status, code, _message(error), headers=_headers(error), extra=_extra(error))


def error_response(error: HttpError, shape: Shape = "openai") -> JSONResponse:
    """Return an error in the shape of the route that it answers."""
    body = error_body(error, shape)
    return JSONResponse(body, status_code=error.status, headers=dict(error.headers))


def error_body(error: HttpError, shape: Shape) -> dict[str, Any]:
    """Return an error as the JSON values of a shape."""
    return _anthropic(error) if shape == "anthropic" else _openai(error)


def _openai(error: HttpError) -> dict[str, Any]:
    fallback = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = _OPENAI_TYPES.get(error.status, fallback)
    described = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return {"error": described | dict(error.extra)}


def _anthropic(error: HttpError) -> dict[str, Any]:
    fallback = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(error.status, fallback)
    return {"type": "error", "error": {"type": kind, "message": error.message, "code": error.code}}


def _message(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, CapacityError):
        return text
    if " left: " not in text:
        return text
    return f"{text}, or remove a policy first (GET /trimtab/v1/status shows what is used)"


def _headers(error: Exception) -> dict[str, str]:
    return {"Retry-After": str(error.retry_after)} if isinstance(error, LimitError) else {}


def _extra(error: Exception) -> dict[str, Any]:
    if isinstance(error, DocumentsError):
        return {"problems": [problem.as_dict() for problem in error.problems]}
    if isinstance(error, CompileError):
        return {error.kind: error.policy, "path": error.path}
    return {}
