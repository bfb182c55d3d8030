"""Artifacts that nothing names are taken away; what anything names never is."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from service.activation import By
from service.artifact_store import ArtifactNotFoundError, QuotaError
from service.collection import ArtifactInUseError, Collected
from service.documents import Document
from service.store import Store
from tests.service.places import StorePlace

Make = Callable[..., Document]
NOW = timedelta(0)


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    with place.open() as opened:
        yield opened


def add(store: Store, value: float, name: str = "x", kind: str = "direction") -> str:
    return store.add_artifact(save({"3": torch.full((64,), value)}), {"kind": kind, "name": name})


def names(found: Collected) -> set[str]:
    return {artifact.digest for artifact in found.artifacts}


def collect(store: Store, *keep: str) -> set[str]:
    time.sleep(0.01)  # a grace of nothing still spares what was made this very millisecond
    return names(store.collector().collect("ann", keep, NOW))


def test_what_a_revision_names_stays_for_ever(store: Store, policy: Make) -> None:
    old, new, never = (add(store, value) for value in (1.0, 2.0, 3.0))
    store.activate(By("ann"), [store.record(policy("a"), {"x": old}, "api")])
    store.activate(By("ann"), [store.record(policy("a"), {"x": new}, "api")])
    store.activate(By("ann"), [], [("Policy", "a")])
    assert collect(store) == {never}
    assert {one.digest for one in store.all_artifacts()} == {old, new}
    assert store.artifact(old).path.is_file()
    with pytest.raises(ArtifactNotFoundError):
        store.artifact(never)
    assert not list(store.artifacts_folder.glob(f"{never}*"))
    assert collect(store) == set()


def test_what_a_job_was_given_stays_until_it_ends(store: Store) -> None:
    beside, subject, alike = (add(store, value, kind="edit") for value in (1.0, 2.0, 3.0))
    jobs = store.jobs()
    solving = jobs.add("edit-solve", "e", {"beside": [beside], "alike": alike})
    evaluating = jobs.add("edit-evaluate", "e", {"artifact": subject})
    assert collect(store) == set()
    with pytest.raises(ArtifactInUseError, match=f"named by job {evaluating.id}"):
        store.collector().remove("ann", subject)
    jobs.cancel(evaluating.id)
    assert collect(store) == {subject}
    jobs.cancel(solving.id)
    assert collect(store) == {beside, alike}


def test_what_is_new_or_kept_by_the_caller_stays(store: Store) -> None:
    one, two = add(store, 1.0), add(store, 2.0)
    assert names(store.collector().collect("ann")) == set()
    assert collect(store, one) == {two}


def test_a_dry_run_takes_nothing_and_says_how_much(store: Store) -> None:
    digest = add(store, 1.0)
    time.sleep(0.01)
    found = store.collector().unnamed(grace=NOW)
    files = [store.artifacts_folder / f"{digest}{end}" for end in (".json", ".safetensors")]
    assert (names(found), found.freed) == ({digest}, sum(f.stat().st_size for f in files))
    assert store.artifact(digest).digest == digest


def test_files_that_nobody_owns_go_once_they_are_old(store: Store) -> None:
    known = add(store, 1.0)
    folder = store.artifacts_folder
    lost = [folder / f".{'a' * 64}.json.77", folder / f"{'b' * 64}.safetensors"]
    others = [folder / "README.txt", folder / "jobs"]
    for path in (*lost, others[0]):
        path.write_bytes(b"12345678")
    others[1].mkdir()
    (others[1] / "1.json").write_text("{}")
    assert store.collector().collect("ann", [known]).orphans == ()
    for path in (*lost, *others):
        os.utime(path, (0, 0))
    found = store.collector().collect("ann", [known])
    assert (set(found.orphans), found.freed) == (set(lost), 16)
    assert all(path.exists() for path in others)
    assert store.artifact(known).path.is_file()


def test_each_artifact_taken_is_in_the_audit_log(store: Store) -> None:
    one, two = add(store, 1.0, "north"), add(store, 2.0)
    assert store.collector().remove("bob (k2)", one) is not None
    assert store.collector().remove("bob (k2)", one) is None
    assert collect(store) == {two}
    newest, removed = store.audit().entries()
    assert (removed.actor, removed.action, removed.target) == (
        "bob (k2)",
        "remove",
        f"Artifact/{one}",
    )
    assert removed.before is not None and removed.after is None
    assert (removed.before["name"], removed.before["bytes"] > 256) == ("north", True)
    assert (newest.action, newest.target) == ("collect", f"Artifact/{two}")
    assert store.audit().verify().bad is None


def test_one_artifact_is_removed_unless_something_names_it(store: Store, policy: Make) -> None:
    digest = add(store, 1.0)
    store.record(policy("a"), {"x": digest}, "api")
    with pytest.raises(ArtifactInUseError, match="named by Policy a@1"):
        store.collector().remove("ann", digest)
    free = add(store, 2.0)
    with pytest.raises(ArtifactInUseError, match="policy directory"):
        store.collector().remove("ann", free, [free])
    assert store.audit().entries() == ()


def test_the_quota_counts_what_is_there(tmp_path: Path) -> None:
    with Store.open(str(tmp_path)) as store:
        add(store, 1.0)
        size = sum(f.stat().st_size for f in store.artifacts_folder.iterdir())
    with Store.open(str(tmp_path), artifact_quota=size + 100) as store:
        with pytest.raises(QuotaError, match=f"and {size} of the {size + 100}"):
            add(store, 2.0)
        assert len(list(store.artifacts_folder.iterdir())) == 2
        assert add(store, 1.0) == store.all_artifacts()[0].digest  # it is there already
        data, card = save({"3": torch.zeros(64)}), {"kind": "direction", "name": "x"}
        assert store.add_artifact(data, card, is_bounded=False)
