"""Probes fitted elsewhere: a vector and a bias in a safetensors or npz file.

The vector is the tensor named ``vector``, ``weight`` or ``coef_``, or the only one; the bias the
number named ``bias`` or ``intercept_``, or 0. Other names are refused: a file that holds more than
a probe needs someone to say what is meant.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from forward.columns import Read
from forward.fingerprint import ModelFingerprint
from forward.hookpoints import HookPoint
from forward.npz import NpzError, read_npz
from monitors.probe import Probe, ProbeError, ProbeProvenance

VECTORS = ("vector", "weight", "coef_")
BIASES = ("bias", "intercept_")
MAX_BYTES = 64 << 20


def import_probe(
    path: Path, model: ModelFingerprint, *, name: str, point: HookPoint, source: str = ""
) -> Probe:
    """Return the probe of a file.

    Args:
        path: ``.safetensors`` or ``.npz``.
        model: The model it is for.
        name: Name of the probe.
        point: Where it reads.
        source: Digest of the file.

    Raises:
        ProbeError: The file cannot be read, holds something else, or does not fit the model.
    """
    tensors = _read(path)
    vector, bias = _vector(tensors, path), _bias(tensors, path)
    if vector.numel() != model.d_model:
        raise ProbeError(
            f"{path.name} has a vector of {vector.numel()} numbers and the model's residual has "
            f"{model.d_model}"
        )
    if not bool(torch.isfinite(vector).all()):
        raise ProbeError(f"{path.name} has a vector with values that are not finite")
    read = Read(vector, bias)
    return Probe(
        name, "imported", point, model.digest, read, provenance=ProbeProvenance(source=source)
    )


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProbeError(f"{path} is larger than {MAX_BYTES} bytes: that is no probe")
        if path.suffix == ".safetensors":
            return load_safetensors(path.read_bytes())
        if path.suffix == ".npz":
            return read_npz(path, MAX_BYTES)
    except NpzError as error:
        raise ProbeError(str(error)) from error
    except OSError as error:
        raise ProbeError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ProbeError(f"{path} is not a readable {path.suffix[1:]} file: {error}") from error
    raise ProbeError(f"{path.name} is neither .safetensors nor .npz")


def _vector(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    rest = [name for name in tensors if name not in BIASES]
    named = [name for name in rest if name in VECTORS]
    chosen = named or rest
    if len(chosen) != 1 or len(rest) > 1:
        raise ProbeError(
            f"{path.name} has {', '.join(sorted(tensors)) or 'nothing'}; a probe is one vector, "
            f"named {', '.join(VECTORS)} or alone, and at most a bias, named {' or '.join(BIASES)}"
        )
    vector = tensors[chosen[0]]
    if not vector.is_floating_point() or sum(size > 1 for size in vector.shape) > 1:
        raise ProbeError(
            f"'{chosen[0]}' is {vector.dtype} of shape {tuple(vector.shape)}; one vector of "
            "floats is needed"
        )
    return vector.reshape(-1).to(torch.float32)


def _bias(tensors: Mapping[str, Tensor], path: Path) -> float:
    found = [tensors[name] for name in BIASES if name in tensors]
    if len(found) > 1 or any(bias.numel() != 1 for bias in found):
        raise ProbeError(f"{path.name} has a bias that is not one number")
    return float(found[0]) if found else 0.0
