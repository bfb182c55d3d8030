"""The store: immutable revisions, one active each, artifacts whole or absent."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from safetensors.torch import save

from forward.container import read_artifact
from service.activation import By
from service.artifact_store import ArtifactNotFoundError, ArtifactRefusedError
from service.database import StoreError, parse_url
from service.documents import Document
from service.store import RevisionNotFoundError, Store
from service.tables import metadata
from tests.service.places import StorePlace

ROOT = Path(__file__).parents[2]
Make = Callable[..., Document]
CARD = {"kind": "direction", "name": "formal"}


def steer(coefficient: float) -> list[dict[str, object]]:
    return [{"direction": "formal", "coefficient": coefficient}]


def test_revisions_are_numbered_by_name_and_the_same_content_is_the_same_revision(
    place: StorePlace, policy: Make
) -> None:
    one, two = policy("a", steer=steer(1)), policy("a", steer=steer(2))
    with place.open() as store:
        first = store.record(one, {}, "api")
        assert store.record(one, {}, "api") == first
        assert store.record(two, {}, "api").revision == 2
        assert store.record(policy("b"), {}, "api").revision == 1
        again = store.record(one, {}, "api")
        assert (again.revision, again.digest) == (3, first.digest)
        assert [r.revision for r in store.revisions("a")] == [3, 2, 1]


def test_another_artifact_or_owner_is_another_revision(place: StorePlace, policy: Make) -> None:
    with place.open() as store:
        numbers = [
            store.record(policy("a"), {"formal": "d1"}, "api").revision,
            store.record(policy("a"), {"formal": "d2"}, "api").revision,
            store.record(policy("a"), {"formal": "d2"}, "directory").revision,
            store.record(policy("a"), {"formal": "d2"}, "directory").revision,
        ]
    assert numbers == [1, 2, 3, 3]


def test_a_revision_gives_its_document_back_after_reopening(
    place: StorePlace, policy: Make
) -> None:
    document = policy("a", mode="off", steer=[{"direction": "x", "coefficient": {"3": 0.1}}])
    with place.open() as store:
        store.record(document, {"x": "d"}, "directory")
    with place.open() as store:
        found = store.get("a", 1)
        assert found.document().model == document.model
        assert (found.artifacts, found.owner) == ({"x": "d"}, "directory")


def test_content_that_was_changed_in_the_database_is_refused(
    place: StorePlace, policy: Make
) -> None:
    with place.open() as store:
        store.record(policy("a", mode="enforce"), {}, "api")
        place.execute("UPDATE revisions SET content = replace(content, 'enforce', 'off')")
        with pytest.raises(StoreError, match="was recorded as"):
            store.get("a").document()


def test_activation_switches_everything_at_once(
    place: StorePlace, policy: Make, binding: Make
) -> None:
    with place.open() as store:
        a1 = store.record(policy("a"), {}, "api")
        a2 = store.record(policy("a", mode="off"), {}, "api")
        bound = store.record(binding(policy="a"), {}, "api")
        assert store.all_active() == ()
        store.activate(By("ann"), [a1, bound])
        assert store.all_active() == (bound, a1)
        store.activate(By("ann"), [a2], removed=[bound.key])
        assert (store.all_active(), store.removed()) == ((a2,), (("Binding", "default"),))
        store.activate(By("ann"), [a1])
        assert store.all_active() == (a1,)
        store.activate(By("ann"), [], removed=[a1.key])
        assert store.all_active() == ()
        assert store.get("a") == a2


def test_an_activation_that_fails_half_way_changes_nothing(place: StorePlace, policy: Make) -> None:
    with place.open() as store, Store.ephemeral() as other:
        a = store.record(policy("a"), {}, "api")
        store.activate(By("ann"), [a])
        foreign = other.record(policy("z"), {}, "api")
        with pytest.raises(StoreError, match=r"(?i)foreign key"):
            store.activate(By("ann"), [store.record(policy("a", mode="off"), {}, "api"), foreign])
        assert store.all_active() == (a,)


def test_what_was_never_recorded_is_not_found(place: StorePlace, policy: Make) -> None:
    with place.open() as store:
        store.record(policy("a"), {}, "api")
        assert store.revisions("b") == ()
        with pytest.raises(RevisionNotFoundError, match="no Policy b was recorded"):
            store.get("b")
        with pytest.raises(RevisionNotFoundError, match="a@7 was recorded; there are 1 to 1"):
            store.get("a", 7)


def test_artifacts_are_named_by_content_and_the_last_added_is_the_newest(
    place: StorePlace, tmp_path: Path
) -> None:
    blobs = [save({"3": torch.full((4,), value)}) for value in (1.0, 2.0)]
    with place.open() as store:
        one, two = (store.add_artifact(blob, CARD) for blob in blobs)
        assert one != two
        stored = store.artifact(one)
        assert read_artifact(stored.path).digest == one == stored.digest
        assert [a.digest for a in store.artifact_by_name("direction", "formal")] == [two, one]
        file = tmp_path / "again.safetensors"
        file.write_bytes(blobs[0])
        assert store.add_artifact(file, CARD) == one
        assert [a.digest for a in store.artifact_by_name("direction", "formal")] == [one, two]
        assert store.artifact_by_name("direction", "casual") == ()
        assert len(store.all_artifacts()) == 2


@pytest.mark.parametrize(
    ("blob", "card"),
    [
        (b"no safetensors", CARD),
        (save({"3": torch.tensor([float("nan")])}), CARD),
        (save({"3": torch.ones(2, dtype=torch.int64)}), CARD),
        (save({"3": torch.ones(2)}), {"kind": "direction"}),
        (Path("/nowhere/x.safetensors"), CARD),
    ],
)
def test_what_is_no_artifact_is_refused_and_leaves_nothing(
    place: StorePlace, blob: bytes | Path, card: dict[str, str]
) -> None:
    with place.open() as store:
        with pytest.raises(ArtifactRefusedError):
            store.add_artifact(blob, card)
        assert store.all_artifacts() == ()
        assert list(store.artifacts_folder.iterdir()) == []


def test_an_artifact_whose_file_is_gone_is_not_found(place: StorePlace) -> None:
    with place.open() as store:
        digest = store.add_artifact(save({"3": torch.ones(2)}), CARD)
        store.artifact(digest).path.unlink()
        for missing in (digest, "0" * 64):
            with pytest.raises(ArtifactNotFoundError, match="import"):
                store.artifact(missing)


def test_an_ephemeral_store_leaves_nothing(policy: Make) -> None:
    with Store.ephemeral() as store:
        folder = store.artifacts_folder
        store.activate(By("ann"), [store.record(policy("a"), {}, "api")])
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:secret@h/d", "give a folder"),
        ("sqlite://", "give a folder"),
        ("sqlite:///:memory:", "give a folder"),
        ("postgresql://u:secret@h/d", "TRIMTAB_ARTIFACTS"),
        ("://u:secret@h/d", "not a database URL"),
        ("postgresql://u:secret@h:port/d", "not a database URL"),
    ],
)
def test_what_is_no_store_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        Store.open(url)
    assert "secret" not in str(raised.value)


def test_a_postgresql_url_names_its_driver() -> None:
    assert parse_url("postgresql://u@h/d").drivername == "postgresql+psycopg"


def test_a_store_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(str(tmp_path / "typo"), must_exist=True)
    assert not (tmp_path / "typo").exists()


def test_a_database_of_a_newer_version_is_refused(place: StorePlace) -> None:
    place.open().close()
    place.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer version of Trimtab"):
        place.open()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trimtab.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(str(tmp_path))


def test_the_migrations_make_the_declared_tables(place: StorePlace) -> None:
    place.open().close()
    engine = place.engine()
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


WRITER = """
import sys
from service.activation import By
from pathlib import Path
from service.documents import parse_content
from service.store import Store
store = Store.open(sys.argv[1], Path(sys.argv[2]))
def policy(number):
    return parse_content({"apiVersion": "trimtab/v1", "kind": "Policy",
        "metadata": {"name": "a", "description": f"{sys.argv[3]}-{number}"}, "spec": {}})
for number in range(int(sys.argv[4])):
    store.activate(By("ann"), [store.record(policy(number), {}, "api")])
    print(number, flush=True)
"""


def writer(place: StorePlace, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, place.url, str(place.artifacts), name, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_writer_killed_at_work_loses_nothing_that_it_reported(place: StorePlace) -> None:
    process = writer(place, "w", 1_000_000)
    assert process.stdout is not None
    reported = [process.stdout.readline() for _ in range(40)]
    os.kill(process.pid, signal.SIGKILL)
    reported += process.stdout.read().splitlines()
    process.wait()
    with place.open() as store:
        history = store.revisions("a")
        assert [r.revision for r in history] == list(range(len(history), 0, -1))
        assert len(reported) <= len(history) <= len(reported) + 1
        (active,) = store.all_active()
        assert active.revision in (len(history), len(history) - 1)
        assert active.document().digest == active.digest


def test_writers_in_several_processes_never_share_a_number(place: StorePlace) -> None:
    processes = [writer(place, name, 15) for name in ("x", "y", "z")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    with place.open() as store:
        assert [r.revision for r in store.revisions("a")] == list(range(45, 0, -1))
        assert len(store.all_active()) == 1
