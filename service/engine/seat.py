"""Which of a server's API processes one is, and how it reaches the engine and the others."""

from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Seat:
    """One API process of ``count``; the first owns the tables' books and checks the engine.

    Attributes:
        index: Its number.
        count: How many there are.
        client: What vLLM's client needs to use an engine that another process started; None for a
            process that starts its own.
        loads: How many connections each process has; vLLM accepts where there are fewest.
        books: Where the first process listens for the others, and they find it.
    """

    index: int = 0
    count: int = 1
    client: Mapping[str, Any] | None = None
    loads: MutableSequence[int] | None = None
    books: Path | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], books: Path) -> "Seat":
        """Return the seat that vLLM's manager of API processes gives."""
        client = {name: value for name, value in config.items() if name != "api_server_loads"}
        loads = config.get("api_server_loads")
        return cls(config["client_index"], config["client_count"], client, loads, books)

    @property
    def is_first(self) -> bool:
        """Whether it owns the books."""
        return self.index == 0

    @property
    def peers(self) -> tuple[MutableSequence[int], int] | None:
        """What vLLM's HTTP server needs to share a socket."""
        return None if self.loads is None else (self.loads, self.index)


ALONE = Seat()
"""The only process of a server."""
