from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from forward.fingerprint import ModelFingerprint
from steering.direction import Direction
from steering.formats import FormatError, export_gguf, import_direction
from tests.steering.toys import MODEL, random_direction

D, N = 16, 5
MODEL_INFO = ModelFingerprint(MODEL, "llama", D, N)
RNG = np.random.default_rng(0)
NATURAL = {layer: (3 * RNG.standard_normal(D)).astype(np.float32) for layer in range(1, N)}


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    hint: str | None = "llama",
    arch: str = "controlvector",
) -> Path:
    """Write a file as repeng does: hint, layer count, direction.N for its layer-list entry N."""
    writer = gguf.GGUFWriter(path, arch)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_gguf(path: Path) -> tuple[str, str, int, dict[int, np.ndarray]]:
    """Read a file as repeng and llama.cpp do."""
    reader = gguf.GGUFReader(path)

    def part(name: str) -> np.ndarray:
        field = reader.get_field(name)
        assert field is not None
        return field.parts[-1]

    assert all(tensor.tensor_type.name == "F32" for tensor in reader.tensors)
    tensors = {int(t.name.removeprefix("direction.")): np.array(t.data) for t in reader.tensors}
    return (
        bytes(part("general.architecture")).decode(),
        bytes(part("controlvector.model_hint")).decode(),
        int(part("controlvector.layer_count")[0]),
        tensors,
    )


def imported(path: Path, file_format, **options) -> Direction:
    return import_direction(path, file_format, MODEL_INFO, name="toy", **options)


def check_natural(found: Direction, expected: dict[int, np.ndarray]) -> None:
    assert set(found.layers) == set(expected)
    for layer, vector in expected.items():
        exact = torch.from_numpy(np.array(vector)).double()
        assert found.scale[layer] == pytest.approx(float(exact.norm()), rel=1e-12)
        assert torch.allclose(found.natural(layer), exact, rtol=1e-6, atol=1e-7)


def test_repeng_file_acts_at_the_output_of_the_layer_it_names(tmp_path: Path):
    path = write_gguf(tmp_path / "v.gguf", {f"direction.{k}": v for k, v in NATURAL.items()})
    found = imported(path, "gguf")
    assert found.hook == "resid_post"
    check_natural(found, NATURAL)
    assert found.defaults.layers == tuple(NATURAL)
    assert found.provenance.method == "gguf"
    assert imported(path, "gguf", layer=3).defaults.layers == (3,)


def test_gguf_round_trip(tmp_path: Path):
    path = write_gguf(tmp_path / "v.gguf", {f"direction.{k}": v for k, v in NATURAL.items()})
    first = imported(path, "gguf")
    export_gguf(first, tmp_path / "w.gguf", MODEL_INFO)
    arch, hint, count, tensors = read_gguf(tmp_path / "w.gguf")
    assert (arch, hint, count) == ("controlvector", "llama", len(NATURAL))
    assert set(tensors) == set(NATURAL)
    for layer, vector in NATURAL.items():
        assert np.abs(tensors[layer] - vector).max() <= np.spacing(np.abs(vector).max())
    check_natural(imported(tmp_path / "w.gguf", "gguf"), tensors)


def test_repeng_may_have_layer_zero_but_it_is_not_exported(tmp_path: Path):
    path = write_gguf(tmp_path / "v.gguf", {"direction.0": NATURAL[1]})
    assert imported(path, "gguf").layers == (0,)
    whole = random_direction(0, D, N)
    with pytest.raises(FormatError, match="refuses a file with layer 0"):
        export_gguf(whole, tmp_path / "w.gguf", MODEL_INFO)
    export_gguf(whole, tmp_path / "w.gguf", MODEL_INFO, layers=[2, 4])
    assert set(read_gguf(tmp_path / "w.gguf")[3]) == {2, 4}
    with pytest.raises(FormatError, match="cannot write layers"):
        export_gguf(whole, tmp_path / "w.gguf", MODEL_INFO, layers=[9])
    with pytest.raises(FormatError, match="acts at resid_pre"):
        export_gguf(random_direction(0, D, N, hook="resid_pre"), tmp_path / "x", MODEL_INFO)


@pytest.mark.parametrize("hint", ["llama", "some-new-model"])
def test_gguf_hints_that_fit(tmp_path: Path, hint: str):
    imported(write_gguf(tmp_path / "v.gguf", {"direction.1": NATURAL[1]}, hint), "gguf")


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"direction.1": NATURAL[1]}, {"hint": "gpt2"}, "made for a gpt2 model"),
        ({"direction.1": NATURAL[1]}, {"arch": "llama"}, "architecture 'llama'"),
        ({"other.1": NATURAL[1]}, {}, "'other.1'"),
        ({"direction.x": NATURAL[1]}, {}, "'direction.x'"),
        ({"direction.1": NATURAL[1].astype(np.float64)}, {}, "F64"),
        ({"direction.1": NATURAL[1][:8]}, {}, r"shape \(8,\)"),
        ({"direction.5": NATURAL[1]}, {}, "layer 5 is outside the model"),
        ({"direction.1": 0 * NATURAL[1]}, {}, "zero"),
        ({"direction.1": np.full(D, np.nan, np.float32)}, {}, "not finite"),
        ({"direction.1": np.full(D, np.inf, np.float32)}, {}, "norm inf"),
        ({"direction.1": np.full(D, 1e9, np.float32)}, {}, "norm"),
        ({}, {}, "no vectors"),
    ],
)
def test_gguf_refusals(tmp_path: Path, tensors, options, message: str):
    path = write_gguf(tmp_path / "v.gguf", tensors, **options)
    with pytest.raises(FormatError, match=message):
        imported(path, "gguf")


