"""The books of all sites: a program in, its rows and the patches to write out.

Rows are shared by content: two regions or two policies that do the same hold one row. Row 0 is
the empty content's and is never booked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from forward.rows import MAX_GENERATION_REGIONS
from forward.site import Capacity
from forward.tables import CapacityError, Pool, SiteAllocator, SitePatch


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a program lives: the row of each of its regions, and what to write to get it there."""

    program: Program
    rows: tuple[int, ...]
    patches: Mapping[HookPoint, SitePatch]


class Allocator:
    """Books of the rows and of every site's reads and writes. One owner, one process."""

    def __init__(self, d_model: int, capacities: Mapping[HookPoint, Capacity]) -> None:
        """Keep books for these sites; all have the same number of rows."""
        self._sites = {
            point: SiteAllocator(d_model, capacity, str(point))
            for point, capacity in capacities.items()
        }
        n_rows = min((c.rows for c in capacities.values()), default=1)
        self._rows = Pool(n_rows - 1, "rows")

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name."""
        used = {"rows": self._rows.used}
        for point, site in self._sites.items():
            used[f"reads at {point}"], used[f"writes at {point}"] = site.used
        return used

    def place(self, program: Program) -> Placement:
        """Book a program.

        Raises:
            CapacityError: A site is missing or a table is full; the books are as before.
        """
        self._check(program)
        new: dict[str, RowContent] = {}
        taken: list[str] = []
        try:
            for content in filled(program):
                if self._rows.take(content.digest):
                    new[content.digest] = content
                taken.append(content.digest)
            patches = self._place_sites(new)
        except CapacityError:
            for digest in taken:
                self._rows.give(digest)
            raise
        rows = tuple(self._row(content) for content in program.contents)
        return Placement(program, rows, patches)

    def release(self, program: Program) -> None:
        """Take a placed program off the books, once no request uses it."""
        for content in filled(program):
            if self._rows.give(content.digest):
                for point, site_content in content.sites.items():
                    self._sites[point].release([site_content])

    def _row(self, content: RowContent) -> int:
        return 1 + self._rows.index(content.digest) if content.sites else 0

    def _check(self, program: Program) -> None:
        missing = [str(p) for p in program.hook_points if p not in self._sites]
        if missing:
            raise CapacityError(
                f"no site at {', '.join(missing)}: sites are fixed when the server starts; "
                f"start with --sites {','.join(missing)} (now: "
                f"{', '.join(map(str, sorted(self._sites))) or 'none'})"
            )
        if len(program.starts) > MAX_GENERATION_REGIONS:
            raise CapacityError(
                f"{len(program.starts) - 1} different 'from' clauses; a request carries at most "
                f"{MAX_GENERATION_REGIONS - 1}"
            )

    def _place_sites(self, new: Mapping[str, RowContent]) -> dict[HookPoint, SitePatch]:
        by_site: dict[HookPoint, list[tuple[int, SiteContent]]] = {p: [] for p in self._sites}
        for digest, content in new.items():
            for point in self._sites:
                site_content = content.sites.get(point, SiteContent())
                by_site[point].append((1 + self._rows.index(digest), site_content))
        done: list[HookPoint] = []
        patches: dict[HookPoint, SitePatch] = {}
        try:
            for point, rows in by_site.items():
                if rows:
                    patches[point] = self._sites[point].place(rows)
                    done.append(point)
        except CapacityError:
            for point in done:
                self._sites[point].release([content for _, content in by_site[point]])
            raise
        return patches


def filled(program: Program) -> list[RowContent]:
    """Return the program's distinct contents that are not empty."""
    return list({c.digest: c for c in program.contents if c.sites}.values())
