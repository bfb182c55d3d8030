"""How two documents differ, field by field; imports no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


class Absent:
    """Stands for a field that is not there, which is not the same as one that is null."""

    def __repr__(self) -> str:
        """Return what is printed for it."""
        return "(not set)"


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs; ``before`` or ``after`` is ``ABSENT`` where it is not there."""

    path: str
    before: Any
    after: Any

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; what is absent is left out."""
        sides = {"before": self.before, "after": self.after}
        return {"path": self.path} | {k: v for k, v in sides.items() if v is not ABSENT}


def differences(before: object, after: object, path: str = "") -> Iterator[Difference]:
    """Yield what differs between two JSON values, the deepest fields that do, in order.

    Lists are compared place by place: what one of them holds beyond the other is a difference each.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _of_mappings(before, after, path)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _of_lists(before, after, path)
    elif type(before) is not type(after) or before != after:
        yield Difference(path, before, after)


def _of_mappings(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[Difference]:
    for name in [*before, *(name for name in after if name not in before)]:
        inner = f"{path}.{name}" if path else name
        yield from differences(before.get(name, ABSENT), after.get(name, ABSENT), inner)


def _of_lists(before: Sequence[Any], after: Sequence[Any], path: str) -> Iterator[Difference]:
    for place in range(max(len(before), len(after))):
        old, new = (items[place] if place < len(items) else ABSENT for items in (before, after))
        yield from differences(old, new, f"{path}[{place}]")
