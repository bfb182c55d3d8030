"""Several servers of one store: each follows what the others change, and loses nothing of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from forward.tables import CapacityError
from service.directory import load_directory
from service.documents import Document, parse_content
from service.generations import ConflictError, StaleStoreError
from service.reconcile import Reconciler
from service.replicas import DEAD_SECONDS, FORGET_SECONDS, Replica, Roster
from service.store import Store
from service.tables import generations
from tests.service.api.world import DOCUMENTS, World, binding, build, steering

Open = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgresql"])
def store_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the one store once more."""
    opened: list[Store] = []
    artifacts = tmp_path / "artifacts"
    url = str(tmp_path)
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")

    def opening() -> Store:
        opened.append(Store.open(url, artifacts))
        return opened[-1]

    yield opening
    for store in opened:
        store.close()


@pytest_asyncio.fixture
async def two(store_of: Open) -> AsyncIterator[tuple[World, World]]:
    """Two servers; what the first one applied is active in both."""
    first = await build(DOCUMENTS, rows=48, store=store_of())
    second = await build((), rows=48, store=store_of())
    yield first, second


def doc(content: dict[str, Any]) -> Document:
    return parse_content(content)


async def apply(world: World, *contents: dict[str, Any], expected: int | None = None) -> int:
    documents = [doc(content) for content in contents]
    applied = await world.governor.apply(documents, actor="ann", expected=expected)
    return applied.catalog.generation


async def served(world: World, **fields: Any) -> str:
    return (await world.chat(**fields)).headers["x-trimtab-policy"]


def state(world: World) -> tuple[int, str]:
    return world.governor.catalog.generation, world.governor.catalog.digest


async def test_one_server_takes_over_what_the_other_applied(two: tuple[World, World]) -> None:
    first, second = two
    assert state(first) == state(second)
    generation = await apply(first, steering("formal", 0.7, strength={"max": 2}))
    assert await served(second, policy="formal") == "guard@1, formal@1"
    assert await second.governor.follow()
    assert state(second) == state(first) == (generation, first.governor.catalog.digest)
    assert await served(second, policy="formal") == "guard@1, formal@2"
    row = second.seen[-1]["stamp"]["spans"][1][0][0]
    own = first.governor._publisher.active
    await first.chat(policy="formal")
    assert own.catalog.policies["formal"].revision == 2
    there = first.applied(first.seen[-1]["stamp"]["spans"][1][0][0])
    assert second.applied(row).equal(there)
    assert not await second.governor.follow()


async def test_what_two_servers_change_at_once_is_all_there(two: tuple[World, World]) -> None:
    first, second = two
    before = state(first)[0]
    changes = [
        apply(world, steering(f"p{i}-{j}", 0.1 * (i + 1)))
        for i in range(5)
        for j, world in enumerate((first, second))
    ]
    numbers = await asyncio.gather(*changes)
    assert sorted(numbers) == list(range(before + 1, before + 11))
    for world in two:
        await world.governor.follow()
    assert state(first) == state(second)
    names = {f"p{i}-{j}" for i in range(5) for j in range(2)}
    assert names < set(first.governor.catalog.policies)


async def test_a_change_for_an_older_generation_is_refused(two: tuple[World, World]) -> None:
    first, second = two
    old = state(second)[0]
    await apply(first, steering("fresh"))
    with pytest.raises(ConflictError, match=f"for generation {old}"):
        await apply(second, steering("other"), expected=old)
    # It knows better now, and nothing of the refused change is there.
    assert "fresh" in second.governor.catalog.policies
    assert "other" not in second.governor.catalog.policies
    assert await apply(second, steering("other"), expected=old + 1) == old + 2


async def test_an_ended_canary_is_ended_everywhere(two: tuple[World, World]) -> None:
    first, second = two
    canary = {"policy": "hidden", "replaces": "guard", "share": 1.0}
    await apply(first, binding(mandatory=["guard"], canary=canary))
    await second.governor.follow()
    assert await served(second) == "hidden@1"
    await first.governor.halt("default", "it is bad", actor="ann")
    assert await second.governor.follow()
    assert await served(second) == "guard@1"
    assert second.governor.catalog.binding.halted == "it is bad"
    assert state(first) == state(second)


