"""Other people's files: repeng GGUF control vectors, plain safetensors, npz.

Layers in a control-vector GGUF: tensor ``direction.N`` is the output of the 0-based decoder layer
N, our ``resid_post.N``, with no shift. Both programs that define the format agree in code: repeng
reads ``hidden_states[N + 1]`` (index 0 is the embedding) and adds at the output of layer list
entry N; llama.cpp adds it after block N. What makes the names look 1-based is that neither uses
N = 0: repeng leaves layer 0 out unless asked for, and llama.cpp refuses a file that has it (one
of repeng's docstrings says that 1 is the first block; its code does not do so). At a model's last
layer repeng reads after the final norm, so that vector is in another scale than the residual's.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from forward.families import FAMILIES
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookName, HookPoint, HookPointError
from forward.npz import NpzError, read_npz
from steering.defaults import Defaults
from steering.direction import Direction, DirectionError, Provenance, from_natural

Format = Literal["gguf", "safetensors", "npz"]

MAX_BYTES = 1 << 30
MAX_LENGTH = 1e6
"""Longest vector that is believed; residuals of served models are far shorter."""

_ARCH = "controlvector"
_GGUF_NAME = re.compile(r"direction\.(?P<layer>\d{1,4})")
_PLAIN_NAME = re.compile(r"(?:(?:layers?|directions?|vectors?)[._])?(?P<layer>\d{1,4})")


class FormatError(ValueError):
    """A file that is no direction in the format named, or not one for this model."""


def import_direction(
    path: Path,
    file_format: Format,
    model: ModelFingerprint,
    *,
    name: str,
    hook: HookName = "resid_post",
    layer: int | None = None,
) -> Direction:
    """Read a direction from a file and check it against the model that it is for.

    Args:
        path: The file.
        file_format: ``gguf``; ``safetensors`` or ``npz``: one array (n_layers, d_model), one
            (d_model,), or one (d_model,) a layer, named by hook point or layer number.
        model: The model it is to steer.
        name: Name of the direction.
        hook: Where it acts; a GGUF acts at ``resid_post``.
        layer: The layer of a single vector; otherwise the default layer, which is every layer of
            the file when not given.

    Raises:
        FormatError: The file cannot be read or does not fit; says which tensor and why.
    """
    raw = _read(path)
    if file_format == "gguf":
        natural = _from_gguf(path, model, hook)
    else:
        arrays = _safetensors(path, raw) if file_format == "safetensors" else _npz(path)
        natural = _by_layer(arrays, model, hook, layer)
    _check(natural, model, path)
    if layer is not None and layer not in natural:
        raise FormatError(f"{path} has no vector for layer {layer}; it has {sorted(natural)}")
    try:
        vectors, scale = from_natural(natural)
        return Direction(
            name=name,
            hook=hook,
            model=model.digest,
            vectors=vectors,
            scale=scale,
            defaults=Defaults(tuple(sorted(natural)) if layer is None else (layer,)),
            provenance=Provenance(file_format, source=hashlib.sha256(raw).hexdigest()),
        )
    except DirectionError as error:
        raise FormatError(f"{path}: {error}") from error


def export_gguf(
    direction: Direction, path: Path, model: ModelFingerprint, layers: Sequence[int] | None = None
) -> None:
    """Write ``scale · unit`` as a control vector that repeng and llama.cpp read.

    Args:
        direction: A direction at ``resid_post``.
        path: Where to write.
        model: Its model; the family becomes ``model_hint``.
        layers: Which layers; all of them when not given.

    Raises:
        FormatError: The format has no place for the hook point or for a layer.
    """
    from gguf import GGUFWriter

    chosen = direction.layers if layers is None else tuple(layers)
    if direction.hook != "resid_post":
        raise FormatError(
            f"'{direction.name}' acts at {direction.hook}; a control vector acts at a layer's "
            "output (resid_post)"
        )
    unknown = sorted(set(chosen) - set(direction.layers))
    if unknown or 0 in chosen or not chosen:
        raise FormatError(
            f"cannot write layers {list(chosen)}: '{direction.name}' has {list(direction.layers)}, "
            "and llama.cpp refuses a file with layer 0; choose layers from 1 on"
        )
    writer = GGUFWriter(path, _ARCH)
    writer.add_string(f"{_ARCH}.model_hint", model.family)
    writer.add_uint32(f"{_ARCH}.layer_count", len(chosen))
    for layer in chosen:
        writer.add_tensor(f"direction.{layer}", direction.natural(layer).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path} is larger than {MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror}") from error


def _from_gguf(path: Path, model: ModelFingerprint, hook: HookName) -> dict[int, Tensor]:
    from gguf import GGUFReader

    if hook != "resid_post":
        raise FormatError("a GGUF control vector acts at a layer's output: use resid_post")
    try:
        reader = GGUFReader(path)
        kind, hint = (_text(reader, n) for n in ("general.architecture", f"{_ARCH}.model_hint"))
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not an intact GGUF file: {error}") from error
    if kind != _ARCH:
        raise FormatError(f"{path} is a GGUF of architecture '{kind}', not a {_ARCH}")
    if not _hint_fits(hint, model.family):
        raise FormatError(f"{path} was made for a {hint} model, not for {model.family}")
    found: dict[int, Tensor] = {}
    for tensor in reader.tensors:
        match = _GGUF_NAME.fullmatch(tensor.name)
        if match is None or tensor.tensor_type.name not in ("F32", "F16"):
            raise FormatError(
                f"{path}: tensor '{tensor.name}' of type {tensor.tensor_type.name} has no place in "
                "a control vector (direction.N in F32 or F16)"
            )
        found[int(match["layer"])] = torch.from_numpy(np.array(tensor.data))
    return found


def _text(reader: object, name: str) -> str:
    field = reader.get_field(name)  # type: ignore[attr-defined]
    return "" if field is None else bytes(field.parts[-1]).decode()


def _hint_fits(hint: str, family: str) -> bool:
    """Whether a file's hint can mean the family; llama.cpp calls mistral models llama."""
    names = {family, family.removesuffix("_text")} | ({"llama"} if family == "mistral" else set())
    return hint in names or hint not in FAMILIES


