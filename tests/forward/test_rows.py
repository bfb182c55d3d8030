import torch
from hypothesis import given
from hypothesis import strategies as st

from forward.clauses import Region, region_index
from forward.rows import (
    MAX_GENERATION_REGIONS,
    N_REGIONS,
    NEVER,
    UNSTEERED,
    RowSpan,
    token_rows,
)
from tests.reference import region_of

STARTS = st.lists(st.integers(1, 12), max_size=MAX_GENERATION_REGIONS - 1, unique=True).map(
    lambda rest: (0, *sorted(rest))
)


@st.composite
def spans(draw):
    starts = draw(STARTS)
    n = 2 + len(starts)
    return RowSpan(tuple(draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))), starts, 1.0)


@st.composite
def batches(draw):
    """Requests with two spans each, and their tokens in any interleaving."""
    n = draw(st.integers(1, 4))
    requests = [(draw(st.integers(1, 9)), draw(spans()), draw(spans())) for _ in range(n)]
    tokens = draw(
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 24)), min_size=1, max_size=30)
    )
    return requests, tokens


@given(batches())
def test_token_rows_equal_the_loop(batch):
    requests, tokens = batch
    packed = [[request[1 + source].packed() for request in requests] for source in range(2)]
    found = token_rows(
        torch.tensor([position for _, position in tokens]),
        torch.tensor([request for request, _ in tokens]),
        torch.tensor([request[0] for request in requests]),
        torch.tensor([[rows for rows, _ in source] for source in packed]),
        torch.tensor([[starts for _, starts in source] for source in packed]),
    )
    assert found.shape == (2, len(tokens))
    for token, (index, position) in enumerate(tokens):
        prompt_length = requests[index][0]
        for source in range(2):
            span: RowSpan = requests[index][1 + source]
            head = (Region("prompt"), Region("last_prompt"))
            cut = head + tuple(Region("generation", start) for start in span.starts)
            expected = span.rows[region_of(position, prompt_length, cut)]
            assert int(found[source, token]) == expected
            assert expected == span.rows[region_index(position, prompt_length, span.starts)]


def test_packing_fills_the_fixed_sizes():
    rows, starts = RowSpan((4, 5, 6, 7), (0, 3), 1.0).packed()
    assert rows == [4, 5, 6, 7, 0, 0]
    assert starts == [0, 3, NEVER, NEVER]
    assert len(rows) == N_REGIONS


def test_unsteered_is_row_zero_everywhere():
    rows, starts = UNSTEERED.packed()
    positions = torch.arange(12)
    found = token_rows(
        positions, torch.zeros(12, dtype=torch.int64), torch.tensor([5]),
        torch.tensor([[rows]]), torch.tensor([[starts]]),
    )  # fmt: skip
    assert not found.any()


def test_one_token_prompt_has_only_a_last_prompt_token():
    span = RowSpan((1, 2, 3), (0,), 1.0)
    rows, starts = span.packed()
    found = token_rows(
        torch.arange(3), torch.zeros(3, dtype=torch.int64), torch.tensor([1]),
        torch.tensor([[rows]]), torch.tensor([[starts]]),
    )  # fmt: skip
    assert found.tolist() == [[2, 3, 3]]
