"""Rows cut at their subjects against whole rows, one at a time, for every family."""

import pytest
import torch

from editing.batches import IGNORED
from editing.projections import projection
from editing.spans import Row
from editing.tails import run_tails, tail, tails_of
from tests.models import CONFIGS, build_model, prompt

SHAPES = ((9, 4, 2), (30, 21, 1), (6, 0, 3), (12, 11, 0), (25, 3, 0), (1, 0, 0), (40, 30, 4))
"""Length, subject and target of each row: heads and tails of every length, some empty."""


def rows() -> list[Row]:
    return [Row(tuple(prompt(n + 1, n)[1:]), at, target) for n, at, target in SHAPES]


@pytest.mark.parametrize("family", CONFIGS)
def test_tails_equal_whole_rows(family: str) -> None:
    """Logits at every column that is asked for, with something added at the subjects."""
    model = build_model(family).double()
    added = torch.randn(128, generator=torch.Generator().manual_seed(0)).double()
    tails = tails_of(model, rows())
    module = projection(model, 1).module
    handle = module.register_forward_hook(lambda _, __, output: _plus(output, 0, added))
    found = [run_tails(model, tails) for _ in range(2)]
    handle.remove()
    assert torch.equal(found[0], found[1])  # a pass leaves the kept heads as they are
    for index, row in enumerate(rows()):
        wanted = whole(model, module, row, added)
        got = found[0][index, -len(wanted) :]
        assert torch.allclose(got, wanted, atol=1e-5), row  # attention's softmax is in float32
        labels = tails.batch.labels[index]
        assert labels[labels != IGNORED].tolist() == list(row.target)


def whole(model, module, row: Row, added: torch.Tensor) -> torch.Tensor:
    """The logits that predict the target, or the last, of one whole row."""
    handle = module.register_forward_hook(lambda _, __, output: _plus(output, row.lookup, added))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
    handle.remove()
    return logits[-row.n_target - 1 : -1] if row.n_target else logits[-1:]


def _plus(output: torch.Tensor, column: int, added: torch.Tensor) -> torch.Tensor:
    output = output.clone()
    output[:, column] += added
    return output


def test_rows_without_heads_need_no_cache() -> None:
    model = build_model("llama").double()
    short = [row for row in rows() if row.lookup == 0]
    tails = tails_of(model, short)
    assert tails.heads is None
    assert torch.isfinite(run_tails(model, tails)).all()
    assert tail(Row((5, 6, 7, 8), 2, 1)) == Row((7, 8), 0, 1)


def test_gradients_reach_what_is_added() -> None:
    """Through the attention of later tokens: the cache must not cut them off."""
    model = build_model("gpt2").double()  # the others' norms and softmax are in float32
    tails = tails_of(model, rows())
    added = torch.zeros(128, dtype=torch.float64, requires_grad=True)
    module = projection(model, 1).module
    handle = module.register_forward_hook(lambda _, __, output: _plus(output, 0, added))
    loss = run_tails(model, tails).log_softmax(-1)[:, -1, 7].sum()
    (gradient,) = torch.autograd.grad(loss, added)
    step = 1e-6 * torch.randn(128, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        added += step
    moved = run_tails(model, tails).log_softmax(-1)[:, -1, 7].sum()
    handle.remove()
    assert float((moved - loss).detach()) == pytest.approx(float(gradient @ step), rel=1e-4)