def _safetensors(path: Path, raw: bytes) -> dict[str, Tensor]:
    try:
        return load_safetensors(raw)
    except SafetensorError as error:
        raise FormatError(f"{path} is not a safetensors file: {error}") from error


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        return read_npz(path, MAX_BYTES)
    except NpzError as error:
        raise FormatError(str(error)) from error


def _by_layer(
    arrays: Mapping[str, Tensor], model: ModelFingerprint, hook: HookName, layer: int | None
) -> dict[int, Tensor]:
    if not arrays:
        raise FormatError("the file holds no arrays")
    only = next(iter(arrays.values()))
    if len(arrays) > 1 or (only.dim() == 1 and layer is None):
        return _by_name(arrays, hook)
    if layer is not None and only.numel() == only.shape[-1:].numel():
        return {layer: only.reshape(-1)}
    if only.dim() == 2 and only.shape[0] == model.n_layers:
        return dict(enumerate(only))
    raise FormatError(
        f"an array of shape {tuple(only.shape)} does not fit a model of {model.n_layers} layers of "
        f"width {model.d_model}: expected ({model.n_layers}, {model.d_model}), row i for layer i "
        f"(no row for the embedding), or ({model.d_model},) with a layer named"
    )


def _by_name(arrays: Mapping[str, Tensor], hook: HookName) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for name, array in arrays.items():
        layer = _layer_of(name, hook)
        if layer in found:
            raise FormatError(f"two arrays are for layer {layer}, one of them '{name}'")
        found[layer] = array
    return found


def _layer_of(name: str, hook: HookName) -> int:
    plain = _PLAIN_NAME.fullmatch(name)
    if plain is not None:
        return int(plain["layer"])
    try:
        point = HookPoint.parse(name)
    except HookPointError as error:
        raise FormatError(
            f"array '{name}' does not say its layer; name arrays {hook}.N or layer.N, or give the "
            "layer of a single vector"
        ) from error
    if point.name != hook:
        raise FormatError(f"array '{name}' is for {point.name}, not for {hook}")
    return point.layer


def _check(natural: Mapping[int, Tensor], model: ModelFingerprint, path: Path) -> None:
    if not natural:
        raise FormatError(f"{path} holds no vectors")
    for layer, vector in natural.items():
        where = f"{path}: the vector of layer {layer}"
        if layer >= model.n_layers or layer < 0:
            raise FormatError(f"{where} is outside the model, which has {model.n_layers} layers")
        if vector.shape != (model.d_model,) or not vector.is_floating_point():
            raise FormatError(
                f"{where} is {vector.dtype} of shape {tuple(vector.shape)}; this model needs "
                f"({model.d_model},) of a float type"
            )
        length = float(vector.double().norm())
        if length > MAX_LENGTH:
            raise FormatError(f"{where} has norm {length:g}; more than {MAX_LENGTH:g} is refused")