def test_gguf_damage_is_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "v.gguf", {f"direction.{k}": v for k, v in NATURAL.items()})
    whole = path.read_bytes()
    for cut in (0, 3, 20, 100, len(whole) - 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            imported(path, "gguf")
    path.write_bytes(b"not a gguf file at all, whatever its name says" * 10)
    with pytest.raises(FormatError, match="not an intact GGUF"):
        imported(path, "gguf")


def write(path: Path, file_format: str, arrays: dict[str, np.ndarray]) -> Path:
    if file_format == "npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path.with_name(path.name + ".npz") if path.suffix != ".npz" else path
    save_file({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, path)
    return path


WHOLE = np.stack([NATURAL.get(layer, NATURAL[1] * 2) for layer in range(N)])


@pytest.mark.parametrize("file_format", ["safetensors", "npz"])
@pytest.mark.parametrize(
    ("arrays", "options", "expected"),
    [
        ({"v": WHOLE}, {}, dict(enumerate(WHOLE))),
        ({"v": WHOLE}, {"layer": 2}, dict(enumerate(WHOLE))),
        ({"v": WHOLE[2]}, {"layer": 2}, {2: WHOLE[2]}),
        ({"v": WHOLE[2:3]}, {"layer": 4}, {4: WHOLE[2]}),
        ({"resid_post.3": WHOLE[3]}, {}, {3: WHOLE[3]}),
        ({"layer.1": WHOLE[1], "layer.4": WHOLE[4]}, {}, {1: WHOLE[1], 4: WHOLE[4]}),
        ({"1": WHOLE[1], "layers_4": WHOLE[4]}, {}, {1: WHOLE[1], 4: WHOLE[4]}),
        (
            {"blocks.1.hook_resid_post": WHOLE[1], "model.layers.4": WHOLE[4]},
            {},
            {1: WHOLE[1], 4: WHOLE[4]},
        ),
        ({"resid_pre.3": WHOLE[3]}, {"hook": "resid_pre"}, {3: WHOLE[3]}),
    ],
)
def test_plain_files(tmp_path: Path, file_format, arrays, options, expected):
    path = write(tmp_path / f"v.{file_format}", file_format, arrays)
    found = imported(path, file_format, **options)
    check_natural(found, expected)
    layer = options.get("layer")
    assert found.defaults.layers == (tuple(sorted(expected)) if layer is None else (layer,))
    assert found.hook == options.get("hook", "resid_post")


@pytest.mark.parametrize("file_format", ["safetensors", "npz"])
@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"v": WHOLE[2]}, {}, "does not say its layer"),
        ({"v": WHOLE[:4]}, {}, r"shape \(4, 16\) does not fit"),
        ({"v": np.concatenate([WHOLE, WHOLE[:1]])}, {}, "no row for the embedding"),
        ({"v": WHOLE[2]}, {"layer": 5}, "outside the model"),
        ({"layer.7": WHOLE[2]}, {}, "outside the model"),
        ({"layer.1": WHOLE[1], "1": WHOLE[1]}, {}, "two arrays are for layer 1"),
        ({"layer.1": WHOLE[1], "x": WHOLE[1]}, {}, "'x' does not say its layer"),
        ({"resid_pre.1": WHOLE[1]}, {}, "is for resid_pre"),
        ({"layer.1": WHOLE[1]}, {"layer": 2, "hook": "resid_post"}, None),
        ({"layer.1": WHOLE[1], "layer.2": WHOLE[2]}, {"layer": 3}, "no vector for layer 3"),
        ({"layer.1": WHOLE[1].astype(np.int32)}, {}, "int32"),
        ({"layer.1": WHOLE[1][:3]}, {}, r"shape \(3,\)"),
        ({"layer.1": WHOLE[1] * np.nan}, {}, "not finite"),
        ({"layer.1": WHOLE[1] * 0}, {}, "zero"),
    ],
)
def test_plain_refusals(tmp_path: Path, file_format, arrays, options, message):
    path = write(tmp_path / f"v.{file_format}", file_format, arrays)
    if message is None:
        assert imported(path, file_format, **options).layers == (2,)
        return
    with pytest.raises(FormatError, match=message):
        imported(path, file_format, **options)


def test_npz_with_pickled_objects_is_refused(tmp_path: Path):
    path = tmp_path / "v.npz"
    np.savez(path, v=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FormatError, match="not an npz file of plain numbers"):
        imported(path, "npz")


@pytest.mark.parametrize("file_format", ["gguf", "safetensors", "npz"])
def test_other_files_are_refused(tmp_path: Path, file_format):
    path = tmp_path / "v"
    for content in (b"", b"PK\x03\x04 broken", b"\x80\x04N.", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            imported(path, file_format)
    with pytest.raises(FormatError, match="cannot read"):
        imported(tmp_path / "missing", file_format)
    with pytest.raises(FormatError, match="cannot read"):
        imported(tmp_path, file_format)
