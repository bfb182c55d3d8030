import pytest
import torch

from forward.digest import tensor_bytes, tensor_digest, values_digest


def test_framing_keeps_values_apart():
    values = [("ab", "c"), ("a", "bc"), (("a",), "bc"), ("abc",), (1.0,), (1,), (None,), ((),)]
    assert len({values_digest(*value) for value in values}) == len(values)


@pytest.mark.parametrize(
    "other", [torch.zeros(2, 3), torch.zeros(6), torch.zeros(3, 2).double(), torch.ones(3, 2)]
)
def test_dtype_shape_and_bytes_count(other):
    assert tensor_digest(torch.zeros(3, 2)) != tensor_digest(other)


def test_memory_layout_does_not_count():
    square = torch.arange(6.0).reshape(2, 3)
    assert tensor_digest(square.T.contiguous()) == tensor_digest(square.T)
    assert tensor_bytes(torch.tensor([1, 2], dtype=torch.int16)) == b"\x01\x00\x02\x00"
    assert tensor_bytes(torch.ones(1, dtype=torch.bfloat16)) == b"\x80\x3f"
    assert tensor_bytes(torch.zeros(0)) == b""
