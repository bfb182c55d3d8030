"""The arithmetic of edit sites against its definition, token by token in double precision."""

import torch

from forward.allocation import Allocator
from forward.clauses import TokenClause, regions
from forward.columns import Column, Read
from forward.edit_site import EditSite
from forward.gates import Gate
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent, Watch
from forward.site import Capacity
from forward.sites import first_columns, make_sites, n_columns
from forward.step import Step
from forward.tables import apply_patch

D_IN, D_MODEL, TOKENS = 24, 16, 9
POINT = HookPoint("mlp", 1)
SIZES = {POINT: Capacity(6, 12, 12)}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(seed: int, match: float | None = None, key: torch.Tensor | None = None) -> Column:
    """A rank-one part: read, write, and a gate on a key if ``match`` is given."""
    gate = None
    if match is not None:
        assert key is not None
        gate = Gate(POINT, Read(key / key.norm()), match)
    return Column(
        normal(D_MODEL, seed=seed), Read(normal(D_IN, seed=seed + 1)), linear=1.0, gate=gate
    )


def edits(*columns: Column) -> Program:
    content = RowContent({POINT: SiteContent(columns=tuple((c, 1.0) for c in columns))})
    cut = regions([TokenClause("all")])
    return Program(cut, tuple(content for _ in cut))


class Bench:
    """A site (or one rank's) with programs placed, and a step of tokens."""

    def __init__(self, *programs: Program, gates: int = 4) -> None:
        self.books = Allocator(D_MODEL, SIZES, gates, D_IN)
        self.placed = [self.books.place(program) for program in programs]
        self.rows = [placement.rows[0] for placement in self.placed]
        self.gates = gates

    def site(self) -> EditSite:
        site = make_sites(D_MODEL, SIZES, d_mlp=D_IN)[POINT]
        assert isinstance(site, EditSite)
        return site

    def fill(self, site: EditSite) -> EditSite:
        for placement in self.placed:
            apply_patch(site, placement.patches[POINT])
        return site

    def step(self, operator: int, client: int, strength: float = 1.0) -> Step:
        step = Step(TOKENS, 0, self.gates)
        for placement in self.placed:
            if placement.gates is not None:
                step.gates.apply(placement.gates)
        step.rows[0], step.rows[1] = operator, client
        step.gates.place[:TOKENS] = torch.arange(TOKENS) - TOKENS  # all of one prompt
        step.strengths.fill_(strength)
        return step


def slowly(columns: tuple[Column, ...], x: torch.Tensor) -> torch.Tensor:
    """Each part at each token, as the module's docstring states it."""
    delta = torch.zeros(len(x), D_MODEL, dtype=torch.float64)
    for token, inputs in enumerate(x.double()):
        for column in columns:
            assert column.read is not None
            if column.gate is not None:
                key = column.gate.read.vector.double()
                if inputs @ key / inputs.norm() <= column.gate.threshold:
                    continue
            delta[token] += (inputs @ column.read.vector.double()) * column.write.double()
    return delta


def test_a_row_adds_its_parts_and_row_0_adds_nothing():
    bench = Bench(edits(part(1), part(3)))
    site, x = bench.fill(bench.site()), normal(TOKENS, D_IN, seed=0)
    assert not site.run(x, bench.step(0, 0)).any()
    found = site.run(x, bench.step(0, bench.rows[0])).double()
    torch.testing.assert_close(found, slowly((part(1), part(3)), x), atol=1e-5, rtol=1e-5)


