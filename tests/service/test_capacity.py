"""What programs need, counted without tables, is what the tables' own books count."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forward.allocation import Allocator
from forward.clauses import TokenClause, regions
from forward.columns import Read, linear
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent, Watch
from forward.site import Capacity
from service.capacity import by_table

D = 4
POINTS = (HookPoint("resid_post", 1), HookPoint("resid_post", 2))


def vector(seed: int) -> torch.Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))


def site(kind: str, seed: int) -> SiteContent:
    if kind == "offset":
        return SiteContent(vector(seed))
    return SiteContent(None, ((linear(Read(vector(seed)), vector(seed)), 1.0),))


SITES = st.dictionaries(
    st.sampled_from(POINTS),
    st.builds(site, st.sampled_from(["offset", "ablate"]), st.integers(1, 3)),
    max_size=2,
)
WATCHES = st.lists(
    st.builds(
        lambda point, seed: Watch(point, Read(vector(seed))),
        st.sampled_from(POINTS),
        st.integers(1, 3),
    ),
    max_size=2,
    unique_by=lambda watch: watch.key,
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    cut = regions([TokenClause("all")])
    contents = tuple(RowContent(draw(SITES)) for _ in cut)
    return Program(cut, contents, tuple(draw(WATCHES)))


@settings(max_examples=60)
@given(st.lists(programs(), max_size=4))
def test_needs_are_what_the_books_count(found: list[Program]) -> None:
    books = Allocator(D, {point: Capacity(40, 40, 40) for point in POINTS}, 8)
    for program in found:
        books.place(program)
    assert {table: n for table, n in by_table(found).items() if n} == {
        table: n for table, n in books.used.items() if n
    }
