"""Identity is content: digests of tensors and plain values."""

import hashlib
import struct
from collections.abc import Iterable
from typing import Protocol

import torch

Plain = float | int | str | bool | None | Iterable["Plain"]


def tensor_digest(tensor: torch.Tensor, *values: Plain) -> str:
    """Return the sha256 of a tensor's dtype, shape and bytes, then of plain values, in hex."""
    hasher = hashlib.sha256()
    hasher.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    hasher.update(tensor_bytes(tensor))
    for value in values:
        _update(hasher, value)
    return hasher.hexdigest()


def values_digest(*values: Plain) -> str:
    """Return the sha256 of plain values in hex; tuples are framed, so nesting is unambiguous."""
    hasher = hashlib.sha256()
    for value in values:
        _update(hasher, value)
    return hasher.hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements as bytes in C order, any dtype."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _update(hasher: _Hasher, value: Plain) -> None:
    if isinstance(value, str):
        raw = value.encode()
        hasher.update(b"s" + struct.pack("<q", len(raw)) + raw)
    elif isinstance(value, (bool, int)):
        _update(hasher, str(int(value)))
    elif isinstance(value, float):
        hasher.update(b"f" + struct.pack("<d", value))
    elif value is None:
        hasher.update(b"n")
    else:
        hasher.update(b"(")
        for item in value:
            _update(hasher, item)
        hasher.update(b")")
