"""What is active changes as a whole: audited, counted, and only if it is what the caller saw."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from service.activation import ArtifactGoneError, By
from service.documents import Document
from service.generations import ConflictError
from service.store import Store
from tests.service.places import StorePlace

ROOT = Path(__file__).parents[2]
Make = Callable[..., Document]
ANN = By("ann (k1)")


def chain_holds(store: Store) -> bool:
    return store.audit().verify().bad is None


def artifact(store: Store, value: float) -> str:
    card = {"kind": "direction", "name": "x"}
    return store.add_artifact(save({"3": torch.full((4,), value)}), card)


def test_each_change_is_one_generation_and_the_same_again_is_none(
    place: StorePlace, policy: Make, binding: Make
) -> None:
    with place.open() as store:
        empty = store.generation()
        recorded = [store.record(d, {}, "api") for d in (policy("a"), binding(policy="a"))]
        first = store.activate(ANN, recorded)
        assert (empty.number, first.number) == (0, 1)
        assert store.activate(ANN, recorded) == store.generation() == first
        assert len(store.audit().entries()) == 2
        assert store.activate(ANN, [], [("Policy", "unknown")]) == first
    with place.open() as store:
        assert store.generation() == first


def test_the_digest_is_of_content_and_artifacts_alone(place: StorePlace, policy: Make) -> None:
    with place.open() as store:
        on, off = policy("a"), policy("a", mode="off")
        d1, d2 = artifact(store, 1.0), artifact(store, 2.0)
        first = store.activate(ANN, [store.record(on, {"x": d1}, "api")])
        second = store.activate(ANN, [store.record(off, {"x": d1}, "api")])
        third = store.activate(ANN, [store.record(on, {"x": d1}, "directory")])
        fourth = store.activate(ANN, [store.record(on, {"x": d2}, "directory")])
        gone = store.activate(ANN, [], [("Policy", "a")])
    assert third.digest == first.digest
    digests = [one.digest for one in (first, second, fourth, gone)]
    assert len(set(digests)) == 4
    assert [g.number for g in (first, second, third, fourth, gone)] == [1, 2, 3, 4, 5]


def test_the_audit_log_says_who_changed_what(place: StorePlace, policy: Make) -> None:
    with place.open() as store:
        pins = {"x": artifact(store, 1.0)}
        one = store.record(policy("a"), pins, "api")
        two = store.record(policy("a", mode="off"), pins, "api")
        kept = store.record(policy("b"), {}, "api")
        store.activate(ANN, [one, kept])
        store.activate(By("bob", "set"), [two, kept])
        store.activate(By("eve", "rollback"), [one], [kept.key])
        entries = store.audit().entries()[::-1]
        assert [(e.actor, e.action, e.target) for e in entries] == [
            ("ann (k1)", "apply", "Policy/a"),
            ("ann (k1)", "apply", "Policy/b"),
            ("bob", "set", "Policy/a"),
            ("eve", "remove", "Policy/b"),
            ("eve", "rollback", "Policy/a"),
        ]
        assert entries[0].before is None
        assert entries[2].before is not None and entries[2].after is not None
        assert (entries[2].before["revision"], entries[2].after["revision"]) == (1, 2)
        assert entries[2].after["digest"] == two.digest
        assert entries[3].after is None
        assert chain_holds(store)


def test_a_change_for_another_generation_is_refused_whole(place: StorePlace, policy: Make) -> None:
    with place.open() as store:
        one = store.record(policy("a"), {}, "api")
        now = store.activate(By("ann", expected=0), [one])
        other = store.record(policy("b"), {}, "api")
        for stale in (0, 7):
            with pytest.raises(ConflictError, match=f"for generation {stale}, and it is 1"):
                store.activate(By("bob", expected=stale), [other])
            with pytest.raises(ConflictError):
                store.check_generation(stale)
        assert (store.generation(), store.all_active()) == (now, (one,))
        assert len(store.audit().entries()) == 1
        store.check_generation(None)
        store.check_generation(1)


def test_what_means_an_artifact_that_is_gone_is_not_made_active(
    place: StorePlace, policy: Make
) -> None:
    with place.open() as store:
        pins = {"x": artifact(store, 1.0), "y": "0" * 64}
        with pytest.raises(ArtifactGoneError, match="000000000000 was taken away"):
            store.activate(ANN, [store.record(policy("a"), pins, "api")])
        assert (store.generation().number, store.all_active()) == (0, ())


def test_documents_that_a_policy_means_are_no_artifacts(place: StorePlace, policy: Make) -> None:
    with place.open() as store:
        pins = {"monitor/harm": "1" * 64, "editset/moves": "2" * 64}
        assert store.activate(ANN, [store.record(policy("a"), pins, "api")]).number == 1


APPLIER = """
import sys
from pathlib import Path
from service.activation import By
from service.documents import parse_content
from service.generations import ConflictError
from service.store import Store
url, artifacts, name, count, is_locked = sys.argv[1:]
store = Store.open(url, Path(artifacts))
done = 0
while done < int(count):
    expected = store.generation().number if is_locked == "locked" else None
    document = parse_content({"apiVersion": "trimtab/v1", "kind": "Policy",
        "metadata": {"name": "a", "description": f"{name}-{done}"}, "spec": {}})
    try:
        now = store.activate(By(name, expected=expected), [store.record(document, {}, "api")])
    except ConflictError:
        continue
    done += 1
    print(now.number, flush=True)
"""


def applier(place: StorePlace, name: str, count: int, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPLIER, place.url, str(place.artifacts), name]
    command += [str(count), how]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_appliers_with_the_lock_each_see_what_they_change(place: StorePlace) -> None:
    place.open().close()
    names = ("x", "y", "z")
    processes = [applier(place, name, 10, "locked") for name in names]
    numbers = {
        n: [int(line) for line in p.communicate()[0].split()]
        for n, p in zip(names, processes, strict=True)
    }
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert sorted(n for found in numbers.values() for n in found) == list(range(1, 31))
    with place.open() as store:
        assert store.generation().number == 30
        entries = store.audit().entries()[::-1]
        written_by = {name: [e.seq for e in entries if e.actor == name] for name in names}
        assert written_by == numbers  # one row a change, so rows are numbered as generations are
        assert chain_holds(store)


def test_an_applier_killed_at_work_leaves_all_of_its_last_change_or_none(place: StorePlace) -> None:
    process = applier(place, "w", 1_000_000, "free")
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(30)]
    os.kill(process.pid, signal.SIGKILL)
    reported += process.stdout.read().splitlines()
    process.wait()
    with place.open() as store:
        generation = store.generation()
        assert len(reported) <= generation.number <= len(reported) + 1
        newest = store.audit().entries(limit=1)[0]
        (active,) = store.all_active()
        assert newest.seq == generation.number
        assert newest.after is not None
        assert (newest.after["revision"], newest.after["digest"]) == (
            active.revision,
            active.digest,
        )
        assert chain_holds(store)
        assert store.activate(ANN, [active]) == generation
