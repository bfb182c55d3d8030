"""The stamp a request carries through the engine: which rows its tokens use, and their identity.

It travels in ``SamplingParams.extra_args`` under a key of ours alone; whatever a client put there
is overwritten. The worker reads rows, the scheduler's process reads identities for block keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forward.allocation import Placement
from forward.rows import UNSTEERED, RowSpan

STAMP_KEY = "trimtab"


class StampError(RuntimeError):
    """A request reached the engine without a valid stamp: a seam is broken."""


@dataclass(frozen=True, slots=True)
class Span:
    """One source's rows and the content identity of each ('' for row 0)."""

    rows: RowSpan
    keys: tuple[str, ...]

    @classmethod
    def of(cls, placement: Placement, strength: float) -> "Span":
        """Make the span of a placed program at a strength."""
        keys = tuple(content.digest for content in placement.program.contents)
        return cls(RowSpan(placement.rows, placement.program.starts, strength), keys)


UNSTEERED_SPAN = Span(UNSTEERED, ("", "", ""))


@dataclass(frozen=True, slots=True)
class Stamp:
    """The operator's and the client's span, and an identity of the request that is ours alone.

    ``columns`` are the exported scores that the request's monitors want, in their order; ``n`` is
    how many choices share the stamp; ``tenant`` keeps its cache apart from that of others;
    ``process`` is the API process that waits for the scores.
    """

    request: str
    operator: Span = UNSTEERED_SPAN
    client: Span = UNSTEERED_SPAN
    columns: tuple[int, ...] = ()
    n: int = 1
    tenant: str = ""
    process: int = 0

    @property
    def spans(self) -> tuple[Span, Span]:
        """Operator first, as in the tables."""
        return self.operator, self.client

    def is_uniform(self) -> bool:
        """Whether every token of the request is treated alike (what beam search needs)."""
        return all(len(set(span.keys)) == 1 for span in self.spans)

    def pack(self) -> dict[str, Any]:
        """Return plain values for ``extra_args``."""
        return {
            "request": self.request,
            "columns": list(self.columns),
            "n": self.n,
            "tenant": self.tenant,
            "process": self.process,
            "spans": [
                [list(s.rows.rows), list(s.rows.starts), s.rows.strength, list(s.keys)]
                for s in self.spans
            ],
        }

    @classmethod
    def unpack(cls, extra_args: Mapping[str, Any] | None) -> "Stamp":
        """Read the stamp back.

        Raises:
            StampError: There is none.
        """
        packed = (extra_args or {}).get(STAMP_KEY)
        if packed is None:
            raise StampError("a request has no stamp: it did not come through the generate wrapper")
        operator, client = (
            Span(RowSpan(tuple(rows), tuple(starts), strength), tuple(keys))
            for rows, starts, strength, keys in packed["spans"]
        )
        columns = tuple(packed["columns"])
        plain = {name: packed[name] for name in ("request", "n", "tenant", "process")}
        return cls(operator=operator, client=client, columns=columns, **plain)
