"""The model fingerprint: which model an artifact was made on, by content.

The sha256 of the architecture's configuration and of every tensor's name, dtype, shape and bytes.
How the tensors are sharded, file names, paths and times never enter, nor does what a configuration
says about generation or about the software that wrote it.
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forward.families import model_shape

MAX_HEADER_BYTES = 100 << 20
"""The limit that the safetensors format itself sets."""

_NOT_ARCHITECTURE = frozenset(
    {
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "task_specific_params",
    }
)
"""Fields that do not change the forward pass of given weights (the tensors carry their dtype)."""


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be identified."""


@dataclass(frozen=True, slots=True)
class ModelFingerprint:
    """Identity of a checkpoint, and the sizes that artifacts are checked against."""

    digest: str
    family: str
    d_model: int
    n_layers: int


def model_fingerprint(folder: str | Path) -> ModelFingerprint:
    """Return the fingerprint of a checkpoint folder. Reads every byte once, on all cores.

    Raises:
        CheckpointError: No readable configuration or no intact safetensors weights.
        UnsupportedModelError: The family is not supported.
    """
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    shape = model_shape(config)
    tensors = _tensor_digests(folder)
    content = {"config": _architecture(config), "tensors": tensors}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return ModelFingerprint(digest, shape.family.name, shape.d_model, shape.n_layers)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that shape the forward pass; absent and null are the same."""
    return {
        name: _architecture(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if value is not None and not name.startswith("_") and name not in _NOT_ARCHITECTURE
    }


def _tensor_digests(folder: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path in _weight_files(folder):
            for name, digest in _file_digests(path, pool).items():
                if name in digests:
                    raise CheckpointError(f"tensor '{name}' is in more than one file of {folder}")
                digests[name] = digest
    return digests


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names files outside its folder")
        paths = [folder / name for name in names]
    else:
        paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise CheckpointError(
            f"{folder} has no safetensors weights; convert the checkpoint "
            "(model.save_pretrained(folder) writes safetensors). Pickled weights are never read"
        )
    return paths


def _file_digests(path: Path, pool: ThreadPoolExecutor) -> dict[str, str]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header, start = _header(data, path)
            jobs = {
                name: pool.submit(_tensor_digest, data, start, entry)
                for name, entry in header.items()
            }
            return {name: job.result() for name, job in jobs.items()}
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def _header(data: mmap.mmap, path: Path) -> tuple[dict[str, Any], int]:
    """Return the tensors' entries and where their bytes start.

    A safetensors file is an 8-byte little-endian header length, a JSON header, then the bytes.
    """
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise CheckpointError(f"{path} is not a safetensors file: its header length is wrong")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != len(data):
        raise CheckpointError(f"{path} is incomplete: {len(data)} bytes, {8 + length + end} named")
    return header, 8 + length


def _tensor_digest(data: mmap.mmap, start: int, entry: Mapping[str, Any]) -> str:
    first, last = entry["data_offsets"]
    hasher = hashlib.sha256(f"{entry['dtype']}{tuple(entry['shape'])}".encode())
    with memoryview(data) as view, view[start + first : start + last] as part:
        hasher.update(part)
    return hasher.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        parsed: object = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return parsed
