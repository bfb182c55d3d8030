"""Gemma Scope: JumpReLU dictionaries of Gemma 2 (npz) and Gemma 3 (safetensors).

The first release has no configuration: where a dictionary reads follows from its path,
``layer_20/width_16k/average_l0_71/params.npz`` in a repository named for residual (res), MLP or
attention outputs. Its MLP outputs are those after the norm that follows the MLP, and those of
attention are the heads before o_proj. The embedding dictionaries were trained on embeddings
without Gemma's factor √d, which the residual has.

The second names its hook points in its configuration; the folder's name is not to be trusted.
"""

import re
from pathlib import Path

from monitors.sae_coder import Coder
from monitors.sae_formats.files import (
    Found,
    Options,
    SaeFormatError,
    State,
    canonical_hook,
    layer_in,
    read_arrays,
    read_json,
    read_safetensors,
    tensor,
)
from monitors.sae_formats.folding import fold_input_scale

PARAMS_1, PARAMS_2 = "params.npz", "params.safetensors"


def matches_first(path: Path) -> bool:
    """Whether a file or folder looks like the first release."""
    return path.suffix == ".npz" or (path / PARAMS_1).exists()


def matches_second(path: Path) -> bool:
    """Whether a folder looks like the second release."""
    return (path / PARAMS_2).exists()


def read_first(path: Path, options: Options) -> Found:
    """Read an npz file, or the folder that holds it.

    Raises:
        SaeFormatError: The file is missing or lacks arrays.
    """
    file = path if path.suffix == ".npz" else path / PARAMS_1
    coder = _coder(read_arrays(file))
    where = str(file.resolve())
    embedding = "embedding" in where
    if embedding:
        coder = fold_input_scale(coder, coder.d_in**-0.5)
    hook = "resid_pre.0" if embedding else _hook_of_path(where)
    if "transcoder" in where:
        hook = (hook or "").replace("resid_post", "ln2_normalized") or None
    return Found(
        coder,
        hook,
        hook_out="mlp_out" if "transcoder" in where else "",
        l0=_l0_of_path(where),
        files=(file,),
    )


def read_second(path: Path, options: Options) -> Found:
    """Read a folder with ``config.json`` and ``params.safetensors``.

    Raises:
        SaeFormatError: A file is missing, or the configuration is of a cross-layer kind.
    """
    config = read_json(path / "config.json")
    kind = str(config.get("type", "sae"))
    if kind not in ("sae", "transcoder"):
        raise SaeFormatError(
            f"{path} is a {kind}, whose features read or write several layers; import a "
            "dictionary of one hook point"
        )
    state = read_safetensors(path / PARAMS_2)
    point, out = (str(config.get(f"hf_hook_point_{side}") or "") for side in ("in", "out"))
    return Found(
        _coder(state),
        canonical_hook(point) if point else None,
        hook_out=out if kind == "transcoder" else "",
        l0=float(config["l0"]) if config.get("l0") else None,
        files=(path / PARAMS_2, path / "config.json"),
    )


def _coder(state: State) -> Coder:
    skip = state.get("affine_skip_connection")  # stored (d_in, d_out)
    return Coder(
        "jumprelu",
        w_enc=tensor(state, "W_enc", "w_enc"),
        b_enc=tensor(state, "b_enc"),
        w_dec=tensor(state, "W_dec", "w_dec"),
        b_dec=tensor(state, "b_dec"),
        threshold=tensor(state, "threshold"),
        w_skip=None if skip is None else skip.float().T.contiguous(),
    )


def _hook_of_path(path: str) -> str | None:
    layer = layer_in(path, r"layer_(\d+)")
    if layer is None:
        return None
    names = {"mlp": f"mlp_out.{layer}", "att": f"attn_z.{layer}", "res": f"resid_post.{layer}"}
    repository = re.search(r"gemma-scope-[^/]*?-(res|mlp|att)(?=[-/])", path)
    return canonical_hook(names[repository[1] if repository else "res"])


def _l0_of_path(path: str) -> float | None:
    match = re.search(r"average_l0_(\d+)", path)
    return float(match[1]) if match else None
