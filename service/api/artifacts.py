"""Artifacts over HTTP: a card and the bytes of a safetensors file, never a path."""

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from editing.card import Edit
from forward.container import Artifact, ArtifactError, parse_artifact
from monitors.probe import Probe
from monitors.sae import Sae
from monitors.sae_coder import SaeError
from service.api.body import read_body
from service.api.errors import HttpError
from service.api.json_body import load_json
from service.api.server import Server
from service.artifact_store import ArtifactNotFoundError
from service.artifacts import KINDS, parse
from service.digest import canonical_json
from service.library import Kept
from service.records import StoredArtifact
from steering.library import Found

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
        """Refuse what no document could use: it would stand in the way of the good one of its name.

        Raises:
            ArtifactError, DirectionError: It is malformed, or of a kind that is not served.
            HttpError: It was made on another model.
        """
        what = f"{artifact.card['kind']} '{artifact.card['name']}'"
        model, served = _model_of(parse(artifact)), self._server.governor.model
        if model.digest != served.digest:
            message = (
                f"{what} was made on model {model.digest[:12]}, and {served.digest[:12]} is "
                "served: make it again on this model"
            )
            raise HttpError(422, "wrong_model", message, "card.model")
        if model.d_model not in (None, served.d_model) or model.deepest >= served.n_layers:
            message = (
                f"{what} has width {model.d_model} and layers up to {model.deepest}; the model "
                f"has width {served.d_model} and {served.n_layers} layers"
            )
            raise HttpError(422, "wrong_shape", message, "tensors")


@dataclass(frozen=True, slots=True)
class _Model:
    """What an artifact says of the model it is for; a calibration has no width."""

    digest: str
    d_model: int | None = None
    deepest: int = 0


def _model_of(parsed: Found | Kept[Any]) -> _Model:
    if isinstance(parsed, Found):
        direction = parsed.direction
        return _Model(direction.model, direction.d_model, max(direction.layers))
    content = parsed.content
    match content:
        case Probe():
            return _Model(content.model, content.d_model, content.point.layer)
        case Sae():
            return _Model(content.model, content.coder.d_in, _layer(content))
        case Edit():
            layers = content.delta.layers
            return _Model(content.model, next(iter(layers.values())).u.shape[0], max(layers))
        case _:
            return _Model(content.binding.model)


def _layer(sae: Sae) -> int:
    """Return the layer at which an SAE reads.

    Raises:
        ArtifactError: It reads where nothing is served.
    """
    try:
        return sae.point.layer
    except SaeError as error:
        raise ArtifactError(str(error)) from error


def _parts(body: bytes) -> tuple[dict[str, Any], bytes]:
    fields = _object(body)
    unknown = sorted(set(fields) - {"card", "tensors"})
    if unknown:
        raise _malformed(f"unknown field '{unknown[0]}'", unknown[0])
    card, tensors = fields.get("card"), fields.get("tensors")
    if not isinstance(card, dict):
        raise _malformed("'card' is a JSON object", "card")
    if card.get("kind") not in KINDS:
        kind, served = card.get("kind"), ", ".join(KINDS)
        message = f"artifacts of kind {kind!r} are not served; this version has {served}"
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
