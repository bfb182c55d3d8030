"""Artifacts taken away over HTTP: one of them, or all that nothing names."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from forward.container import find_artifacts
from service.api.changes import actor_of
from service.api.errors import HttpError
from service.api.server import Server
from service.artifacts import CALIBRATION
from service.collection import GRACE, Collected
from service.records import StoredArtifact

MAX_HOURS = 24 * 3650


class CollectionRoutes:
    """Handlers; the store is off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server, self._collector = server, server.store.collector()

    async def remove(self, request: Request) -> Response:
        """Take one artifact away, unless something names it."""
        digest, actor = request.path_params["digest"], actor_of(request)
        keep = await asyncio.to_thread(self._of_directory)
        taken = await asyncio.to_thread(self._collector.remove, actor, digest, keep)
        if taken is None:
            message = f"no artifact {digest[:80]} is in the store"
            raise HttpError(404, "artifact_not_found", message, "digest")
        return JSONResponse({"removed": [_shown(taken)]})

    async def collect(self, request: Request) -> Response:
        """Take away what nothing names and is ``?hours=`` old, or only say what that is.

        With ``?dry_run=true`` nothing is taken.
        """
        is_dry, grace = _asked(request.query_params)
        keep = await asyncio.to_thread(self._kept)
        if is_dry:
            found = await asyncio.to_thread(self._collector.unnamed, keep, grace)
        else:
            actor = actor_of(request)
            found = await asyncio.to_thread(self._collector.collect, actor, keep, grace)
        return JSONResponse(_collected(found, is_dry))

    def _kept(self) -> set[str]:
        """Return what revisions do not name and is of use all the same.

        That is what the policy directory holds, and calibrations of the active monitors: a use of
        one finds them by what they are bound to.
        """
        plans = {monitored.plan.digest for monitored in self._server.governor.monitors.values()}
        calibrations = (a for a in self._server.store.all_artifacts() if a.kind == CALIBRATION)
        bound = {a.digest for a in calibrations if a.card["binding"]["plan"] in plans}
        return self._of_directory() | bound

    def _of_directory(self) -> set[str]:
        directory = self._server.governor.directory
        if directory is None:
            return set()
        return {path.stem for path in find_artifacts(directory.artifacts_folder)}


def _collected(found: Collected, is_dry: bool) -> dict[str, Any]:
    return {
        "dry_run": is_dry,
        "removed": [_shown(artifact) for artifact in found.artifacts],
        "orphans": [path.name for path in found.orphans],
        "bytes": found.freed,
    }


def _shown(artifact: StoredArtifact) -> dict[str, Any]:
    return {
        "digest": artifact.digest,
        "kind": artifact.kind,
        "name": artifact.name,
        "created_at": artifact.created_at,
    }


def _asked(query: Mapping[str, str]) -> tuple[bool, timedelta]:
    for name in query:
        if name not in ("dry_run", "hours"):
            message = f"unknown parameter '{name[:60]}'; there are: dry_run, hours"
            raise HttpError(400, "invalid_query", message, name[:60])
    is_dry = query.get("dry_run", "false")
    if is_dry not in ("true", "false"):
        message = f"'dry_run' is true or false, not '{is_dry[:60]}'"
        raise HttpError(400, "invalid_query", message, "dry_run")
    return is_dry == "true", _grace(query.get("hours"))


def _grace(given: str | None) -> timedelta:
    if given is None:
        return GRACE
    if not (given.isascii() and given.isdecimal() and int(given[:20]) <= MAX_HOURS):
        message = f"'hours' is a whole number up to {MAX_HOURS}, not '{given[:60]}'"
        raise HttpError(400, "invalid_query", message, "hours")
    return timedelta(hours=int(given))
