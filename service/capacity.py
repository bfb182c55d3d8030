"""What programs need of the tables, all at once."""

from collections.abc import Iterable, Sequence

from forward.gates import Gate
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent
from forward.site import Capacity


def required(programs: Sequence[Program]) -> dict[HookPoint, Capacity]:
    """Return the smallest capacity of every site that holds all these programs at once.

    Rows are counted over all sites together, row 0 included; reads and writes at each, those of
    gates and monitors among the reads.
    """
    contents = list({c.digest: c for p in programs for c in p.contents if c.sites}.values())
    points = sorted({point for program in programs for point in program.hook_points})
    rows = 1 + len(contents)
    return {
        point: Capacity(rows, len(_reads(point, programs, contents)), _writes(point, contents))
        for point in points
    }


def required_gates(programs: Iterable[Program]) -> int:
    """Return how many different gates all these programs have at once."""
    contents = (content for program in programs for content in program.contents)
    return len(_gates(contents))


def by_table(programs: Sequence[Program]) -> dict[str, int]:
    """Return how many indices all these programs take at once, by table as ``Slots.used`` names it.

    Row 0 is nobody's and not counted.
    """
    sites = required(programs)
    found = {"rows": max((size.rows for size in sites.values()), default=1) - 1}
    found["gates"] = required_gates(programs)
    for point, size in sites.items():
        found[f"reads at {point}"], found[f"writes at {point}"] = size.reads, size.writes
    return found


def _gates(contents: Iterable[RowContent]) -> dict[str, Gate]:
    return {gate.digest: gate for content in contents for gate in content.gates}


def _reads(
    point: HookPoint, programs: Sequence[Program], contents: Sequence[RowContent]
) -> set[str]:
    """Return the digests of the reads at a hook point."""
    sites = [content.sites[point] for content in contents if point in content.sites]
    of_columns = {r.digest for site in sites for column, _ in site.columns for r in column.reads}
    of_gates = {g.read.digest for g in _gates(contents).values() if g.point == point}
    watched = (watch for program in programs for watch in program.watched)
    return of_columns | of_gates | {w.read.digest for w in watched if w.point == point}


def _writes(point: HookPoint, contents: Sequence[RowContent]) -> int:
    sites = [content.sites[point] for content in contents if point in content.sites]
    return len({column.digest for site in sites for column, _ in site.columns})
