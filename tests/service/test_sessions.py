"""Sessions: found by their secret, for a while, and with the admin key of their beginning."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from service.sessions import HOURS, SessionStore
from service.store import Store
from service.tables import sessions
from tests.service.places import StorePlace

ADMIN = b"a digest"


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    with place.open() as opened:
        yield opened


def rows(store: SessionStore) -> list[str]:
    with store._database.read() as connection:
        return list(connection.execute(sa.select(sessions.c.hash)).scalars())


def test_a_session_is_found_by_its_secret_alone(store: Store) -> None:
    kept = store.sessions(ADMIN)
    one, other = kept.begin("0123456789abcdef"), kept.begin("")
    assert one != other and kept.find(one).key == "0123456789abcdef" and kept.find(other).key == ""
    for secret in ("", one[:-1], one + "x", "x" * 10_000, "\ud800", rows(kept)[0]):
        assert kept.find(secret) is None
    assert one not in rows(kept) and other not in rows(kept)


def test_another_admin_key_ends_the_sessions_of_the_one_before(store: Store) -> None:
    kept = store.sessions(ADMIN)
    one, other = kept.begin("0123456789abcdef"), kept.begin("")
    after = store.sessions(b"another digest")
    assert after.find(other) is None and after.find(one) is not None


def test_a_session_ends_when_it_is_ended_and_when_its_time_is_over(store: Store) -> None:
    kept = store.sessions(ADMIN)
    one, other = kept.begin(""), kept.begin("")
    kept.end(one)
    assert kept.find(one) is None and kept.find(other) is not None
    with kept._database.write() as connection:
        over = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(timespec="milliseconds")
        connection.execute(sessions.update().values(expires_at=over))
    assert kept.find(other) is None
    kept.begin("")
    assert len(rows(kept)) == 1, "what is over is taken away"


def test_a_session_lasts_for_its_hours(store: Store) -> None:
    kept = store.sessions(ADMIN)
    found = kept.find(kept.begin(""))
    began, ends = (datetime.fromisoformat(at) for at in (found.created_at, found.expires_at))
    assert ends - began == timedelta(hours=HOURS)
