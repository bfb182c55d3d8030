"""What becomes of jobs on edits: a solved edit goes into the store, and its document is applied."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from service.documents import Document, parse_content
from service.edit_work import Brief, Finding
from service.errors import ServiceError
from service.governor import REFUSED
from service.job_folder import BRIEF, FINDING, OUT
from service.job_runner import RefusedError
from service.jobs import Content, JobRecord
from service.store import Store

CACHE = "cache"
"""Folder beside the artifacts' files with values, keys and second moments."""


class Apply(Protocol):
    """Applies documents in somebody's name."""

    async def __call__(self, documents: Sequence[Document], *, actor: str) -> object:
        """Apply them, all or none."""
        ...


class KeepError(ServiceError):
    """A result that cannot be put into effect."""


class EditWork:
    """Jobs on edits of one model."""

    def __init__(self, store: Store, checkpoint: Path, model: str, apply: Apply) -> None:
        """Keep edits of a model.

        Args:
            store: Where artifacts are kept.
            checkpoint: The model's folder.
            model: Its fingerprint.
            apply: Applies documents over the API; runs on the event loop.
        """
        self._store, self._checkpoint, self._model = store, checkpoint, model
        self._apply = apply

    def prepare(self, record: JobRecord, folder: Path) -> None:
        """Write what the process is given.

        Raises:
            ArtifactNotFoundError: An edit that the request names is gone.
        """
        request = record.request
        single = (request.get("artifact"), request.get("alike"))
        named = [*request.get("beside", ()), *filter(None, single)]
        Brief(
            record.job.kind,
            request,
            str(self._checkpoint),
            str(self._store.artifacts_folder / CACHE),
            {digest: str(self._store.artifact(digest).path) for digest in named},
            str(folder / OUT),
        ).write(folder / BRIEF)

    def found(self, folder: Path) -> Content:
        """Return what the process found.

        Raises:
            RefusedError: A gate refuses the edit.
            KeepError: It is of another model.
        """
        finding = Finding.read(folder / FINDING)
        if finding.refused:
            raise RefusedError(finding.refused, finding.result)
        model = finding.result["edit"]["model"]
        if model != self._model:
            raise KeepError(
                f"the checkpoint {self._checkpoint} is now model {model[:12]}, and "
                f"{self._model[:12]} is served: start the server again"
            )
        return finding.result

    async def keep(self, record: JobRecord, folder: Path) -> Content:
        """Add the edit to the store and apply its document, unless the directory has it.

        Raises:
            StoreError: The edit cannot be kept.
            KeepError: The document cannot be applied; the edit is kept.
        """
        finding = Finding.read(folder / FINDING)
        if finding.artifact is None:
            return finding.result
        path = folder / OUT / f"{finding.artifact}.safetensors"
        await asyncio.to_thread(self._add, path)
        if record.request["apply"]:
            document = parse_content(record.request["document"])
            await self._applied(document, record.request["actor"], finding.artifact)
        return finding.result

    async def _applied(self, document: Document, actor: str, artifact: str) -> None:
        try:
            await self._apply([document], actor=actor)
        except REFUSED as error:
            raise KeepError(
                f"the edit is solved and kept as {artifact[:12]}, but EditSet '{document.name}' "
                f"could not be applied: {error}"
            ) from error

    def _add(self, path: Path) -> None:
        card = json.loads(path.with_suffix(".json").read_bytes())
        self._store.add_artifact(path, card)
