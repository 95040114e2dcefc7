"""Shifted and blocked channel order."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from timm_hetconv import HetConv2d
from timm_hetconv.order import blocked_order, blocked_to_shifted, shifted_to_blocked
from timm_hetconv.reference import dense_mask


@given(st.integers(1, 8), st.integers(1, 6))
def test_blocked_order_sorts_by_residue_then_quotient(part, quotient):
    channels = part * quotient
    expected = sorted(range(channels), key=lambda c: (c % part, c // part))
    assert blocked_order(channels, part).tolist() == expected


def test_order_refuses_a_part_that_does_not_divide():
    with pytest.raises(ValueError, match='part 4 does not divide 6 channels'):
        blocked_order(6, 4)


@pytest.mark.parametrize(('m', 'n', 'part'), [(8, 8, 4), (8, 16, 8), (12, 6, 3), (4, 4, 1)])
def test_the_papers_mask_becomes_the_blocked_one(m, n, part):
    shifted = dense_mask(m, n, 3, part, blocked=False)
    assert torch.equal(shifted_to_blocked(shifted, part), dense_mask(m, n, 3, part, blocked=True))


@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3))
def test_round_trip(part, a, b):
    weight = torch.randn(part * a, part * b, 3, 3)
    assert torch.equal(blocked_to_shifted(shifted_to_blocked(weight, part), part), weight)


def test_two_layers_in_shifted_order_equal_the_blocked_network():
    """A network of the paper, converted: nothing is shuffled between the layers, only input and output."""
    part, x = 4, torch.randn(2, 8, 7, 7)
    weights = [torch.randn(n, m, 3, 3) * dense_mask(m, n, 3, part, blocked=False) for m, n in ((8, 12), (12, 8))]
    y = x
    for weight in weights:
        y = F.relu(F.conv2d(y, weight, padding=1))
    z = shifted_to_blocked(x, part, dims=(1,))
    for weight in weights:
        conv = torch.nn.Conv2d(*weight.shape[1::-1], 3, padding=1, bias=False)
        conv.weight.data = shifted_to_blocked(weight, part)
        z = F.relu(HetConv2d.from_dense(conv, part)(z))
    torch.testing.assert_close(blocked_to_shifted(z, part, dims=(1,)), y)
