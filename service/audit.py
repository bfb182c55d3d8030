"""The audit log: who changed what and when, each row chained to the one before by its hash.

A row is written in the transaction of the change it tells of, so neither is there without the
other. What the chain can show and what it cannot is in ``docs/design/0016-audit-chain.md``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.audit_chain import Anchor, Link, Verification, check_chain, link_hash
from service.database import Database, StoreError
from service.digest import canonical_json
from service.errors import ServiceError
from service.records import now
from service.tables import audit, audit_head

MAX_LISTED = 1000
_ANCHOR = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


class AnchorError(ServiceError):
    """What is given as an anchor is none."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row.

    Attributes:
        seq: Its number, from 1 on without a gap.
        at: When, UTC, by the clock of the server that wrote it; ``seq`` gives the order.
        actor: Who, as ``Caller.label`` says it.
        action: What was done, such as ``apply`` or ``rollback``.
        target: What it was done to, such as ``Policy/careful``.
        before: What was there; None where there was nothing.
        after: What is there now; None where it was taken away.
        previous: The hash of the row before.
        hash: The hash of this one.
    """

    seq: int
    at: str
    actor: str
    action: str
    target: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    previous: str
    hash: str


def append(
    connection: Connection,
    actor: str,
    action: str,
    target: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write one row in the caller's own transaction of ``Database.write``.

    Args:
        connection: The only writer's, so that no other row comes between.
        actor: Who does it, at most 96 characters.
        action: What is done, at most 32 characters.
        target: What it is done to, at most 160 characters.
        before: What was there, as JSON values. Never a secret.
        after: What is there now.

    Raises:
        StoreError: The head of the chain is gone, so that nothing can be chained to it.
        CanonicalError: ``before`` or ``after`` has no canonical JSON.
    """
    head = _head(connection)
    if head is None:
        raise StoreError(
            "the head of the audit log is gone, so no change can be written: restore the "
            "database from a backup; 'trimtab audit verify' shows what is left"
        )
    link = Link(head.seq + 1, now(), actor, action, target, _text(before), _text(after), head.hash)
    digest = link_hash(link)
    connection.execute(audit.insert().values(**link.as_row(), hash=digest))
    connection.execute(audit_head.update().values(seq=link.seq, hash=digest))


def parse_anchor(text: str) -> Anchor:
    """Return the anchor that ``SEQ:HASH`` names, as ``trimtab audit verify`` prints it.

    Raises:
        AnchorError: It is none.
    """
    found = _ANCHOR.fullmatch(text.strip())
    if found is None:
        message = f"'{text[:100]}' is no anchor: it is SEQ:HASH, as 'trimtab audit verify' prints"
        raise AnchorError(message)
    return Anchor(int(found[1]), found[2])


class AuditLog:
    """Reads the log. Blocking: call off the event loop."""

    def __init__(self, database: Database) -> None:
        """Read from ``database``."""
        self._database = database

    def entries(self, before: int | None = None, limit: int = 100) -> tuple[Entry, ...]:
        """Return entries, newest first.

        Args:
            before: Only those with a lower number.
            limit: No more than so many.
        """
        query = sa.select(audit).order_by(audit.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.seq < before)
        with self._database.read() as connection:
            return tuple(_entry(row) for row in connection.execute(query).mappings())

    def head(self) -> Anchor | None:
        """Return the last row's number and hash as they were kept apart from it."""
        with self._database.read() as connection:
            return _head(connection)

    def verify(self, anchor: Anchor | None = None) -> Verification:
        """Compute every hash again, in order, a batch of rows in memory at a time.

        Args:
            anchor: A number and hash that were noted outside the database earlier.
        """
        with self._database.read() as connection:
            return check_chain(_links(connection), _head(connection), anchor)


def _head(connection: Connection) -> Anchor | None:
    row = connection.execute(sa.select(audit_head.c.seq, audit_head.c.hash)).first()
    return None if row is None else Anchor(row.seq, row.hash)


def _links(connection: Connection) -> Iterator[tuple[Link, str]]:
    query = sa.select(audit).order_by(audit.c.seq).execution_options(yield_per=500)
    for row in connection.execute(query).mappings():
        values = {str(name): value for name, value in row.items()}
        kept = values.pop("hash")
        yield Link(**values), kept


def _entry(row: RowMapping) -> Entry:
    values: dict[str, Any] = {str(name): value for name, value in row.items()}
    values |= {name: _parsed(row[name]) for name in ("before", "after")}
    return Entry(**values)


def _text(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else canonical_json(dict(value))


def _parsed(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else json.loads(text)
