import torch

from forward.residual import add_delta, stream


def test_the_stream_is_the_sum():
    hidden, residual = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(stream(hidden, residual), hidden + residual)
    assert stream(hidden, None) is hidden


def test_a_delta_changes_the_sum_by_itself():
    hidden, residual, delta = (torch.arange(6.0).reshape(2, 3) * k for k in (1, 2, 4))
    for half in (residual, None):
        after = add_delta(hidden, half, delta)
        assert torch.equal(stream(*after), stream(hidden, half) + delta)
    assert add_delta(hidden, residual, delta)[1] is residual
