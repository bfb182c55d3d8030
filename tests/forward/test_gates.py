"""Gates: open where the score says so, latched causally, whatever the chunks."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forward.allocation import Allocator
from forward.clauses import TokenClause, regions
from forward.columns import Column, Read, constant, linear
from forward.gates import UNHEARD, Gate, GatePatch, GateTable
from forward.hookpoints import HookPoint
from forward.program import Program, RowContent, SiteContent, Watch
from forward.site import Capacity
from forward.sites import make_sites, n_columns
from forward.step import Step
from forward.tables import CapacityError, apply_patch

D_MODEL = 8
EARLY, LATE = HookPoint("resid_post", 1), HookPoint("resid_post", 3)
SIZES = {EARLY: Capacity(8, 3, 3), LATE: Capacity(8, 4, 4)}
AXES = torch.eye(D_MODEL)
READ = Read(AXES[0])


def all_tokens(column: Column, point: HookPoint = LATE, watched: tuple[Watch, ...] = ()) -> Program:
    content = RowContent({point: SiteContent(None, ((column, 1.0),))})
    cut = regions([TokenClause("all")])
    return Program(cut, tuple(content for _ in cut), watched)


def gate(threshold: float = 1.0, listens: TokenClause | None = None, **more) -> Gate:
    return Gate(EARLY, READ, threshold, listens=listens, **more)


class Bench:
    """Two sites over residuals that a test writes down, one request after another in a step."""

    def __init__(self, program: Program, gates: int = 2) -> None:
        self.sites = make_sites(D_MODEL, SIZES)
        self.placement = Allocator(D_MODEL, SIZES, gates).place(program)
        self.gates = gates
        for point, patch in self.placement.patches.items():
            apply_patch(self.sites[point], patch)

    def step(self, lengths: list[int], places: list[int], before: torch.Tensor | None = None):
        step = Step(sum(lengths), n_columns(SIZES), self.gates)
        if self.placement.gates is not None:
            step.gates.apply(self.placement.gates)
        step.rows[0, :-1], step.strengths[:] = self.placement.rows[0], 1.0
        step.gates.place[:-1] = torch.tensor(places)
        begins = torch.tensor([0, *lengths]).cumsum(0)[:-1]
        step.gates.first[:-1] = begins.repeat_interleave(torch.tensor(lengths))
        if before is not None:
            step.gates.before[:-1] = before
        return step

    def run(self, step: Step, early: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
        """Return which tokens the late site wrote to."""
        self.sites[EARLY].run(early, step)
        return self.sites[LATE].run(late, step)[:, 1] != 0


def scores(*values: float) -> torch.Tensor:
    """Return residuals whose score is given."""
    return torch.tensor(values).unsqueeze(-1) * AXES[0]


def test_a_token_gate_opens_strictly_above_and_for_the_token_alone():
    bench = Bench(all_tokens(constant(AXES[1]).gated(gate(1.0))))
    x = scores(0.0, 1.0, 1.001, 0.5, 2.0)
    wrote = bench.run(bench.step([5], [0] * 5), x, torch.zeros_like(x))
    assert wrote.tolist() == [False, False, True, False, True]


def test_below_opens_strictly_below_and_nan_opens_neither():
    x = scores(0.0, 1.0, 2.0, float("nan"))
    for above, expected in ((False, [1, 0, 0, 0]), (True, [0, 0, 1, 0])):
        bench = Bench(all_tokens(constant(AXES[1]).gated(gate(1.0, above=above))))
        found = bench.run(bench.step([4], [0] * 4), x, torch.zeros(4, D_MODEL))
        assert found.int().tolist() == expected


def test_a_latch_stays_open_from_its_token_on_and_in_its_request_only():
    listens = TokenClause("all")
    bench = Bench(all_tokens(constant(AXES[1]).gated(gate(1.0, listens))))
    x = scores(0.0, 2.0, 0.0, 0.0, 0.0, 3.0)
    found = bench.run(bench.step([4, 2], [0] * 6), x, torch.zeros_like(x))
    assert found.int().tolist() == [0, 1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        (TokenClause("prompt"), [1, 1, 1, 1, 1]),
        (TokenClause("last_prompt"), [0, 1, 1, 1, 1]),
        (TokenClause("generation"), [0, 0, 1, 1, 1]),
        (TokenClause("generation", 2), [0, 0, 0, 0, 1]),
    ],
)
def test_a_latch_listens_to_its_clause_only(clause, expected):
    bench = Bench(all_tokens(constant(AXES[1]).gated(gate(1.0, clause))))
    x = scores(2.0, 2.0, 2.0, 2.0, 2.0)
    step = bench.step([5], [-2, -1, 0, 1, 2])
    assert bench.run(step, x, torch.zeros_like(x)).int().tolist() == expected


def test_padding_is_not_heard():
    bench = Bench(all_tokens(constant(AXES[1]).gated(gate(1.0, TokenClause("all")))))
    x = scores(2.0, 0.0)
    found = bench.run(bench.step([2], [UNHEARD, -1]), x, torch.zeros_like(x))
    assert not found.any()


def test_a_gate_at_its_own_site_uses_the_score_before_the_write():
    own = Gate(LATE, READ, 1.0)
    bench = Bench(all_tokens(linear(READ, AXES[0]).gated(own)))
    x = scores(0.5, 3.0)
    step = bench.step([2], [0, 0])
    bench.sites[EARLY].run(torch.zeros_like(x), step)
    after = x + bench.sites[LATE].run(x, step)
    torch.testing.assert_close(after[:, 0], torch.tensor([0.5, 0.0]))


def test_a_later_site_without_the_gate_leaves_it_as_it_was():
    bench = Bench(all_tokens(constant(AXES[1]).gated(gate(1.0))))
    x = scores(2.0, 0.0)
    late = scores(0.0, 9.0)  # would flip both, were the gate read here
    assert bench.run(bench.step([2], [0, 0]), x, late).tolist() == [True, False]


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=12),
    st.lists(st.integers(1, 12), min_size=0, max_size=4),
    st.sampled_from(["all", "prompt", "last_prompt", "generation"]),
    st.integers(1, 12),
)
def test_a_latch_does_not_depend_on_the_chunks(values, cuts, phase, prompt):
    listens = TokenClause(phase)
    bench = Bench(all_tokens(constant(AXES[1]).gated(gate(0.5, listens))))
    places = [position - prompt for position in range(len(values))]
    low, high = gate(0.5, listens).heard
    expected, is_open = [], False
    for value, place in zip(values, places, strict=True):
        is_open = is_open or (low <= place < high and value > 0.5)
        expected.append(is_open)
    found: list[bool] = []
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    before = torch.zeros(1, bench.gates)
    for begin, end in pairwise(edges):
        step = bench.step([end - begin], places[begin:end], before)
        x = scores(*values[begin:end])
        found += bench.run(step, x, torch.zeros_like(x)).tolist()
        before = step.gates.open[end - begin - 1 : end - begin, 1:].clone()
    assert found == expected


def test_scores_of_watched_reads_are_exported_at_their_columns():
    other = Read(AXES[2], bias=0.5)
    watched = (Watch(LATE, other), Watch(EARLY, READ), Watch(LATE, READ))
    bench = Bench(all_tokens(constant(AXES[1]), watched=watched))
    early, late = torch.randn(3, D_MODEL), torch.randn(3, D_MODEL)
    step = bench.step([3], [0] * 3)
    bench.run(step, early, late)
    columns = bench.placement.columns
    assert set(columns) == {watch.key for watch in watched}
    found = {key: step.scores[:3, column] for key, column in columns.items()}
    torch.testing.assert_close(found[(EARLY, READ.digest)], early[:, 0])
    torch.testing.assert_close(found[(LATE, READ.digest)], late[:, 0])
    torch.testing.assert_close(found[(LATE, other.digest)], late[:, 2] + 0.5)


def test_gates_and_watched_reads_are_shared_and_freed():
    books = Allocator(D_MODEL, SIZES, 1)
    gated = all_tokens(constant(AXES[1]).gated(gate()), watched=(Watch(EARLY, READ),))
    other = all_tokens(constant(AXES[2]).gated(gate()))
    books.place(gated)
    second = books.place(other)
    assert second.gates is None, "the gate is there already"
    assert books.used["gates"] == 1
    assert books.used[f"reads at {EARLY}"] == 1
    books.release(gated)
    assert books.used["gates"] == 1
    books.release(other)
    assert not any(books.used.values())


def test_no_gate_left_names_what_to_raise_and_books_nothing():
    books = Allocator(D_MODEL, SIZES, 1)
    books.place(all_tokens(constant(AXES[1]).gated(gate(1.0))))
    before = books.used
    with pytest.raises(CapacityError, match="--gates"):
        books.place(all_tokens(constant(AXES[1]).gated(gate(2.0))))
    assert books.used == before


def test_no_read_left_for_a_watch_books_nothing():
    books = Allocator(D_MODEL, {EARLY: Capacity(4, 1, 2)}, 1)
    watched = tuple(Watch(EARLY, Read(AXES[i])) for i in range(2))
    with pytest.raises(CapacityError, match="--reads"):
        books.place(all_tokens(constant(AXES[1]), EARLY, watched))
    assert not any(books.used.values())


def test_what_a_gate_is_decides_its_identity():
    base = gate(1.0)
    others = [
        gate(1.5),
        gate(1.0, above=False),
        gate(1.0, TokenClause("all")),
        gate(1.0, TokenClause("prompt")),
        Gate(LATE, READ, 1.0),
        Gate(EARLY, Read(AXES[1]), 1.0),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 1 + len(others)
    plain = constant(AXES[1])
    assert plain.gated(base).digest not in {plain.digest, plain.gated(others[0]).digest}


def test_an_unused_gate_never_opens():
    table = GateTable(3, 4)
    table.evaluate(0, torch.full((4, 2), 1e9))
    assert not table.open[:, 1:].any()
    assert bool((table.open[:, 0] == 1).all())
    assert GatePatch.of([]).index.numel() == 0
