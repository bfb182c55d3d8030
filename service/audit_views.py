"""What the API and the command line show of the audit log, as JSON values."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service.audit import Entry
from service.audit_chain import Verification


def page_view(entries: Sequence[Entry], limit: int) -> dict[str, Any]:
    """Return entries, with the number to go on before; null at the end."""
    is_more = len(entries) == limit and entries[-1].seq > 1
    return {
        "entries": [asdict(entry) for entry in entries],
        "next": entries[-1].seq if is_more else None,
    }


def verification_view(found: Verification) -> dict[str, Any]:
    """Return what a check found; ``anchor`` is the last row that holds."""
    return {
        "ok": found.bad is None,
        "rows": found.rows,
        "anchor": str(found.last),
        "bad": asdict(found.bad) if found.bad is not None else None,
    }
