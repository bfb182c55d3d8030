"""What a policy compiles to: the contents of table rows, by region and site.

A ``RowContent`` is one row's content over all sites; a ``Program`` names the row of each region.
Both are values with a content digest: equal content has equal digest whoever wrote the policy, so
slots, KV block keys and audits share one identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from forward.clauses import Region
from forward.columns import Column
from forward.digest import tensor_digest, values_digest
from forward.hookpoints import HookPoint


@dataclass(frozen=True, eq=False)
class SiteContent:
    """One row at one site: an offset to add, and coefficients on write columns."""

    offset: Tensor | None = None
    """(d_model,) float32, or None for no ungated add."""
    columns: tuple[tuple[Column, float], ...] = ()

    @cached_property
    def digest(self) -> str:
        """Identity of the content; the order of columns does not matter."""
        terms = tuple(sorted((column.digest, float(c)) for column, c in self.columns))
        if self.offset is None:
            return values_digest("columns", terms)
        return tensor_digest(self.offset, terms)


@dataclass(frozen=True, eq=False)
class RowContent:
    """One row over all sites. Empty means row 0."""

    sites: Mapping[HookPoint, SiteContent] = field(default_factory=dict[HookPoint, SiteContent])

    @cached_property
    def digest(self) -> str:
        """Identity of the content; empty string for the empty row."""
        if not self.sites:
            return ""
        return values_digest(tuple((str(p), c.digest) for p, c in sorted(self.sites.items())))


@dataclass(frozen=True, eq=False)
class Program:
    """The compiled steering of one policy or of a stack of them.

    Attributes:
        regions: As ``forward.clauses.regions`` gives them.
        contents: One row content per region.
    """

    regions: tuple[Region, ...]
    contents: tuple[RowContent, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Starts of the generation regions, in generated tokens."""
        return tuple(r.start for r in self.regions if r.phase == "generation")

    @cached_property
    def digest(self) -> str:
        """Identity of regions and contents."""
        pairs = zip(self.regions, self.contents, strict=True)
        return values_digest(tuple((r.phase, r.start, c.digest) for r, c in pairs))

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every hook point some row writes at, in order of execution."""
        return tuple(sorted({point for content in self.contents for point in content.sites}))


EMPTY = Program(
    (Region("prompt"), Region("last_prompt"), Region("generation")),
    (RowContent(), RowContent(), RowContent()),
)
