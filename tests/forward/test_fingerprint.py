import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from forward.checkpoint import load_model
from forward.families import UnsupportedModelError
from forward.fingerprint import CheckpointError, model_fingerprint
from tests.models import CONFIGS, D_MODEL, N_LAYERS, build_model, save_checkpoint

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """Return a copy of the Llama checkpoint to tamper with."""
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "copy"))


def edit_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensor(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS)


@pytest.mark.parametrize("family", CONFIGS)
def test_sizes_of_every_family(checkpoint, family):
    found = model_fingerprint(checkpoint(family))
    assert (found.family, found.d_model, found.n_layers) == (family, D_MODEL, N_LAYERS)
    assert len(found.digest) == 64


def test_families_and_seeds_differ(checkpoint, tmp_path):
    digests = {model_fingerprint(checkpoint(family)).digest for family in CONFIGS}
    digests.add(model_fingerprint(save_checkpoint("llama", tmp_path, seed=1)).digest)
    assert len(digests) == len(CONFIGS) + 1


def test_resharding_renaming_and_touching_change_nothing(checkpoint, folder, tmp_path):
    expected = model_fingerprint(checkpoint("llama"))
    os.utime(folder / WEIGHTS, (1, 1))
    moved = folder.rename(tmp_path / "elsewhere")
    assert model_fingerprint(moved) == expected
    load_model(moved).save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert model_fingerprint(tmp_path / "sharded") == expected


def test_what_does_not_shape_the_forward_pass_changes_nothing(checkpoint, folder):
    expected = model_fingerprint(checkpoint("llama"))
    edit_config(
        folder, transformers_version="9", use_cache=False, eos_token_id=7, _name_or_path="x",
        dtype="bfloat16", unheard_of=None,
    )  # fmt: skip
    (folder / "generation_config.json").write_text('{"temperature": 0.1}')
    assert model_fingerprint(folder) == expected


@pytest.mark.parametrize(
    "fields", [{"rms_norm_eps": 1e-5}, {"hidden_act": "gelu"}, {"unheard_of": 1}]
)
def test_what_shapes_the_forward_pass_counts(checkpoint, folder, fields):
    edit_config(folder, **fields)
    assert model_fingerprint(folder) != model_fingerprint(checkpoint("llama"))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors | {"model.norm.weight": tensors["model.norm.weight"] + 1e-6},
        lambda tensors: tensors | {"model.norm.weight": tensors["model.norm.weight"].bfloat16()},
        lambda tensors: tensors | {"extra": torch.zeros(1)},
        lambda tensors: {n: t for n, t in tensors.items() if n != "model.norm.weight"},
        lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"].reshape(128, 256)},
    ],
)
def test_every_tensor_counts(checkpoint, folder, change):
    edit_tensor(folder, change)
    assert model_fingerprint(folder) != model_fingerprint(checkpoint("llama"))


def test_pickled_weights_are_refused(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        model_fingerprint(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}x"])
def test_damaged_weights_are_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"safetensors|incomplete"):
        model_fingerprint(folder)


def test_a_cut_file_is_refused(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="incomplete"):
        model_fingerprint(folder)


def test_an_index_that_leaves_the_folder_is_refused(folder):
    index = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its folder"):
        model_fingerprint(folder)


def test_a_tensor_in_two_files_is_refused(folder):
    shutil.copy(folder / WEIGHTS, folder / "model-2.safetensors")
    with pytest.raises(CheckpointError, match="more than one file"):
        model_fingerprint(folder)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_configuration_that_cannot_be_read_is_refused(folder, content):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        model_fingerprint(folder)


def test_another_family_is_refused(folder):
    edit_config(folder, model_type="mamba")
    with pytest.raises(UnsupportedModelError, match="mamba"):
        model_fingerprint(folder)


def test_a_checkpoint_loads_as_it_was_built(checkpoint):
    built, loaded = build_model("gemma2"), load_model(checkpoint("gemma2"))
    assert loaded.config._attn_implementation == "eager"
    for name, parameter in built.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name))