def test_strength_scales_no_edit_and_what_both_sources_ask_for_acts_once():
    shared, of_one, of_other = part(1), part(3), part(5)
    bench = Bench(edits(shared, of_one), edits(shared, of_other))
    site, x = bench.fill(bench.site()), normal(TOKENS, D_IN, seed=0)
    found = site.run(x, bench.step(*bench.rows, strength=0.3)).double()
    wanted = slowly((shared, of_one, of_other), x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_edits_of_one_read_share_it():
    """Contradictory edits of the same facts differ in what they write only."""
    one, other = part(1), Column(normal(D_MODEL, seed=9), part(1).read, linear=1.0)
    bench = Bench(edits(one), edits(other))
    assert bench.books.used["reads at mlp.1"] == 1
    assert bench.books.used["writes at mlp.1"] == 2
    site, x = bench.fill(bench.site()), normal(TOKENS, D_IN, seed=0)
    step = bench.step(0, 0)
    step.rows[1, :TOKENS] = torch.tensor([bench.rows[i % 2] for i in range(TOKENS)])
    found = site.run(x, step).double()
    wanted = torch.stack([slowly(((one, other)[i % 2],), x[i : i + 1])[0] for i in range(TOKENS)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_key_gate_acts_where_the_key_matches():
    x = normal(TOKENS, D_IN, seed=0)
    key = x[2] + 0.3 * normal(D_IN, seed=8)
    gated = part(1, match=0.8, key=key)
    bench = Bench(edits(gated, part(3)))
    found = bench.fill(bench.site()).run(x, bench.step(0, bench.rows[0])).double()
    wanted = slowly((gated, part(3)), x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    ungated = slowly((part(1), part(3)), x)
    moved = (wanted - ungated).abs().max(-1).values > 1e-6
    assert not moved[2] and moved.sum() >= TOKENS - 2  # it is open at the key and hardly elsewhere


def test_parts_of_ranks_add_up_to_the_whole():
    """Each rank has half of the input; gates see the whole cosine."""
    x = normal(TOKENS, D_IN, seed=0)
    program = edits(part(1, match=0.5, key=x[4]), part(3))
    bench = Bench(program)
    whole = bench.fill(bench.site()).run(x, bench.step(0, bench.rows[0]))
    ranks: list[EditSite] = [bench.site(), bench.site()]
    halves = [x[:, : D_IN // 2], x[:, D_IN // 2 :]]
    parts: list[torch.Tensor] = []

    def total(mine: torch.Tensor) -> torch.Tensor:
        """What an all-reduce gives: this rank's tensor plus the other's, computed by hand."""
        sums = [
            torch.cat([h @ r.reads.T, h.square().sum(-1, keepdim=True)], -1)
            for h, r in zip(halves, ranks, strict=True)
        ]
        assert any(torch.equal(mine, one) for one in sums)
        return sums[0] + sums[1]

    for number, site in enumerate(ranks):
        site.split(number, 2, total)
    for site in ranks:
        bench.fill(site)
    for site, half in zip(ranks, halves, strict=True):
        parts.append(site.run(half, bench.step(0, bench.rows[0])))
    torch.testing.assert_close(parts[0] + parts[1], whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(parts[0], whole, atol=1e-2)


def test_what_is_no_number_reaches_no_other_token():
    bench = Bench(edits(part(1)))
    site, x = bench.fill(bench.site()), normal(TOKENS, D_IN, seed=0)
    x[3] = torch.nan
    step = bench.step(0, 0)
    step.rows[1, 5] = bench.rows[0]
    found = site.run(x, step)
    assert not found[torch.arange(TOKENS) != 5].any() and found[5].isfinite().all()


def test_edit_sites_export_no_scores():
    before, after = HookPoint("resid_pre", 1), HookPoint("resid_post", 1)
    sizes = {before: Capacity(2, 3, 0), POINT: Capacity(2, 5, 5), after: Capacity(2, 4, 0)}
    assert n_columns(sizes) == 7
    assert first_columns(sizes) == {before: 0, after: 3}
    books = Allocator(D_MODEL, sizes, 0, D_IN)
    read = Read(normal(D_MODEL, seed=4))
    watching = Program(edits().regions, (RowContent(),) * 3, (Watch(after, read),))
    assert list(books.place(watching).columns.values()) == [3]
