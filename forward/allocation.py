"""The books of all sites: a program in, its rows and the patches to write out.

Rows are shared by content: two regions or two policies that do the same hold one row. Row 0 is
the empty content's and is never booked. Gates belong to the rows that use them, watched reads to
the program.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from forward.columns import Read
from forward.gates import Gate, GatePatch
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent
from forward.rows import MAX_GENERATION_REGIONS
from forward.site import Capacity
from forward.sites import first_columns
from forward.tables import CapacityError, Pool, SiteAllocator, SitePatch


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a program lives, and what to write to get it there.

    Attributes:
        program: What was placed.
        rows: The row of each of its regions.
        patches: What to write at each site.
        gates: New gates, if any.
        columns: Where the scores of its watched reads are among the exported ones.
    """

    program: Program
    rows: tuple[int, ...]
    patches: Mapping[HookPoint, SitePatch]
    gates: GatePatch | None = None
    columns: Mapping[tuple[HookPoint, str], int] = field(
        default_factory=dict[tuple[HookPoint, str], int]
    )


class Allocator:
    """Books of the rows, the gates and every site's reads and writes. One owner, one process."""

    def __init__(
        self,
        d_model: int,
        capacities: Mapping[HookPoint, Capacity],
        gates: int = 0,
        d_mlp: int = 0,
    ) -> None:
        """Keep books for these sites, which all have the same number of rows, and their gates.

        ``d_mlp`` is the width that edits read.
        """
        self._sites = {
            point: SiteAllocator(d_model, size, str(point), d_mlp if point.is_edit else None)
            for point, size in sorted(capacities.items())
        }
        self._first = first_columns(capacities)
        n_rows = min((c.rows for c in capacities.values()), default=1)
        self._rows = Pool(n_rows - 1, "rows")
        self._gates = Pool(gates, "gates")

    @property
    def size(self) -> dict[str, int]:
        """Indices there are by table name."""
        found = {"rows": self._rows.size, "gates": self._gates.size}
        for point, site in self._sites.items():
            found[f"reads at {point}"], found[f"writes at {point}"] = site.size
        return found

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name."""
        used = {"rows": self._rows.used, "gates": self._gates.used}
        for point, site in self._sites.items():
            used[f"reads at {point}"], used[f"writes at {point}"] = site.used
        return used

    def check_all(self, programs: Iterable[Program]) -> None:
        """Refuse programs that cannot all be placed beside what is; the books stay as they are.

        Raises:
            CapacityError: As ``place``.
        """
        with ExitStack() as undo:
            for program in programs:
                self.place(program)
                undo.callback(self.release, program)

    def place(self, program: Program) -> Placement:
        """Book a program.

        Raises:
            CapacityError: A site is missing or a table is full; the books are as before.
        """
        self._check(program)
        with ExitStack() as undo:
            contents = self._take_rows(program, undo)
            gates = self._take_gates(contents.values(), undo)
            watched = [(watch.point, watch.read) for watch in program.watched]
            reads = [*watched, *((gate.point, gate.read) for gate in gates)]
            patches = self._place_sites(contents, reads, undo)
            undo.pop_all()
        rows = tuple(self._row(content) for content in program.contents)
        columns = {(p, read.digest): self._column(p, read) for p, read in watched}
        return Placement(program, rows, patches, self._gate_patch(gates), columns)

    def release(self, program: Program) -> None:
        """Take a placed program off the books, once no request uses it."""
        for content in filled(program):
            if self._rows.give(content.digest):
                self._release_gates(content)
                for point, site_content in content.sites.items():
                    self._sites[point].release([site_content])
        for watch in program.watched:
            self._sites[watch.point].release((), (watch.read,))

    def _row(self, content: RowContent) -> int:
        return 1 + self._rows.index(content.digest) if content.sites else 0

    def _column(self, point: HookPoint, read: Read) -> int:
        return self._first[point] + self._sites[point].read_index(read.digest)

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

    def _take_rows(self, program: Program, undo: ExitStack) -> dict[str, RowContent]:
        """Book the rows and return the contents that are new, by digest."""
        new: dict[str, RowContent] = {}
        for content in filled(program):
            if self._rows.take(content.digest):
                new[content.digest] = content
            undo.callback(self._rows.give, content.digest)
        return new

    def _take_gates(self, contents: Iterable[RowContent], undo: ExitStack) -> list[Gate]:
        """Book the gates of new contents, each content once, and return the gates that are new."""
        new: list[Gate] = []
        for gate in (gate for content in contents for gate in content.gates):
            if self._gates.take(gate.digest):
                new.append(gate)
            undo.callback(self._gates.give, gate.digest)
        return new

    def _release_gates(self, content: RowContent) -> None:
        for gate in content.gates:
            if self._gates.give(gate.digest):
                self._sites[gate.point].release((), (gate.read,))

    def _place_sites(
        self,
        new: Mapping[str, RowContent],
        reads: Iterable[tuple[HookPoint, Read]],
        undo: ExitStack,
    ) -> dict[HookPoint, SitePatch]:
        rows = [(1 + self._rows.index(digest), content) for digest, content in new.items()]
        wanted: dict[HookPoint, list[Read]] = {}
        for point, read in reads:
            wanted.setdefault(point, []).append(read)
        patches: dict[HookPoint, SitePatch] = {}
        for point, site in self._sites.items():
            held = [(row, content.sites.get(point, SiteContent())) for row, content in rows]
            here = wanted.get(point, [])
            if held or here:
                patches[point] = site.place(held, here, self._gate_index)
                undo.callback(site.release, [content for _, content in held], here)
        return patches

    def _gate_index(self, gate: Gate) -> int:
        return self._gates.index(gate.digest)

    def _gate_patch(self, gates: Iterable[Gate]) -> GatePatch | None:
        numbers = {point: number for number, point in enumerate(self._sites)}
        rows = [
            (
                self._gate_index(gate),
                numbers[gate.point],
                self._sites[gate.point].read_index(gate.read.digest),
                gate,
            )
            for gate in gates
        ]
        return GatePatch.of(rows) if rows else None


def filled(program: Program) -> list[RowContent]:
    """Return the program's distinct contents that are not empty."""
    return list({c.digest: c for c in program.contents if c.sites}.values())
