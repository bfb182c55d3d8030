"""The time of day, and one that a jump of the clock does not fool."""

import time
from datetime import UTC, datetime, timedelta


class SteadyClock:
    """What the wall clock said at the start, and the time that has passed since.

    The wall clock may be set while a server runs. Where a jump ahead must do no harm the earlier of
    the two counts, where a jump back must not, the later. Who starts with a wrong clock has a wrong
    time; and time in which the machine sleeps does not pass.
    """

    def __init__(self) -> None:
        """Take the wall clock's word for now."""
        self._wall, self._at = datetime.now(UTC), time.monotonic()

    def earliest(self) -> datetime:
        """Return now, in UTC, for what is forgotten in time: nothing is forgotten early."""
        return min(datetime.now(UTC), self._steady())

    def latest(self) -> datetime:
        """Return now, in UTC, for what is allowed for a time: nothing is allowed for longer."""
        return max(datetime.now(UTC), self._steady())

    def _steady(self) -> datetime:
        return self._wall + timedelta(seconds=time.monotonic() - self._at)


def now() -> str:
    """Return the time in UTC as rows keep it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
