"""What is known before an engine starts: sites, capacities and gates of monitored policies."""

import json
from pathlib import Path
from typing import Any

import pytest

from forward.columns import Read
from forward.fingerprint import model_fingerprint
from forward.site import Capacity
from monitors import probe_card
from monitors.binding import chat_template_digest, tokenizer_digest
from service.prepare import Prepared, prepare
from service.prompting import templated
from service.settings import Headroom, Settings, SettingsError
from steering.defaults import Defaults
from steering.library import save_direction
from tests.models import CHAT_TEMPLATE, D_MODEL, build_model, build_tokenizer, save_checkpoint
from tests.service.monitored import post, probe, random
from tests.steering.toys import random_direction

HEADROOM = Headroom(rows=5, reads=2, writes=3, gates=7)
USE = {"mode": "shadow", "fpr": 0.01, "do": "steer"}


def document(kind: str, name: str, **spec: Any) -> str:
    head = {"apiVersion": "trimtab/v1", "kind": kind, "metadata": {"name": name}}
    return json.dumps({**head, "spec": spec})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("model"))


def prepared(folder: Path, checkpoint: Path, *documents: str) -> Prepared:
    digest, read = model_fingerprint(checkpoint).digest, Read(random(D_MODEL, seed=1), 0.5)
    for name, layer in (("harm-1", 1), ("spare", 3)):
        probe_card.to_artifact(probe(name, layer, model=digest, value=read)).save(
            folder / "artifacts"
        )
    (folder / "p.yaml").write_text("\n---\n".join(documents))
    return prepare(Settings(str(checkpoint), folder, headroom=HEADROOM))


def test_monitors_and_gates_have_room(checkpoint: Path, tmp_path: Path):
    """A gate by rate in shadow counts although nothing is calibrated: its mode can be switched."""
    digest = model_fingerprint(checkpoint).digest
    formal = random_direction(1, D_MODEL, 4, name="formal", model=digest, defaults=Defaults((2,)))
    save_direction(formal, tmp_path / "artifacts")
    made = prepared(
        tmp_path,
        checkpoint,
        document("Monitor", "harm", read={"probe": "harm-1"}),
        document("Monitor", "idle", read={"probe": "harm-1"}, tokens="prompt"),
        document("Policy", "watch", monitors={"harm": {**USE, "do": "log"}}),
        document(
            "Policy",
            "gated",
            monitors={"harm": USE},
            steer=[
                {"direction": "formal", "when": {"monitor": "harm", "fpr": rate}}
                for rate in (0.01, 0.1)
            ],
        ),
    )
    assert dict(made.capacities) == {
        post(1): Capacity(2 + 5, 1 + 2, 0 + 3),
        post(2): Capacity(2 + 5, 0 + 2, 2 + 3),
        post(3): Capacity(2 + 5, 0 + 2, 0 + 3),
    }
    assert made.gates == 2 + 7
    made.store.close()


def test_how_text_becomes_tokens_is_read(checkpoint: Path, tmp_path: Path):
    made = prepared(tmp_path, checkpoint, document("Policy", "idle"))
    tokenizer = build_tokenizer()
    assert made.prompting.tokenizer == tokenizer_digest(tokenizer)
    assert made.prompting.chat_template == chat_template_digest(tokenizer)
    assert templated(made.prompting, CHAT_TEMPLATE) == made.prompting
    assert templated(made.prompting, "other") != made.prompting
    made.store.close()


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path):
    build_model("llama").save_pretrained(tmp_path / "model")
    with pytest.raises(SettingsError, match="tokenizer"):
        prepare(Settings(str(tmp_path / "model")))


def test_layers_to_merge_into_are_the_models(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match=r"--merge-layers names 4, 7, outside the model: .* 3"):
        prepare(Settings(str(checkpoint), merge_layers=(1, 7, 4)))