async def test_removal_is_followed(two: tuple[World, World]) -> None:
    first, second = two
    await first.governor.remove("Policy", "casual", actor="ann")
    await second.governor.follow()
    assert "casual" not in second.governor.catalog.policies
    assert (await second.chat(policy="casual")).status_code == 404


async def test_a_server_that_cannot_hold_it_stays_at_the_last_good(store_of: Open) -> None:
    first = await build(DOCUMENTS, rows=48, store=store_of())
    small = await build((), rows=19, store=store_of())
    before = state(small)
    # Every policy takes rows of its own.
    await apply(first, *(steering(f"p{i}", 0.07 * i) for i in range(1, 20)))
    with pytest.raises(CapacityError):
        await small.governor.follow()
    assert state(small) == before
    assert "left" in str(small.governor.status()["behind"])
    assert await served(small, policy="formal") == "guard@1, formal@1"
    await first.governor.rollback("formal", 1, actor="ann")
    for i in range(1, 20):
        await first.governor.remove("Policy", f"p{i}", actor="ann")
    assert await small.governor.follow()
    assert small.governor.status()["behind"] is None


async def test_a_store_that_went_back_is_not_followed(two: tuple[World, World]) -> None:
    first, _ = two
    before = state(first)
    with first.store._database.write() as connection:
        connection.execute(sa.update(generations).values(generation=0))
    with pytest.raises(StaleStoreError, match="older copy"):
        await first.governor.follow()
    assert state(first) == before
    assert await served(first, policy="formal") == "guard@1, formal@1"


async def test_a_posted_change_keeps_what_another_server_has_in_its_directory(
    store_of: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text(json.dumps(steering("filed", 0.5)))
    first = await build((), store=store_of())
    second = await build((), store=store_of())
    await first.governor.reload(load_directory(folder))
    await apply(second, steering("posted", 0.3))
    await first.governor.follow()
    for world in (first, second):
        assert set(world.governor.catalog.policies) == {"filed", "posted"}
        assert world.governor.catalog.policies["filed"].owner == "directory"
    (folder / "a.yaml").write_text(json.dumps(steering("filed", 0.6)))
    await first.governor.reload(load_directory(folder))
    await second.governor.follow()
    assert second.governor.catalog.policies["filed"].revision == 2


async def test_servers_say_what_they_serve(two: tuple[World, World]) -> None:
    made = [Reconciler(world.governor, world.store.replicas()) for world in two]
    tasks = [asyncio.create_task(one.run()) for one in made]
    try:
        generation = await apply(two[0], steering("fresh"))
        async with asyncio.timeout(20):
            while {one["generation"] for one in made[0].shown()} != {generation}:
                await asyncio.sleep(0.05)
        shown = made[0].shown()
        assert {one["id"] for one in shown} == {one.name for one in made}
        assert {one["digest"] for one in shown} == {state(two[0])[1]}
        assert [one["self"] for one in sorted(shown, key=lambda one: not one["self"])] == [
            True,
            False,
        ]
        assert all(one["alive"] and one["fault"] is None for one in shown)
    finally:
        for task in tasks:
            task.cancel()
    await made[1].close()
    assert [replica.id for replica in two[0].store.replicas().all()] == [made[0].name]


def test_who_stands_still_is_dead_whatever_clocks_say() -> None:
    at = 100.0
    roster = Roster(lambda: at)
    still = Replica("still", "x", "2999-01-01", beats=5)
    moving = Replica("moving", "x", "1970-01-01", beats=5)
    assert roster.see({"still": still, "moving": moving}) == ()
    at += DEAD_SECONDS + 1
    roster.see({"still": still, "moving": moving.beat(3, "d", None)})
    assert {one["id"]: one["alive"] for one in roster.shown()} == {"still": False, "moving": True}
    at += FORGET_SECONDS
    assert roster.see({"still": still, "moving": moving.beat(3, "d", None)}) == ("still",)
    assert roster.see({"moving": moving}) == ()
    assert [one["id"] for one in roster.shown()] == ["moving"]
