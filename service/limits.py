"""What one key may use, counted in one process: a rate, requests at once, bytes, seconds."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from service.errors import ServiceError

BUSY_SECONDS = 1
"""After which whoever has too many requests at once may look again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a key beyond those that hold for everyone; None is no limit.

    Attributes:
        requests_per_minute: A minute's requests may come at once; they grow back evenly.
        concurrent: Requests at the same time.
        max_body_bytes: Of a request's body.
        max_seconds: From an inference request's first byte to its answer's last.
    """

    requests_per_minute: int | None = None
    concurrent: int | None = None
    max_body_bytes: int | None = None
    max_seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the limits that there are, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class LimitError(ServiceError):
    """A request too many."""

    def __init__(self, message: str, retry_after: int) -> None:
        """Say after how many seconds it may be sent again."""
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class _Use:
    tokens: float
    at: float
    running: int = 0


class Limiter:
    """Counts what keys use; of one event loop, in memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count by a clock of seconds that never goes back."""
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def admit(self, key: str, limits: Limits) -> Generator[None]:
        """Count a request of a key for as long as the context lasts.

        Raises:
            LimitError: It is one too many; it is not counted then.
        """
        if limits.requests_per_minute is None and limits.concurrent is None:
            yield
            return
        use = self._uses.setdefault(key, _Use(limits.requests_per_minute or 0, self._clock()))
        _check_concurrent(use, limits.concurrent)
        self._take(use, limits.requests_per_minute)
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1

    def running(self) -> Mapping[str, int]:
        """Return how many requests of each limited key are running."""
        return {key: use.running for key, use in self._uses.items() if use.running}

    def _take(self, use: _Use, rate: int | None) -> None:
        if rate is None:
            return
        now = self._clock()
        use.tokens = min(rate, use.tokens + (now - use.at) * rate / 60)
        use.at = now
        if use.tokens < 1:
            wait = math.ceil((1 - use.tokens) * 60 / rate)
            raise LimitError(f"this key may send {rate} requests a minute", wait)
        use.tokens -= 1


def _check_concurrent(use: _Use, limit: int | None) -> None:
    if limit is not None and use.running >= limit:
        message = f"this key may have {limit} requests at once, and has {use.running}"
        raise LimitError(message, BUSY_SECONDS)
