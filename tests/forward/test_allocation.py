"""The books: sharing, capacity errors that change nothing, release and reuse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forward.allocation import Allocator
from forward.clauses import TokenClause, regions
from forward.columns import Read, constant, linear, plane
from forward.hookpoints import HookPoint
from forward.program import EMPTY, Program, RowContent, SiteContent
from forward.site import Capacity, Site
from forward.tables import CapacityError, apply_patch
from tests.reference import run_site

D_MODEL = 8
PRE, POST = HookPoint("resid_pre", 1), HookPoint("resid_post", 1)


def vector(seed: int) -> torch.Tensor:
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def ablation(seed: int) -> SiteContent:
    return SiteContent(None, ((linear(Read(vector(seed)), vector(seed)), 1.0),))


def offset(seed: int) -> SiteContent:
    return SiteContent(vector(seed))


def everywhere(**sites: SiteContent) -> Program:
    """Return a program that does the same in every region; keywords are pre and post."""
    points = {"pre": PRE, "post": POST}
    content = RowContent({points[name]: site for name, site in sites.items()})
    cut = regions([TokenClause("all")])
    return Program(cut, (content,) * len(cut))


def allocator(rows=4, reads=2, writes=2) -> Allocator:
    return Allocator(D_MODEL, {PRE: Capacity(rows, reads, writes), POST: Capacity(rows, 8, 8)})


def test_regions_of_equal_content_share_one_row():
    books = allocator()
    placement = books.place(everywhere(pre=offset(1)))
    assert placement.rows == (1, 1, 1)
    assert books.used["rows"] == 1


def test_the_empty_program_is_row_zero_and_books_nothing():
    books = allocator()
    placement = books.place(EMPTY)
    assert placement.rows == (0, 0, 0)
    assert not placement.patches
    assert set(books.used.values()) == {0}


def test_two_programs_of_equal_content_share_rows_and_the_second_writes_nothing():
    books = allocator()
    first = books.place(everywhere(pre=ablation(1)))
    second = books.place(everywhere(pre=ablation(1)))
    assert first.rows == second.rows
    assert not second.patches
    books.release(first.program)
    assert books.used["rows"] == 1
    books.release(second.program)
    assert set(books.used.values()) == {0}


def test_columns_are_shared_between_rows_with_other_coefficients():
    books = allocator(writes=1, reads=1)
    column = linear(Read(vector(1)), vector(1))
    for coefficient in (1.0, 0.5):
        books.place(everywhere(pre=SiteContent(None, ((column, coefficient),))))
    assert books.used == {
        "rows": 2, "gates": 0, "reads at resid_pre.1": 1, "writes at resid_pre.1": 1,
        "reads at resid_post.1": 0, "writes at resid_post.1": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("capacity", "program", "table"),
    [
        ({"rows": 2}, everywhere(pre=offset(9)), "rows"),
        ({"writes": 1}, everywhere(pre=ablation(9)), "writes at resid_pre.1"),
        ({"reads": 1}, everywhere(post=offset(3), pre=ablation(9)), "reads at resid_pre.1"),
    ],
)
def test_a_program_that_does_not_fit_leaves_the_books_unchanged(capacity, program, table):
    books = allocator(**capacity)
    books.place(everywhere(pre=ablation(1), post=ablation(2)))
    before = books.used
    with pytest.raises(CapacityError, match=f"no {table} left"):
        books.place(program)
    assert books.used == before


def test_a_pair_of_reads_that_does_not_fit_gives_back_the_first():
    books = allocator(reads=1)
    turn = plane(Read(vector(1)), Read(vector(2)), 10.0)
    before = books.used
    with pytest.raises(CapacityError, match="reads at resid_pre"):
        books.place(everywhere(pre=SiteContent(None, tuple((c, 1.0) for c in turn))))
    assert books.used == before
    books.place(everywhere(pre=ablation(3)))


def test_a_missing_site_is_refused_with_what_to_start_with():
    books = Allocator(D_MODEL, {POST: Capacity(2, 1, 1)})
    with pytest.raises(CapacityError, match=r"no site at resid_pre\.1.*--sites resid_pre\.1"):
        books.place(everywhere(pre=offset(1)))


def test_too_many_starts_are_refused():
    cut = regions([TokenClause("generation", start) for start in (1, 2, 3, 4)])
    program = Program(cut, (RowContent({POST: offset(1)}),) * len(cut))
    with pytest.raises(CapacityError, match="different 'from' clauses"):
        allocator().place(program)


def test_released_rows_are_reused_and_written_whole():
    books, site = Allocator(D_MODEL, {PRE: Capacity(2, 2, 2)}), Site(D_MODEL, Capacity(2, 2, 2))
    old = books.place(everywhere(pre=SiteContent(vector(1), ablation(2).columns)))
    apply_patch(site, old.patches[PRE])
    books.release(old.program)
    new = books.place(everywhere(pre=ablation(3)))
    apply_patch(site, new.patches[PRE])
    assert new.rows == old.rows
    residual = vector(4)[None]
    rows = torch.tensor([[new.rows[0]], [0]])
    delta = run_site(site, residual, rows, torch.ones(2, 1))
    expected = -(residual @ vector(3)) * vector(3)
    torch.testing.assert_close(delta[0], expected, atol=1e-5, rtol=1e-5)


def test_a_new_row_is_blank_at_the_sites_it_does_not_write():
    """Row 1 last held something at the other site; a program silent there must clear it."""
    books = allocator()
    sites = {PRE: Site(D_MODEL, Capacity(4, 2, 2)), POST: Site(D_MODEL, Capacity(4, 8, 8))}
    for program in (everywhere(post=offset(1)), everywhere(pre=offset(2))):
        placement = books.place(program)
        for point, patch in placement.patches.items():
            apply_patch(sites[point], patch)
        books.release(program)
    assert not sites[POST].offsets.count_nonzero()


def test_constant_columns_take_no_read():
    books = allocator(reads=0, writes=1)
    books.place(everywhere(pre=SiteContent(None, ((constant(vector(1)), 2.0),))))
    assert books.used["reads at resid_pre.1"] == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=30))
def test_any_history_leaves_every_live_program_readable(history):
    """Place and release at random: each live program's rows give its own delta; books empty out."""
    capacity = Capacity(rows=4, reads=3, writes=3)
    books, site = Allocator(D_MODEL, {PRE: capacity}), Site(D_MODEL, capacity)
    live: list[tuple[int, Program, int]] = []
    for is_place, choice in history:
        if is_place:
            program = everywhere(pre=SiteContent(vector(choice), ablation(choice).columns))
            try:
                placement = books.place(program)
            except CapacityError:
                assert len({seed for seed, _, _ in live}) == 3
                continue
            for patch in placement.patches.values():
                apply_patch(site, patch)
            live.append((choice, program, placement.rows[0]))
        elif live:
            books.release(live.pop(choice % len(live))[1])
        for seed, _, row in live:
            residual = vector(99)[None]
            delta = run_site(site, residual, torch.tensor([[row], [0]]), torch.ones(2, 1))[0]
            expected = vector(seed) - (residual @ vector(seed)) * vector(seed)
            torch.testing.assert_close(delta, expected, atol=1e-4, rtol=1e-4)
    for _, program, _ in live:
        books.release(program)
    assert set(books.used.values()) == {0}


def test_programs_are_tried_together_and_the_books_stay_as_they_are():
    books = allocator(rows=4, reads=2, writes=2)
    held = everywhere(pre=ablation(1))
    books.place(held)
    before, size = books.used, books.size
    assert (size["rows"], size[f"reads at {PRE}"], size[f"writes at {POST}"]) == (3, 2, 8)
    books.check_all([held, everywhere(pre=ablation(2)), everywhere(post=offset(3))])
    assert (books.used, books.size) == (before, size)
    for too_many in (
        [everywhere(pre=ablation(2)), everywhere(pre=ablation(3))],
        [everywhere(post=offset(n)) for n in range(3)],
    ):
        with pytest.raises(CapacityError, match="left"):
            books.check_all(too_many)
        assert books.used == before
    assert books.place(everywhere(pre=ablation(2))).rows == (2, 2, 2)
