"""The chain of the audit log: what a row's hash covers, and how rows are checked against it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.digest import content_digest

GENESIS = "0" * 64
"""The hash before the first row's."""

Flaw = Literal["gap", "changed", "broken", "truncated", "surplus", "headless", "unanchored"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row's number and hash; number 0 with ``GENESIS`` is the anchor of an empty log."""

    seq: int = 0
    hash: str = GENESIS

    def __str__(self) -> str:
        """Return ``SEQ:HASH``."""
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Link:
    """All of a row that its hash covers; ``before`` and ``after`` are the text that is stored."""

    seq: int
    at: str
    actor: str
    action: str
    target: str
    before: str | None
    after: str | None
    previous: str

    def as_row(self) -> dict[str, Any]:
        """Return the columns of the table ``audit``, but for the hash."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Bad:
    """The first row that is not as it was written, and how that shows.

    Attributes:
        seq: Its number; where rows are missing, that of the first of them.
        flaw: ``gap`` (rows are missing), ``changed`` (a row is not what its hash says), ``broken``
            (it follows another row than the one before it), ``truncated`` (rows at the end are
            missing), ``surplus`` (a row that the head does not know), ``headless`` (the head is
            gone), ``unanchored`` (the chain is not the one that an anchor was noted of).
        message: The same in words.
    """

    seq: int
    flaw: Flaw
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found: how many rows hold, the last of them, and the first that does not."""

    rows: int
    last: Anchor
    bad: Bad | None = None


def link_hash(link: Link) -> str:
    """Return the sha256, in hex, of a row's canonical JSON with the hash of the row before."""
    return content_digest(link.as_row())


def check_chain(
    links: Iterable[tuple[Link, str]], head: Anchor | None, noted: Anchor | None = None
) -> Verification:
    """Check rows, each with the hash that is kept of it, in order of their numbers.

    Args:
        links: The rows.
        head: The last row's number and hash as they are kept apart from the rows.
        noted: A number and hash that were noted elsewhere when that row was written.
    """
    last, count, noted_row = Anchor(), 0, Anchor()
    for link, kept in links:
        bad = _bad_link(link, kept, last)
        if bad is not None:
            return Verification(count, last, bad)
        last, count = Anchor(link.seq, kept), count + 1
        if noted is not None and noted.seq == link.seq:
            noted_row = last
    return Verification(count, last, _bad_end(last, head) or _bad_noted(noted, noted_row))


def _bad_link(link: Link, kept: str, last: Anchor) -> Bad | None:
    if link.seq > last.seq + 1:
        missing = _rows(last.seq + 1, link.seq - 1)
        return Bad(last.seq + 1, "gap", f"{missing} missing: after {last.seq} comes {link.seq}")
    if link.seq <= last.seq:
        return Bad(link.seq, "surplus", f"row {link.seq} stands before the first row, 1")
    if link_hash(link) != kept:
        message = f"row {link.seq} ({link.action} {link.target}) is not what its hash says"
        return Bad(link.seq, "changed", message)
    if link.previous != last.hash:
        before = f"row {last.seq}" if last.seq else "the beginning"
        message = f"row {link.seq} was not written after {before} as it is now"
        return Bad(link.seq, "broken", message)
    return None


def _bad_end(last: Anchor, head: Anchor | None) -> Bad | None:
    if head is None:
        return Bad(last.seq + 1, "headless", "the head of the log is gone, so its end is unknown")
    if head.seq > last.seq:
        missing = _rows(last.seq + 1, head.seq)
        return Bad(last.seq + 1, "truncated", f"{missing} missing at the end of the log")
    if head.seq < last.seq:
        message = f"row {head.seq + 1} came after the head of the log, which is at {head.seq}"
        return Bad(head.seq + 1, "surplus", message)
    if head.hash != last.hash:
        message = f"row {last.seq} is not the one that the head of the log names"
        return Bad(last.seq, "broken", message)
    return None


def _bad_noted(noted: Anchor | None, found: Anchor) -> Bad | None:
    if noted is None or noted == found:
        return None
    message = f"row {noted.seq} is missing or has another hash than the one that was noted"
    return Bad(noted.seq, "unanchored", message)


def _rows(first: int, last: int) -> str:
    return f"row {first} is" if first == last else f"rows {first} to {last} are"
