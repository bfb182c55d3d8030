"""A store that cannot be used says so, loses nothing it acknowledged, and is used again after."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import save

from forward.container import parse_artifact
from service.activation import By
from service.artifact_store import ArtifactRefusedError
from service.database import Database, StoreError, parse_url
from service.digest import canonical_json
from service.events import EventLog
from service.health import Health
from service.minding import mind
from service.store import Store
from service.tables import halts
from tests.postgres import Postgres
from tests.service.test_database import add, stored
from tests.service.test_events import event


def test_a_state_lasts_since_it_began() -> None:
    well = Health(True, "then")
    assert well.after(None) == well
    ill = well.after("gone")
    assert (ill.ok, ill.error) == (False, "gone") and ill.since != "then"
    assert ill.after("still gone") == Health(False, ill.since, "still gone")
    assert ill.after(None).ok and ill.after(None).error is None


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    database = Database(parse_url(str(tmp_path)))
    add(database, "a")
    yield database
    database.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trimtab.db"


def test_a_file_that_is_taken_away_is_missed_at_once(opened: Database, file: Path) -> None:
    away = file.rename(file.with_name("away.db"))
    for use in (lambda: add(opened, "b"), lambda: stored(opened)):
        with pytest.raises(StoreError, match="is gone"):
            use()
    assert not opened.health.ok and "is gone" in (opened.health.error or "")
    assert not file.exists(), "no empty one is made in its place"
    away.rename(file)
    opened.probe()
    assert opened.health.ok
    add(opened, "c")
    assert stored(opened) == ["a", "c"]


def test_another_file_in_its_place_is_not_used(opened: Database, file: Path) -> None:
    away = file.rename(file.with_name("away.db"))
    file.write_bytes(b"")
    with pytest.raises(StoreError, match="was replaced by another one"):
        add(opened, "b")
    away.rename(file)
    add(opened, "c")
    assert stored(opened) == ["a", "c"]


def test_a_file_taken_away_under_a_change_is_not_acknowledged(opened: Database, file: Path) -> None:
    with pytest.raises(StoreError, match="is gone"), opened.write() as connection:
        row = {"canary": "b", "binding": "default", "reason": "", "at": ""}
        connection.execute(halts.insert().values(row))
        file.rename(file.with_name("away.db"))


@contextmanager
def full_disk(file: Path) -> Generator[None]:
    """Let no file of this process grow beyond the size that the database's log has now."""
    log = file.with_name(f"{file.name}-wal")
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_a_full_disk_refuses_changes_and_can_still_be_read(opened: Database, file: Path) -> None:
    with full_disk(file):
        with pytest.raises(StoreError, match="failed"):
            add(opened, "b" * 5000)
        assert not opened.health.ok
        assert stored(opened) == ["a"]
        assert not opened.health.ok, "that it can be read does not make it well"
        opened.probe()
        assert not opened.health.ok
    opened.probe()
    assert opened.health.ok
    add(opened, "c")
    assert stored(opened) == ["a", "c"]


def test_a_value_that_is_refused_does_not_make_a_store_ill(opened: Database) -> None:
    with pytest.raises(StoreError, match="failed"):
        add(opened, "a")
    assert opened.health.ok


async def test_events_wait_for_a_disk_that_is_full(tmp_path: Path, file: Path, monkeypatch) -> None:
    monkeypatch.setattr("service.batch_log.RETRY_SECONDS", 0.05)
    with Store.open(str(tmp_path)) as store:
        store.events().add([event(0)])
        log = EventLog(store.events(), max_waiting=50)
        with full_disk(file):
            for i in range(1, 61):
                log.put([event(i, monitor="m" * 150)])
            await log.flush()
            assert log.dropped == 10 and not store.health.ok
        await log.flush()
        await log.close()
        with sa.create_engine(f"sqlite:///{file}").connect() as connection:
            kept = connection.execute(sa.text("SELECT count(*) FROM events")).scalar()
        assert kept == 51 and store.health.ok


def test_postgresql_that_is_gone_and_back() -> None:
    with Postgres() as server:
        url = server.url(server.create())
        with Store.open(url, server.folder / "artifacts") as store:
            store.activate(By("ann"), [])
            server.stop(signal.SIGKILL)
            store.probe()
            assert not store.health.ok and store.health.error
            since = store.health.since
            store.probe()
            assert store.health.since == since
            server.start()
            store.probe()
            assert store.health.ok


async def test_postgresql_that_hangs_is_not_well() -> None:
    """On a local socket nothing times out."""
    with Postgres() as server:
        url = server.url(server.create())
        with Store.open(url, server.folder / "artifacts") as store:
            minding = asyncio.create_task(mind(store, 0.05, 0.3))
            await asyncio.sleep(0.2)
            assert store.health.ok
            processes = server.processes()
            for process in processes:
                process.suspend()
            await until(lambda: not store.health.ok)
            assert "has not answered for 0.3 s" in (store.health.error or "")
            for process in processes:
                process.resume()
            await until(lambda: store.health.ok)
            minding.cancel()
            await asyncio.wait({minding})


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.02)


def test_a_probe_of_what_cannot_be_written_writes(opened: Database, file: Path) -> None:
    """Reading alone would call a full disk well."""
    with full_disk(file), pytest.raises(StoreError):
        add(opened, "b" * 5000)
    size = os.stat(file.with_name(f"{file.name}-wal")).st_size
    opened.probe()
    assert opened.health.ok
    assert os.stat(file.with_name(f"{file.name}-wal")).st_size >= size


def test_an_artifact_that_finds_no_room_is_no_fault_of_its_own(tmp_path: Path) -> None:
    """The kernel says that the disk is full to whoever writes there."""
    card = {"kind": "direction", "name": "x"}
    data = save({"3": torch.ones(4)})
    with Store.open(str(tmp_path)) as store:
        digest = parse_artifact(data, canonical_json(card).encode()).digest
        name = f".{digest}.json.{os.getpid()}"
        (store.artifacts_folder / name).symlink_to("/dev/full")
        with pytest.raises(StoreError, match=r"cannot be kept.*No space left") as refused:
            store.add_artifact(data, card)
        assert not isinstance(refused.value, ArtifactRefusedError)
        assert store.all_artifacts() == ()
