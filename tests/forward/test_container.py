import json

import pytest
import torch

from forward.container import Artifact, ArtifactError, find_artifacts, parse_artifact, read_artifact

CARD = {"kind": "direction", "name": "formal", "scale": 2.5, "layers": [1, 2]}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "b": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        "a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "h": torch.tensor([[1.0]], dtype=torch.float16),
    }


def test_round_trip_is_exact(tmp_path):
    artifact = Artifact.make(CARD, tensors())
    path = artifact.save(tmp_path)
    found = read_artifact(path)
    assert path.stem == found.digest == artifact.digest
    assert found.card == CARD
    assert list(find_artifacts(tmp_path)) == [path]
    for name, tensor in tensors().items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_nothing_but_the_two_files_is_left(tmp_path):
    path = Artifact.make(CARD, tensors()).save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, path.with_suffix(".json").name}


def test_the_digest_covers_card_names_and_values():
    base = Artifact.make(CARD, tensors()).digest
    renamed = {("z" if name == "a" else name): tensor for name, tensor in tensors().items()}
    changed = tensors() | {"a": torch.tensor([1.5, -2.5], dtype=torch.bfloat16)}
    others = [
        Artifact.make(CARD | {"scale": 2.6}, tensors()),
        Artifact.make(CARD, renamed),
        Artifact.make(CARD, changed),
    ]
    assert len({base, *(other.digest for other in others)}) == 4
    reordered = dict(reversed(tensors().items()))
    assert Artifact.make(dict(reversed(CARD.items())), reordered).digest == base


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_changed_file_is_refused(tmp_path, suffix):
    path = Artifact.make(CARD, tensors()).save(tmp_path)
    target = path.with_suffix(suffix)
    content = bytearray(target.read_bytes())
    if suffix == ".json":
        target.write_text(json.dumps(CARD | {"scale": 2.4}))
    else:
        content[-1] ^= 1
        target.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="it was changed"):
        read_artifact(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_named(tmp_path, suffix):
    path = Artifact.make(CARD, tensors()).save(tmp_path)
    path.with_suffix(suffix).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        read_artifact(path)


def test_a_renamed_artifact_is_refused(tmp_path):
    path = Artifact.make(CARD, tensors()).save(tmp_path)
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).rename(tmp_path / f"{'0' * 64}{suffix}")
    with pytest.raises(ArtifactError, match="it was changed"):
        read_artifact(tmp_path / f"{'0' * 64}.safetensors")


@pytest.mark.parametrize(
    ("card", "tensor", "message"),
    [
        ({"kind": "direction"}, torch.ones(1), "needs a 'name'"),
        ({"kind": 3, "name": "x"}, torch.ones(1), "needs a 'kind'"),
        (CARD, torch.tensor([float("nan")]), "not finite"),
        (CARD, torch.tensor([float("inf")]), "not finite"),
        (CARD, torch.ones(1, dtype=torch.int64), "use float32"),
        (CARD, torch.ones(1, dtype=torch.float64), "use float32"),
        (CARD | {"scale": float("nan")}, torch.ones(1), "finite JSON"),
        (CARD | {"scale": torch.ones(1)}, torch.ones(1), "finite JSON"),
    ],
)
def test_unsafe_contents_are_refused(card, tensor, message):
    with pytest.raises(ArtifactError, match=message):
        Artifact.make(card, {"v": tensor})


def test_large_finite_values_pass():
    Artifact.make(CARD, {"v": torch.full((8,), 3e38)})


@pytest.mark.parametrize(
    ("raw", "card", "message"),
    [
        (b"\x80\x04pickle", b"{}", "not a safetensors file"),
        (b"", b"{}", "not a safetensors file"),
        (None, b"{", "not JSON"),
        (None, b"[1]", "not a JSON object"),
        (None, b"\xff", "not JSON"),
        (None, b"[" * 100_000, "not JSON"),
        (None, b'{"kind": "a", "name": "b", "x": 1e999}', "finite JSON"),
        (None, b'{"kind": "a", "name": "b", "x": NaN}', "finite JSON"),
    ],
)
def test_foreign_bytes_are_refused(tmp_path, raw, card, message):
    good = Artifact.make(CARD, tensors()).save(tmp_path).read_bytes()
    with pytest.raises(ArtifactError, match=message):
        parse_artifact(good if raw is None else raw, card)
