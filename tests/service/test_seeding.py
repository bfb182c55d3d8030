"""What a store has to begin with: once, and no directory's."""

import json
from pathlib import Path

import pytest

from service.artifacts import ArtifactLibrary
from service.documents import Document, DocumentsError, parse_content
from service.seeding import seed_of, unseen
from service.store import Store
from tests.service.api.world import World, build, document, steering

SEED = (steering("first"), steering("second", 0.5))


def parsed() -> tuple[Document, ...]:
    return tuple(parse_content(one) for one in SEED)


async def begun() -> World:
    world = await build(())
    await world.governor.start(None, parsed())
    return world


async def test_what_is_given_is_the_apis_and_can_be_switched() -> None:
    world = await begun()
    policies = world.governor.catalog.policies
    assert {one.label: one.owner for one in policies.values()} == {
        "first@1": "api",
        "second@1": "api",
    }
    answer = await world.call(
        "POST", "/trimtab/v1/policies/first/set", key=True, json={"set": {"mode": "off"}}
    )
    assert answer.status_code == 200, answer.text
    assert world.governor.catalog.policies["first"].spec.mode == "off"
    world.store.close()


async def test_a_second_start_leaves_what_was_changed_and_what_was_removed() -> None:
    world = await begun()
    await world.governor.edit("first", {"mode": "off"}, actor="ann")
    await world.governor.remove("Policy", "second", actor="ann")
    generation = world.governor.catalog.generation
    assert unseen(parsed(), world.store) == ()
    await world.governor.start(None, parsed())
    policies = world.governor.catalog.policies
    assert [(one.label, one.spec.mode) for one in policies.values()] == [("first@2", "off")]
    assert world.governor.catalog.generation == generation
    world.store.close()


def test_a_folder_gives_its_documents_and_its_artifacts(tmp_path: Path) -> None:
    store = Store.ephemeral()
    library = ArtifactLibrary(store)
    assert seed_of(None, library) == ()
    (tmp_path / "a.yaml").write_text(json.dumps(document("bare")))
    assert [one.name for one in seed_of(tmp_path, library)] == ["bare"]
    (tmp_path / "b.yaml").write_text("kind: Nothing")
    with pytest.raises(DocumentsError):
        seed_of(tmp_path, library)
    store.close()
