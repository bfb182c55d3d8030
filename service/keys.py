"""Keys in the store: made, listed, rotated, revoked. A secret is shown once and kept nowhere.

A key is ``tt-<id>-<secret>``. The id is public and finds the row; of the secret only the sha256 is
kept, which is enough for 256 random bits. Rows are never removed: what was revoked stays so.
"""

import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.audit import append
from service.callers import Caller, Role
from service.database import Database
from service.digest import canonical_json
from service.errors import ServiceError
from service.limits import Limits
from service.records import now
from service.tables import keys

PREFIX = "tt"
ID_BYTES = 8
SECRET_BYTES = 32
MAX_LIVE = 10_000
"""Every process holds all that are live in memory."""

KeyState = Literal["live", "expired", "revoked"]


class KeyNotFoundError(ServiceError):
    """There is no such key."""


class KeyTakenError(ServiceError):
    """A live key has the name already, or there are too many."""


class KeyOverError(ServiceError):
    """A key that is revoked, expired or replaced, and so cannot be rotated."""


class KeyRefusedError(ServiceError):
    """A key that would be expired from the start."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret.

    Attributes:
        id: The public part.
        name: What it is called; no two live keys have one name but while one replaces another.
        role: What it may do.
        tenant: Whose it is.
        limits: What it may use.
        created_at: All times are UTC.
        created_by: Who made it, as ``Caller.label`` says it.
        expires_at: From then on it is no key; None is never.
        revoked_at: When it was revoked. This is a mark: no clock makes it valid again.
        replaced_by: The id of the key that it was rotated to.
    """

    id: str
    name: str
    role: Role
    tenant: str | None
    limits: Limits
    created_at: str
    created_by: str
    expires_at: str | None = None
    revoked_at: str | None = None
    replaced_by: str | None = None

    def state(self, at: str) -> KeyState:
        """Return whether it is valid at a time, as rows keep times."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= at else "live"

    def caller(self) -> Caller:
        """Return who has it."""
        return Caller(self.id, self.name, self.role, self.tenant, self.limits)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"limits": self.limits.as_dict()}

    def view(self) -> dict[str, Any]:
        """Return it as JSON values, with what it is now."""
        return self.as_dict() | {"state": self.state(now())}


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key and the sha256 of its secret in hex, to compare with."""

    key: Key
    hash: str = field(repr=False)

    def matches(self, secret: str) -> bool:
        """Whether this is its secret; takes the same time wherever it differs."""
        return secrets.compare_digest(self.hash, _hash(secret))


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made, with the text that is shown once."""

    key: Key
    text: str = field(repr=False)

    def view(self) -> dict[str, Any]:
        """Return both as JSON values."""
        return self.key.view() | {"key": self.text}


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be."""

    name: str
    role: Role
    tenant: str | None = None
    limits: Limits = field(default_factory=Limits)
    expires_at: datetime | None = None


class KeyStore:
    """Keys in the database, changed with an audit row each. Blocking: call off the loop."""

    def __init__(self, database: Database) -> None:
        """Keep keys in ``database``."""
        self._database = database

    def create(self, wanted: NewKey, actor: Caller) -> IssuedKey:
        """Make a key.

        Raises:
            KeyTakenError: A live key has this name, or there are too many.
            KeyRefusedError: It would be expired already.
        """
        expires_at = None if wanted.expires_at is None else _text(wanted.expires_at)
        with self._database.write() as connection:
            at = now()
            if expires_at is not None and expires_at <= at:
                raise KeyRefusedError(f"the key would be expired from the start: it is {at} now")
            live = [key for key in _all(connection) if key.state(at) == "live"]
            _check_free(live, wanted.name)
            issued, digest = _issue(wanted, expires_at, at, actor)
            _insert(connection, issued.key, digest)
            _tell(connection, actor, "key.create", None, issued.key)
            return issued

    def all(self) -> tuple[Key, ...]:
        """Return every key there ever was, newest first."""
        with self._database.read() as connection:
            return _all(connection)

    def get(self, key: str) -> Key:
        """Return a key by its id.

        Raises:
            KeyNotFoundError: There is none.
        """
        with self._database.read() as connection:
            return _get(connection, key)

    def known(self) -> tuple[KnownKey, ...]:
        """Return every key with what its secret is compared with."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(keys)).mappings()
            return tuple(KnownKey(_key(row), row["hash"]) for row in rows)

    def revoke(self, key: str, actor: Caller) -> Key:
        """Revoke a key for good, and return it; one that is revoked stays as it is.

        Raises:
            KeyNotFoundError: There is none.
        """
        with self._database.write() as connection:
            found = _get(connection, key)
            if found.revoked_at is not None:
                return found
            revoked = replace(found, revoked_at=now())
            _update(connection, revoked, "revoked_at")
            _tell(connection, actor, "key.revoke", found, revoked)
            return revoked

    def rotate(self, key: str, grace_seconds: float, actor: Caller) -> IssuedKey:
        """Make a key like another, which ends after a while.

        The new one lives as long from now on as the old one was meant to.

        Args:
            key: Id of the old one.
            grace_seconds: How long the old one is still valid, unless it ends before.
            actor: Who asks.

        Raises:
            KeyNotFoundError: There is none.
            KeyOverError: It is no longer live, or was rotated before.
        """
        with self._database.write() as connection:
            old, at = _get(connection, key), datetime.now(UTC)
            _check_rotatable(old, _text(at))
            wanted = NewKey(old.name, old.role, old.tenant, old.limits)
            issued, digest = _issue(wanted, _renewed(old, at), _text(at), actor)
            ends = _text(at + timedelta(seconds=grace_seconds))
            ending = replace(
                old,
                expires_at=min(filter(None, (old.expires_at, ends))),
                replaced_by=issued.key.id,
            )
            _insert(connection, issued.key, digest)
            _update(connection, ending, "expires_at", "replaced_by")
            _tell(connection, actor, "key.rotate", old, ending)
            _tell(connection, actor, "key.create", None, issued.key)
            return issued


def parse_key(text: str) -> tuple[str, str] | None:
    """Return id and secret of a key's text, or None if it has another form."""
    prefix, _, rest = text.partition("-")
    identity, _, secret = rest.partition("-")
    if prefix != PREFIX or len(identity) != 2 * ID_BYTES or len(secret) != 2 * SECRET_BYTES:
        return None
    return identity, secret


