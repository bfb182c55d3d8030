"""Keys in the store: what is kept of them, and that nothing makes a dead one live again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
import sqlalchemy as sa

from service import keys
from service.callers import OWNER, Caller
from service.database import StoreError
from service.keys import (
    Key,
    KeyNotFoundError,
    KeyOverError,
    KeyRefusedError,
    KeyStore,
    KeyTakenError,
    NewKey,
    parse_key,
)
from service.limits import Limits
from service.store import Store
from tests.service.places import StorePlace

WHO = Caller("0123456789abcdef", "boss", "admin")


@pytest.fixture
def store(place: StorePlace) -> Iterator[Store]:
    with place.open() as opened:
        yield opened


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def rows(place: StorePlace) -> list[dict[str, object]]:
    with place.engine().connect() as connection:
        return [dict(row) for row in connection.execute(sa.text("select * from keys")).mappings()]


def test_of_a_secret_only_its_hash_is_kept(place: StorePlace, store: Store) -> None:
    issued = store.keys().create(NewKey("ci", "infer", "acme", Limits(60)), WHO)
    prefix, identity, secret = issued.text.split("-")
    assert (prefix, identity, len(bytes.fromhex(secret))) == ("tt", issued.key.id, 32)
    [row] = rows(place)
    assert row["hash"] == sha256(secret.encode()).hexdigest()
    everything = f"{row} {store.audit().entries()} {issued} {issued.key}"
    assert secret not in everything
    listed = f"{[key.view() for key in store.keys().all()]}{store.keys().known()}"
    assert secret not in listed and str(row["hash"]) not in listed
    assert str(row["hash"]) not in f"{store.audit().entries()}"


def test_a_key_says_who_asks(store: Store) -> None:
    limits = Limits(60, 2, 1000, 1.5)
    key = store.keys().create(NewKey("ci", "author", "acme", limits), WHO).key
    assert store.keys().get(key.id) == key
    assert key.caller() == Caller(key.id, "ci", "author", "acme", limits)
    assert (key.created_by, key.expires_at, key.revoked_at) == (
        "boss (0123456789abcdef)",
        None,
        None,
    )


def test_only_the_whole_secret_matches(store: Store) -> None:
    issued = store.keys().create(NewKey("ci", "infer"), WHO)
    [known] = store.keys().known()
    secret = issued.text.rpartition("-")[2]
    assert parse_key(issued.text) == (issued.key.id, secret)
    assert known.matches(secret)
    for other in (secret[:-1], secret + "0", secret.upper(), "", known.hash, "\ud800"):
        assert other == secret or not known.matches(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tt",
        "tt-",
        "tt--",
        "tt-0123456789abcdef-",
        "xx-0123456789abcdef-" + "0" * 64,
        "tt-0123456789abcde-" + "0" * 64,
        "tt-0123456789abcdef-" + "0" * 63,
        "tt-" + "-" * 81,
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_a_name_is_one_live_keys(store: Store) -> None:
    first = store.keys().create(NewKey("ci", "infer"), WHO).key
    with pytest.raises(KeyTakenError, match=f"{first.id} is called 'ci' already"):
        store.keys().create(NewKey("ci", "admin"), WHO)
    store.keys().revoke(first.id, WHO)
    assert store.keys().create(NewKey("ci", "infer"), WHO).key.id != first.id


def test_what_is_expired_from_the_start_is_refused(store: Store) -> None:
    with pytest.raises(KeyRefusedError, match="expired from the start"):
        store.keys().create(NewKey("ci", "infer", None, Limits(), datetime.now(UTC)), WHO)
    assert store.keys().all() == () and store.audit().entries() == ()


def test_a_key_expires(store: Store) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    key = store.keys().create(NewKey("ci", "infer", None, Limits(), ends), WHO).key
    assert [key.state(at(s)) for s in (-7200, 3500, 3700)] == ["live", "live", "expired"]


def test_no_clock_makes_a_revoked_key_live(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.keys().create(NewKey("ci", "infer"), WHO).key
    monkeypatch.setattr(keys, "now", lambda: at(3600))  # revoked by a clock that is ahead
    revoked = store.keys().revoke(key.id, WHO)
    assert revoked.revoked_at is not None and revoked.revoked_at > at(3000)
    assert {revoked.state(at(s)) for s in (-1e9, 0, 7200)} == {"revoked"}
    assert store.keys().revoke(key.id, WHO) == revoked
    with pytest.raises(KeyOverError, match="is revoked: make a new one"):
        store.keys().rotate(key.id, 60, WHO)


@pytest.mark.parametrize("lifetime", [None, 1000])
def test_a_key_is_rotated(store: Store, lifetime: int | None) -> None:
    ends = None if lifetime is None else datetime.now(UTC) + timedelta(seconds=lifetime)
    old = store.keys().create(NewKey("ci", "author", "acme", Limits(60), ends), WHO)
    new = store.keys().rotate(old.key.id, 100, WHO)
    assert new.text != old.text
    kept = ("name", "role", "tenant", "limits")
    assert all(getattr(new.key, name) == getattr(old.key, name) for name in kept)
    ending = store.keys().get(old.key.id)
    assert ending.replaced_by == new.key.id
    assert [ending.state(at(s)) for s in (90, 110)] == ["live", "expired"]
    assert (new.key.expires_at is None) is (lifetime is None)
    assert [new.key.state(at(s)) for s in (990, 1010)] == [
        "live",
        "expired" if lifetime else "live",
    ]
    with pytest.raises(KeyOverError, match=f"was rotated to {new.key.id}"):
        store.keys().rotate(old.key.id, 0, WHO)


def test_a_grace_does_not_lengthen_a_life(store: Store) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=50)
    old = store.keys().create(NewKey("ci", "infer", None, Limits(), ends), WHO).key
    store.keys().rotate(old.id, 1000, WHO)
    assert store.keys().get(old.id).expires_at == old.expires_at


def test_every_change_is_audited_with_it(store: Store) -> None:
    first = store.keys().create(NewKey("ci", "infer"), WHO).key
    second = store.keys().rotate(first.id, 0, WHO).key
    store.keys().revoke(second.id, OWNER)
    log = store.audit().entries()[::-1]
    assert [(e.actor, e.action, e.target) for e in log] == [
        ("boss (0123456789abcdef)", "key.create", f"Key/{first.id}"),
        ("boss (0123456789abcdef)", "key.rotate", f"Key/{first.id}"),
        ("boss (0123456789abcdef)", "key.create", f"Key/{second.id}"),
        ("admin", "key.revoke", f"Key/{second.id}"),
    ]
    assert log[0].before is None and log[0].after == first.as_dict()
    assert log[3].before["revoked_at"] is None and log[3].after["revoked_at"] is not None


def test_a_change_without_its_audit_row_is_none(place: StorePlace, store: Store) -> None:
    kept = store.keys().create(NewKey("ci", "infer"), WHO).key
    place.execute("delete from audit_head")
    for change in (
        lambda: store.keys().create(NewKey("other", "infer"), WHO),
        lambda: store.keys().revoke(kept.id, WHO),
        lambda: store.keys().rotate(kept.id, 0, WHO),
    ):
        with pytest.raises(StoreError, match="head of the audit log"):
            change()
    assert store.keys().all() == (kept,)


def test_what_is_not_there(store: Store) -> None:
    found: list[Key] = []
    for ask in (
        store.keys().get,
        lambda key: store.keys().revoke(key, WHO),
        lambda key: store.keys().rotate(key, 0, WHO).key,
    ):
        with pytest.raises(KeyNotFoundError, match="there is no key '0"):
            found.append(ask("0" * 16))
    assert not found


def test_keys_outlive_the_server(place: StorePlace) -> None:
    with place.open() as opened:
        issued = opened.keys().create(NewKey("ci", "infer"), WHO)
    with place.open() as opened:
        assert isinstance(opened.keys(), KeyStore)
        assert opened.keys().all() == (issued.key,)
