"""What every change over HTTP has in common: who asks, for which generation, and what it did."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from service.api.errors import HttpError
from service.api.keys import caller_of
from service.publisher import Applied

_ETAG = re.compile(r'"([0-9]{1,18})"')


def actor_of(request: Request) -> str:
    """Return who asks, as the audit log says it."""
    return caller_of(request.scope).label


def expected_of(request: Request) -> int | None:
    """Return the generation that ``If-Match`` names; None for any.

    Raises:
        HttpError: 400, it names none.
    """
    given = request.headers.get("if-match", "*").strip()
    if given == "*":
        return None
    found = _ETAG.fullmatch(given)
    if found is None:
        message = (
            f"If-Match is '{given[:60]}': give the generation as the ETag of GET policies says it, "
            'such as "7"'
        )
        raise HttpError(400, "invalid_precondition", message, "If-Match")
    return int(found[1])


def etag(generation: int) -> dict[str, str]:
    """Return the header that names a generation."""
    return {"etag": f'"{generation}"'}


def changed(applied: Applied, more: Mapping[str, Any] = MappingProxyType({})) -> JSONResponse:
    """Return the answer to a change: what it did, the generation after it, and ``more``."""
    body, generation = outcome(applied) | dict(more), applied.catalog.generation
    return JSONResponse(body, headers=etag(generation))


def outcome(applied: Applied) -> dict[str, Any]:
    """Return what a change did, as JSON values."""
    changes = applied.changes
    return {
        "generation": applied.catalog.generation,
        "changed": [
            {"name": p.name, "revision": p.revision, "digest": p.digest} for p in changes.changed
        ],
        "removed": [p.name for p in changes.removed],
        "changed_bindings": [{"name": b.name, "revision": b.revision} for b in changes.bindings],
        "removed_bindings": list(changes.removed_bindings),
        "changed_monitors": [
            {"name": m.name, "revision": m.revision, "digest": m.digest}
            for m in changes.changed_monitors
        ],
        "removed_monitors": [m.name for m in changes.removed_monitors],
        "changed_edits": [
            {"name": e.name, "revision": e.revision, "digest": e.digest}
            for e in changes.changed_edits
        ],
        "removed_edits": [e.name for e in changes.removed_edits],
    }