def _issue(wanted: NewKey, expires_at: str | None, at: str, actor: Caller) -> tuple[IssuedKey, str]:
    """Return a new key, and the hash of its secret."""
    identity, secret = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES)
    limits, by = wanted.limits, actor.label
    key = Key(identity, wanted.name, wanted.role, wanted.tenant, limits, at, by, expires_at)
    return IssuedKey(key, f"{PREFIX}-{identity}-{secret}"), _hash(secret)


def _check_free(live: list[Key], name: str) -> None:
    if len(live) >= MAX_LIVE:
        raise KeyTakenError(f"there are {len(live)} live keys, no more are held: revoke some")
    same = next((key for key in live if key.name == name and key.replaced_by is None), None)
    if same is not None:
        raise KeyTakenError(
            f"the key {same.id} is called '{name}' already: rotate or revoke it, or choose another "
            "name; bindings find keys by their names"
        )


def _check_rotatable(key: Key, at: str) -> None:
    if key.replaced_by is not None:
        raise KeyOverError(f"the key {key.id} was rotated to {key.replaced_by}: rotate that one")
    if (state := key.state(at)) != "live":
        raise KeyOverError(f"the key {key.id} is {state}: make a new one")


def _renewed(old: Key, at: datetime) -> str | None:
    """Return when a key ends that lives as long from now on as the old one was meant to."""
    if old.expires_at is None:
        return None
    lifetime = datetime.fromisoformat(old.expires_at) - datetime.fromisoformat(old.created_at)
    return _text(at + lifetime)


def _insert(connection: Connection, key: Key, digest: str) -> None:
    limits = canonical_json(key.limits.as_dict())
    connection.execute(keys.insert().values(key.as_dict() | {"limits": limits, "hash": digest}))


def _update(connection: Connection, key: Key, *fields: str) -> None:
    values = {name: getattr(key, name) for name in fields}
    connection.execute(keys.update().where(keys.c.id == key.id).values(values))


def _tell(
    connection: Connection, actor: Caller, action: str, before: Key | None, after: Key
) -> None:
    was = None if before is None else before.as_dict()
    append(connection, actor.label, action, f"Key/{after.id}", was, after.as_dict())


def _all(connection: Connection) -> tuple[Key, ...]:
    newest = (keys.c.created_at.desc(), keys.c.id)
    rows = connection.execute(sa.select(keys).order_by(*newest)).mappings()
    return tuple(_key(row) for row in rows)


def _get(connection: Connection, key: str) -> Key:
    row = connection.execute(sa.select(keys).where(keys.c.id == key)).mappings().first()
    if row is None:
        raise KeyNotFoundError(f"there is no key '{key[:40]}'")
    return _key(row)


def _key(row: RowMapping) -> Key:
    values: dict[str, Any] = {str(name): value for name, value in row.items() if name != "hash"}
    values["limits"] = Limits(**json.loads(row["limits"]))
    return Key(**values)


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")
