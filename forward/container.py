"""The artifact container: safetensors and a JSON card, named by content digest.

An artifact is a pair of files ``<digest>.safetensors`` and ``<digest>.json``. The digest covers
the card's canonical JSON and every tensor's name, dtype, shape and bytes; reading recomputes it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from forward.digest import tensor_digest, values_digest

MAX_BYTES = 1 << 30
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Card = Mapping[str, Any]


class ArtifactError(ValueError):
    """An artifact that is damaged, unsafe or not what its name says."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """Tensors and the card that says what they are (``kind`` and ``name`` at least)."""

    card: Card
    tensors: Mapping[str, torch.Tensor]
    digest: str

    @classmethod
    def make(cls, card: Card, tensors: Mapping[str, torch.Tensor]) -> "Artifact":
        """Check contents and fix the identity.

        Raises:
            ArtifactError: A card without kind or name, a wrong dtype, a value that is not finite,
                or a card that is not JSON.
        """
        for key in ("kind", "name"):
            if not isinstance(card.get(key), str):
                raise ArtifactError(f"an artifact's card needs a '{key}'")
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)
        try:
            return cls(card, dict(tensors), content_digest(card, tensors))
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"the card is not plain, finite JSON: {error}") from error

    def save(self, folder: Path) -> Path:
        """Write both files into ``folder``, each to a temporary name first; return the tensors'.

        The card comes first: where tensors are found, their card is there too.
        """
        folder.mkdir(parents=True, exist_ok=True)
        card = json.dumps(self.card, indent=1, sort_keys=True, allow_nan=False)
        _write(folder / f"{self.digest}.json", card.encode() + b"\n")
        _write(folder / f"{self.digest}.safetensors", save_tensors(_contiguous(self.tensors)))
        return folder / f"{self.digest}.safetensors"


def content_digest(card: Card, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 over the card's canonical JSON and all tensors."""
    canonical = json.dumps(card, sort_keys=True, separators=(",", ":"), allow_nan=False)
    parts = tuple((name, tensor_digest(tensors[name])) for name in sorted(tensors))
    return values_digest(canonical, parts)


def read_artifact(path: Path) -> Artifact:
    """Read ``<digest>.safetensors`` and its card and check them against the digest.

    Raises:
        ArtifactError: A file is missing, damaged or its content does not have this digest.
    """
    card_path = path.with_suffix(".json")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{path.name} is larger than {MAX_BYTES} bytes")
        artifact = parse_artifact(path.read_bytes(), card_path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"artifact file {error.filename} is missing") from error
    except OSError as error:
        raise ArtifactError(f"artifact file {path} cannot be read: {error.strerror}") from error
    if artifact.digest != path.stem:
        raise ArtifactError(f"{path.name} holds content {artifact.digest}: it was changed")
    return artifact


def parse_artifact(tensors: bytes, card: bytes) -> Artifact:
    """Make an artifact of the raw bytes of its two files.

    Raises:
        ArtifactError: They are no safetensors or no JSON object, or fail ``Artifact.make``.
    """
    try:
        loaded = load_tensors(tensors)
    except SafetensorError as error:
        raise ArtifactError(f"not a safetensors file: {error}") from error
    try:
        parsed: object = json.loads(card)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the card is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ArtifactError("the card is not a JSON object")
    return Artifact.make(parsed, loaded)


def find_artifacts(folder: Path) -> list[Path]:
    """Return the tensor files of all artifacts in ``folder``, by name."""
    return sorted(folder.glob("*.safetensors"))


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in DTYPES:
        raise ArtifactError(f"tensor '{name}' is {tensor.dtype}; use float32, float16 or bfloat16")
    if not bool(torch.isfinite(tensor).all()):
        raise ArtifactError(f"tensor '{name}' has values that are not finite")


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
