"""The database: one writer, one state a reader, and what happens when the server goes away."""

import signal
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from service.database import Database, StoreError, parse_url
from service.records import now
from service.tables import halts
from tests.postgres import Postgres
from tests.service.places import StorePlace


@pytest.fixture
def database(place: StorePlace) -> Iterator[Database]:
    opened = Database(parse_url(place.url))
    yield opened
    opened.close()


def add(database: Database, name: str) -> None:
    row = {"canary": name, "binding": "default", "reason": "", "at": now()}
    with database.write() as connection:
        connection.execute(halts.insert().values(row))


def names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(halts.c.canary).order_by(halts.c.canary)).scalars())


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return names(connection)


def test_a_reader_sees_one_state_while_a_writer_goes_on(database: Database) -> None:
    add(database, "a")
    with database.read() as connection:
        assert names(connection) == ["a"]
        add(database, "b")
        assert names(connection) == ["a"]
    assert stored(database) == ["a", "b"]


def test_a_writer_sees_what_the_writer_before_it_wrote(database: Database) -> None:
    """It waits for the lock, and reads after it has it."""
    seen: list[list[str]] = []

    def second() -> None:
        with database.write() as connection:
            seen.append(names(connection))

    with database.write() as connection:
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        row = {"canary": "a", "binding": "default", "reason": "", "at": now()}
        connection.execute(halts.insert().values(row))
    waiting.join()
    assert seen == [["a"]]


def test_a_writer_that_never_gets_the_lock_gives_up(place: StorePlace, monkeypatch) -> None:
    monkeypatch.setattr("service.database.BUSY_TIMEOUT_MS", 200)
    monkeypatch.setattr("service.database.PRAGMAS", ("busy_timeout=200", "journal_mode=WAL"))
    one, other = Database(parse_url(place.url)), Database(parse_url(place.url))
    with one.write(), pytest.raises(StoreError, match=r"lock"):
        add(other, "a")
    add(other, "b")
    assert stored(one) == ["b"]
    one.close()
    other.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_comes_back_is_used_again(how: signal.Signals) -> None:
    """Nothing acknowledged is lost; what was asked meanwhile was refused."""
    with Postgres() as server:
        database = Database(parse_url(server.url(server.create())))
        add(database, "a")
        server.stop(how)
        with pytest.raises(StoreError, match="failed"):
            stored(database)
        with pytest.raises(StoreError, match="failed"):
            add(database, "b")
        server.start()
        assert stored(database) == ["a"], "the first try after it is back succeeds"
        database.close()


def test_any_text_is_held_and_looked_for(database: Database) -> None:
    """What a client chose fails no statement: rows of others are written with it."""
    rows = [
        {"canary": name, "binding": "default", "reason": "", "at": now()}
        for name in ("plain", "é", "a\0b", "c\ud800")
    ]
    with database.write() as connection:
        connection.execute(halts.insert(), rows)
    with database.read() as connection:
        assert sorted(names(connection)) == sorted(
            ["plain", "é", "a\ufffdb", "c\ufffd\ufffd\ufffd"]
        )
        for name in ("a\0b", "c\ud800"):
            found = sa.select(halts.c.canary).where(halts.c.canary == name)
            assert len(connection.execute(found).all()) == 1
        inside = sa.select(halts.c.canary).where(halts.c.canary.in_(["x\0", "plain"]))
        assert connection.execute(inside).scalars().all() == ["plain"]
