"""Whether something can be used, and since when; told by those who use it."""

from dataclasses import dataclass

from service.clock import now


@dataclass(frozen=True, slots=True)
class Health:
    """A state, since when it lasts, and what is wrong.

    Attributes:
        ok: Whether the last use went well.
        since: When this state began, UTC.
        error: Why it is not well.
    """

    ok: bool
    since: str
    error: str | None = None

    def after(self, error: str | None) -> "Health":
        """Return the state after one more use, which failed with ``error`` or went well."""
        ok = error is None
        return Health(ok, self.since if ok == self.ok else now(), error)
