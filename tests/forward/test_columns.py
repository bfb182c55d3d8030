import pytest
import torch

from forward.columns import Read, bound, constant, linear, plane, set_to

V, W = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_equal_content_has_equal_digest():
    assert Read(V).digest == Read(V.clone()).digest
    assert linear(Read(V), W).digest == linear(Read(V.clone()), W.clone()).digest
    assert set_to(Read(V), W, 1.0).digest == bound(Read(V), W, 1.0, 1.0).digest


@pytest.mark.parametrize(
    "other",
    [
        linear(Read(V), V),
        linear(Read(W), W),
        linear(Read(V, 0.5), W),
        linear(Read(V), W).measured_by_norm(),
        constant(W),
        bound(Read(V), W, -1.0, 1.0),
        plane(Read(V), Read(W), 10.0)[0],
    ],
)
def test_any_difference_changes_the_digest(other):
    assert other.digest != linear(Read(V), W).digest


def test_measured_by_norm_keeps_everything_else():
    column = bound(Read(V), W, -1.0, 2.0)
    scaled = column.measured_by_norm()
    assert (scaled.low, scaled.high, scaled.read) == (-1.0, 2.0, column.read)
    assert not column.by_norm


def test_vectors_become_detached_float32():
    read = Read(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    assert read.vector.dtype == torch.float32
    assert not read.vector.requires_grad
