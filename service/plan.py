"""What a change would do, before it is made: documents, caches, capacity, and why it would not go.

Nothing here changes anything. Whatever is said of the tables is true at one moment: requests that
end, and changes of others, move it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from forward.program import Program
from service.capacity import by_table
from service.differences import Difference
from service.records import Key

Action = Literal["add", "change", "remove", "none"]


@dataclass(frozen=True, slots=True)
class DocumentPlan:
    """What becomes of one document.

    Attributes:
        key: Kind and name.
        action: What would be done to it.
        before: Its active revision; None where it is new.
        after: The revision it would be; None where it is removed.
        changed: The fields that differ, ``owner`` among them.
        artifacts: The artifacts that it would mean, by name; None where it does not compile.
        moved: The artifacts that it means now and would not then, and the other way round.
        monitors: The monitors that it uses.
    """

    key: Key
    action: Action
    before: int | None = None
    after: int | None = None
    changed: tuple[Difference, ...] = ()
    artifacts: Mapping[str, str] | None = None
    moved: tuple[Difference, ...] = ()
    monitors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Requests whose cached tokens would not be used again.

    Attributes:
        binding: The binding that they fall under.
        policy: What they choose; None for nothing.
        prompts: Whether what is written to a prompt's tokens changes.
        answers: Whether what is written to generated tokens does.
    """

    binding: str
    policy: str | None
    prompts: bool
    answers: bool


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table: its size, what is in use, and how much more the change needs while it is made."""

    table: str
    size: int
    used: int
    more: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change would do to one generation.

    Attributes:
        generation: The one that it was made for.
        documents: Every document that was given, and every other that would change.
        caches: Where caches would fork.
        tables: The tables that it needs more of.
        merged: What the weights would hold, if that changes.
        refusal: Why it would be refused; None if nothing speaks against it.
    """

    generation: int
    documents: tuple[DocumentPlan, ...]
    caches: tuple[CachePlan, ...] = ()
    tables: tuple[TablePlan, ...] = ()
    merged: tuple[str, ...] | None = None
    refusal: Exception | None = None

    @property
    def changes(self) -> bool:
        """Whether anything would change."""
        return any(document.action != "none" for document in self.documents)


def table_plans(
    size: Mapping[str, int],
    used: Mapping[str, int],
    held: Sequence[Program],
    wanted: Sequence[Program],
) -> tuple[TablePlan, ...]:
    """Return the tables that need more than they hold now, old and new programs side by side.

    Args:
        size: How many indices each table has.
        used: How many are in use, those of draining slots among them.
        held: The active programs.
        wanted: Those that would be active.
    """
    now, both = by_table(held), by_table([*held, *wanted])
    return tuple(
        TablePlan(table, size.get(table, 0), used.get(table, 0), both[table] - now.get(table, 0))
        for table in both
        if both[table] > now.get(table, 0)
    )
