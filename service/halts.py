"""Canaries that were ended: by their own rules, or by an operator. They stay so over restarts."""

from collections.abc import Mapping

import sqlalchemy as sa

from service import generations
from service.audit import append
from service.database import Database
from service.generations import Generation
from service.records import now
from service.tables import halts


class HaltStore:
    """Which canaries were ended, by the digest of what was declared. Blocking."""

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def all(self) -> Mapping[str, str]:
        """Return why each was ended, by its digest."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(halts.c.canary, halts.c.reason))
            return {row.canary: row.reason for row in rows}

    def end(self, canary: str, binding: str, reason: str, actor: str) -> Generation:
        """End one for good and return the generation after it; one that is ended stays as it is.

        Args:
            canary: Its digest.
            binding: The name of the binding that declares it.
            reason: Why, in words.
            actor: Who ends it.
        """
        with self._database.write() as connection:
            known = sa.select(halts.c.canary).where(halts.c.canary == canary)
            if connection.execute(known).first() is not None:
                return generations.current(connection)
            row = {"canary": canary, "binding": binding, "reason": reason, "at": now()}
            connection.execute(halts.insert().values(row))
            append(
                connection,
                actor,
                "halt",
                f"Binding/{binding}",
                {"canary": canary},
                {"canary": None, "reason": reason},
            )
            return generations.advance(connection)
