"""Artifacts over HTTP: a card and the bytes of a safetensors file, never a path."""

import asyncio
import base64
import binascii
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from forward.container import Artifact, parse_artifact
from service.api.body import read_body
from service.api.errors import HttpError
from service.api.json_body import load_json
from service.api.server import Server
from service.digest import canonical_json
from service.records import StoredArtifact
from service.store import ArtifactNotFoundError
from steering.card import KIND, from_artifact

MAX_ARTIFACT_BYTES = 256 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactRoutes:
    """Handlers; reading and checking run off the event loop."""

    def __init__(self, server: Server) -> None:
        """Answer for ``server``."""
        self._server = server

    async def all(self, request: Request) -> Response:
        """List the artifacts, newest first."""
        stored = await asyncio.to_thread(self._server.store.all_artifacts)
        return JSONResponse({"artifacts": [_summary(artifact) for artifact in stored]})

    async def one(self, request: Request) -> Response:
        """Show an artifact's card."""
        digest = request.path_params["digest"]
        if not _DIGEST.fullmatch(digest):
            message = f"'{digest[:80]}' is not a digest: it has 64 hexadecimal digits"
            raise HttpError(400, "invalid_digest", message, "digest")
        try:
            stored = await asyncio.to_thread(self._server.store.artifact, digest)
        except ArtifactNotFoundError as error:
            raise HttpError(404, "artifact_not_found", str(error), "digest") from error
        return JSONResponse(_summary(stored) | {"card": stored.card})

    async def add(self, request: Request) -> Response:
        """Add an artifact: ``{"card": {...}, "tensors": "<base64 of safetensors>"}``."""
        body = await read_body(request.headers, request.receive, MAX_ARTIFACT_BYTES)
        stored = await asyncio.to_thread(self._add, body)
        return JSONResponse(_summary(stored), status_code=201)

    def _add(self, body: bytes) -> StoredArtifact:
        card, tensors = _parts(body)
        self._check(parse_artifact(tensors, canonical_json(card).encode()))
        store = self._server.store
        return store.artifact(store.add_artifact(tensors, card))

    def _check(self, artifact: Artifact) -> None:
        """Refuse what no policy could use: it would stand in the way of the good one of its name.

        Raises:
            DirectionError: It is no well-formed direction.
            HttpError: It was made on another model.
        """
        direction = from_artifact(artifact)
        model = self._server.governor.model
        if direction.model != model.digest:
            message = (
                f"direction '{direction.name}' was made on model {direction.model[:12]}, and "
                f"{model.digest[:12]} is served: extract it again on this model"
            )
            raise HttpError(422, "wrong_model", message, "card.model")
        if direction.d_model != model.d_model or max(direction.layers) >= model.n_layers:
            message = (
                f"direction '{direction.name}' has width {direction.d_model} and layers up to "
                f"{max(direction.layers)}; the model has width {model.d_model} and "
                f"{model.n_layers} layers"
            )
            raise HttpError(422, "wrong_shape", message, "tensors")


def _parts(body: bytes) -> tuple[dict[str, Any], bytes]:
    fields = _object(body)
    unknown = sorted(set(fields) - {"card", "tensors"})
    if unknown:
        raise _malformed(f"unknown field '{unknown[0]}'", unknown[0])
    card, tensors = fields.get("card"), fields.get("tensors")
    if not isinstance(card, dict):
        raise _malformed("'card' is a JSON object", "card")
    if card.get("kind") != KIND:
        message = f"artifacts of kind {card.get('kind')!r} are not served; this version has {KIND}"
        raise _malformed(message, "card.kind")
    if not isinstance(tensors, str):
        raise _malformed("'tensors' is the base64 text of a safetensors file", "tensors")
    try:
        return card, base64.b64decode(tensors, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(f"'tensors' is not base64: {error}", "tensors") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = load_json(body)
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise HttpError(400, "invalid_json", "the body is an object with 'card' and 'tensors'")
    return parsed


def _malformed(message: str, param: str) -> HttpError:
    return HttpError(422, "invalid_artifact", message, param)


def _summary(stored: StoredArtifact) -> dict[str, Any]:
    return {
        "digest": stored.digest,
        "kind": stored.kind,
        "name": stored.name,
        "created_at": stored.created_at,
    }
