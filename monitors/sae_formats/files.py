"""Reading other programs' files, and what a reader hands over."""

import hashlib
import json
import pickle  # noqa: TID251 -- for the name of its error; nothing is unpickled here
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from forward.hookpoints import HookPoint, HookPointError
from forward.npz import NpzError, read_npz
from monitors.sae_coder import Coder, SaeError

State = Mapping[str, Tensor]

_SIDE = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.(input|output)")


class SaeFormatError(SaeError):
    """Files that are no sparse autoencoder in the format named, or of a kind not supported."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a format's files say.

    Attributes:
        coder: The arithmetic.
        hook: Where it reads, as the files say; None when they do not.
        hook_out: Where a transcoder writes; empty for an autoencoder.
        l0: Mean number of active features that the files declare.
        activation_units: What a unit of activation is.
        threshold_from: Where a TopK's or BatchTopK's threshold comes from.
        files: What was read, for the digest.
    """

    coder: Coder
    hook: str | None
    hook_out: str = ""
    l0: float | None = None
    activation_units: str = "as stored"
    threshold_from: str = ""
    files: tuple[Path, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator adds to what the files say.

    Attributes:
        k: Active features a token, where a file does not say.
        input_scale: Constant by which inputs were scaled in training, where a file leaves it out.
        threshold: Of every feature of a TopK or BatchTopK, in place of an estimate.
    """

    k: int | None = None
    input_scale: float | None = None
    threshold: float | None = None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        SaeFormatError: The file is missing or is none.
    """
    try:
        parsed: object = json.loads(path.read_bytes())
    except OSError as error:
        raise SaeFormatError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SaeFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise SaeFormatError(f"{path} is not a JSON object")
    return parsed


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        SaeFormatError: The file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SaeFormatError(f"cannot read {path}: {error}") from error


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an npz file.

    Raises:
        SaeFormatError: The file is missing or damaged, or holds more than plain numbers.
    """
    try:
        return read_npz(path)
    except NpzError as error:
        raise SaeFormatError(str(error)) from error


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickled state dict; the unpickler is restricted to tensors.

    Only the operator's import comes here, once: what is served is the converted artifact.

    Raises:
        SaeFormatError: The file is missing or damaged, or holds more than tensors.
    """
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 -- see above
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise SaeFormatError(f"{path} is not a pickle of plain tensors: {error}") from error
    if not isinstance(loaded, dict):
        raise SaeFormatError(f"{path} does not hold a dictionary of tensors")
    state = loaded.get("sae", loaded)
    tensors = {str(k): torch.as_tensor(v) for k, v in state.items() if _is_number(v)}
    if not tensors:
        raise SaeFormatError(f"{path} holds no tensors")
    return tensors


def tensor(state: State, *names: str) -> Tensor:
    """Return the first tensor of these names, as a contiguous float tensor.

    Raises:
        SaeFormatError: There is none.
    """
    found = next((state[name] for name in names if name in state), None)
    if found is None:
        raise SaeFormatError(f"no tensor {' or '.join(names)}; the file has {sorted(state)}")
    wide = found if found.dtype in (torch.float16, torch.bfloat16) else found.float()
    return wide.contiguous()


def canonical_hook(name: str) -> str:
    """Return a served hook point in its own spelling, another name as it is.

    ``model.layers.17.output`` is resid_post.17, its input resid_pre.17.
    """
    side = _SIDE.fullmatch(name)
    if side is not None:
        return f"resid_{'pre' if side[2] == 'input' else 'post'}.{side[1]}"
    try:
        return str(HookPoint.parse(name))
    except HookPointError:
        return name


def layer_in(text: str, pattern: str) -> int | None:
    """Return the layer that a path names, if it does."""
    match = re.search(pattern, text)
    return int(match[1]) if match else None


def files_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 over files' contents in order; their names do not count."""
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()


def _is_number(value: object) -> bool:
    return isinstance(value, (Tensor, int, float)) and not isinstance(value, bool)
