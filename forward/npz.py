"""NumPy archives of plain numbers, as other programs leave them: no pickles, no bombs."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 16 << 30
"""Unpacked; a dictionary of a million latents at width 2,304 in float32 stays below."""


class NpzError(ValueError):
    """A file that is no archive of plain numbers, or unpacks to too much."""


def read_npz(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Return the arrays of an npz file by name.

    Raises:
        NpzError: The file is missing or damaged, holds objects, or unpacks to more than
            ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max_bytes:
            raise NpzError(f"{path} unpacks to more than {max_bytes} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except NpzError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, TypeError, EOFError) as error:
        raise NpzError(f"{path} is not an npz file of plain numbers: {error}") from error
