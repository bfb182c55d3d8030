"""Which request a log line belongs to."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Handling:
    """A request under way.

    Attributes:
        request: Our name of it.
        policies: Labels of the policies that it runs under, once they are chosen.
        tokens: Of its prompts and generated, once it is known; several prompts and choices add up.
        is_over: Whether its answer is out. Tasks that outlive it keep its context, and what they
            write then is not the request's.
    """

    request: str
    policies: tuple[str, ...] = ()
    tokens: tuple[int, int] | None = None
    is_over: bool = False


HANDLING: ContextVar[Handling | None] = ContextVar("trimtab_handling", default=None)
"""Set around each request where log lines tell whose they are."""
