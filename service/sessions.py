"""Browsers' sessions: begun with a key, found by a secret that only the browser has.

A session names its key and has no rights of its own: they are the key's, as it is now, and end with
it. A session of the environment's admin key is found with that key alone: another one ends it.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import sqlalchemy as sa

from service.clock import SteadyClock
from service.database import Database
from service.tables import sessions

HOURS = 12.0
"""How long a session lasts."""
_MOST_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Session:
    """A session; ``key`` is empty for the admin key of the environment."""

    key: str
    created_at: str
    expires_at: str


class SessionStore:
    """Sessions in the database. Blocking: call off the loop."""

    def __init__(self, database: Database, admin: bytes) -> None:
        """Keep sessions in ``database``; ``admin`` is a digest of the environment's admin key."""
        self._database, self._admin, self._clock = database, admin, SteadyClock()

    def begin(self, key: str) -> str:
        """Begin a session of a key's id, empty for the admin key, and return its secret."""
        secret, at = secrets.token_urlsafe(32), self._clock.latest()
        row = {
            "hash": self._hash(secret, key),
            "key": key,
            "created_at": at.isoformat(timespec="milliseconds"),
            "expires_at": (at + timedelta(hours=HOURS)).isoformat(timespec="milliseconds"),
        }
        with self._database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.expires_at <= row["created_at"]))
            connection.execute(sessions.insert().values(row))
        return secret

    def find(self, secret: str) -> Session | None:
        """Return the session of a secret; None if it is over or never was."""
        query = sa.select(sessions).where(sessions.c.hash.in_(self._hashes(secret)))
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None or row["expires_at"] <= self._at():
            return None
        return Session(row["key"], row["created_at"], row["expires_at"])

    def end(self, secret: str) -> None:
        """End a session, if there is one."""
        with self._database.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.hash.in_(self._hashes(secret))))

    def _at(self) -> str:
        return self._clock.latest().isoformat(timespec="milliseconds")

    def _hashes(self, secret: str) -> tuple[str, str]:
        kept = secret[:_MOST_CHARACTERS]
        return self._hash(kept, ""), self._hash(kept, "of a key")

    def _hash(self, secret: str, key: str) -> str:
        # The secret is random, so that the hash tells nothing of a short admin key.
        bound = b"" if key else self._admin
        return sha256(secret.encode("utf-8", "surrogatepass") + b"\0" + bound).hexdigest()
