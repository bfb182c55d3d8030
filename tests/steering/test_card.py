import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forward.clauses import TokenClause
from forward.container import Artifact, ArtifactError, read_artifact
from forward.digest import tensor_bytes
from steering.card import from_artifact, to_artifact
from steering.defaults import Defaults
from steering.direction import Direction, DirectionError, Provenance, Separation
from steering.library import read_directions, save_direction
from tests.steering.toys import random_direction


def full() -> Direction:
    return replace(
        random_direction(3, d_model=37, layers=12, name="full"),
        separation={2: Separation(0.1 + 0.2, 1 / 3), 11: Separation(1.0, 1e6)},
        defaults=Defaults((2, 10), "ablate", TokenClause("generation", 5), -1 / 3, "residual_norm"),
        provenance=Provenance("pca", "mean_prompt", 17, "d" * 64),
    )


def test_round_trip_is_exact(tmp_path: Path):
    before = full()
    path = to_artifact(before).save(tmp_path)
    after = from_artifact(read_artifact(path))
    assert after == before
    for layer in before.layers:
        assert tensor_bytes(after.vectors[layer]) == tensor_bytes(before.vectors[layer])
    for field in ("name", "hook", "model", "scale", "benign", "target", "separation"):
        assert getattr(after, field) == getattr(before, field)
    assert (after.provenance, after.defaults) == (before.provenance, before.defaults)
    assert to_artifact(after).digest == path.stem


def test_layers_keep_their_numbers_past_nine():
    assert list(from_artifact(to_artifact(full())).vectors) == list(range(12))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "probe"),
        ("hook", "mlp"),
        ("d_model", 36),
        ("scale", {"0": 1.0}),
        ("scale", {"0": "x"}),
        ("unheard", 1),
        ("defaults", {"layers": [0], "op": "explode", "tokens": "all"}),
        (
            "defaults",
            {"layers": [0], "op": "add", "tokens": "nope", "coefficient": 1, "unit": "natural"},
        ),
        (
            "defaults",
            {"layers": [], "op": "add", "tokens": "all", "coefficient": 1, "unit": "natural"},
        ),
    ],
)
def test_refuses_cards_that_lie(key: str, value: object):
    artifact = to_artifact(full())
    card = {**json.loads(json.dumps(artifact.card)), key: value}
    with pytest.raises(DirectionError):
        from_artifact(Artifact.make(card, artifact.tensors))


def test_refuses_other_tensors_than_the_card_names():
    artifact = to_artifact(full())
    tensors = {**artifact.tensors, "resid_pre.0": torch.zeros(37)}
    with pytest.raises(DirectionError, match="tensors"):
        from_artifact(Artifact.make(artifact.card, tensors))


def test_library_finds_by_name_and_replaces(tmp_path: Path):
    first, second = random_direction(0, name="one"), random_direction(1, name="one")
    save_direction(first, tmp_path)
    save_direction(random_direction(2, name="two"), tmp_path)
    save_direction(second, tmp_path)
    found = read_directions(tmp_path)
    assert set(found) == {"one", "two"}
    assert found["one"].direction == second
    assert found["one"].digest == to_artifact(second).digest


def test_library_refuses_two_of_one_name_and_damage(tmp_path: Path):
    to_artifact(random_direction(0, name="one")).save(tmp_path)
    path = to_artifact(random_direction(1, name="one")).save(tmp_path)
    with pytest.raises(DirectionError, match="two directions are named 'one'"):
        read_directions(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError):
        read_directions(tmp_path)
