"""Equations of the paper against the multiply-accumulates counted on real layers, and where the paper slips."""

from fractions import Fraction

import pytest
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_hetconv import DWCPWC2d, GWCPWC2d, HetConv2d, count
from timm_hetconv import equations as eq

side = st.integers(1, 6)
channels = st.integers(1, 5)
part = st.sampled_from((1, 2, 3, 4, 8))
kernel = st.sampled_from((3, 5))


def counted(layer: nn.Module, side: int) -> int:
    first = next(m for m in layer.modules() if isinstance(m, (nn.Conv2d, HetConv2d)))
    return count(layer, (first.in_channels, side, side)).macs


@settings(deadline=None, max_examples=30)
@given(side, channels, channels, part, kernel)
def test_hetconv_layer_costs_equation_4(d_o, a, b, p, k):
    m, n = a * p, b * p
    macs = counted(HetConv2d(m, n, k, part=p), d_o)
    assert eq.hetconv_flops(d_o, m, n, k, p) == macs
    assert eq.kxk_flops(d_o, m, n, k, p) + eq.one_by_one_flops(d_o, m, n, p) == macs
    assert eq.hetconv_ratio(p, k) == Fraction(macs, eq.standard_flops(d_o, m, n, k))


@settings(deadline=None, max_examples=30)
@given(side, channels, channels, kernel)
def test_standard_layer_costs_equation_1(d_o, m, n, k):
    assert eq.standard_flops(d_o, m, n, k) == counted(nn.Conv2d(m, n, k, padding=k // 2), d_o)


def test_the_two_kinds_of_kernels_cost_equations_2_and_3():
    layer = HetConv2d(16, 8, 3, part=4, bias=False)
    pixels, centres = 7 * 7, 8 * 4  # the centre tap of a K x K kernel is stored with the 1 x 1 kernels
    assert eq.kxk_flops(7, 16, 8, 3, 4) == pixels * (layer.weight_kxk.numel() + centres)
    assert eq.one_by_one_flops(7, 16, 8, 4) == pixels * (layer.weight.numel() - centres)


@settings(deadline=None, max_examples=30)
@given(side, channels, channels, kernel)
def test_depthwise_pair_costs_what_the_paper_says(d_o, m, n, k):
    macs = counted(DWCPWC2d(m, n, k), d_o)
    assert eq.dwc_pwc_flops(d_o, m, n, k) == macs
    assert eq.dwc_pwc_ratio(n, k) == Fraction(macs, eq.standard_flops(d_o, m, n, k))


@settings(deadline=None, max_examples=30)
@given(side, channels, channels, part, kernel)
def test_grouped_pair_costs_what_the_paper_says_only_between_equal_channels(d_o, a, n, g, k):
    m = a * g
    macs = counted(GWCPWC2d(m, n, k, groups=g), d_o)
    assert eq.gwc_pwc_layer_flops(d_o, m, n, k, g) == macs
    assert eq.gwc_pwc_layer_ratio(m, n, k, g) == Fraction(macs, eq.standard_flops(d_o, m, n, k))
    assert (eq.gwc_pwc_flops(d_o, m, n, k, g) == macs) == (m == n)
    assert (eq.gwc_pwc_ratio(g, k) == eq.gwc_pwc_layer_ratio(m, n, k, g)) == (m == n)


def test_printed_grouped_ratio_is_the_printed_cost_over_standard():
    expected = Fraction(eq.gwc_pwc_flops(4, 16, 48, 3, 4), eq.standard_flops(4, 16, 48, 3))
    assert eq.gwc_pwc_ratio(4, 3) == expected


def test_part_1_is_the_standard_convolution_and_a_larger_part_is_further_from_it():
    ratios = [eq.hetconv_ratio(p, 3) for p in (1, 2, 4, 8, 16, 32, 64)]
    assert ratios[0] == 1
    assert ratios == sorted(ratios, reverse=True)
    assert len(set(ratios)) == len(ratios)
    assert ratios[-1] > Fraction(1, 9)


def test_inequality_6_fails_on_layers_that_double_the_channels():
    m, n = 64, 128
    hetconv = counted(HetConv2d(m, n, 3, part=m), 4)
    pair = counted(DWCPWC2d(m, n, 3), 4)
    assert hetconv > pair
    assert not eq.pointwise_inequality_holds(m, n, 3)
    assert counted(HetConv2d(m, m, 3, part=m), 4) < counted(DWCPWC2d(m, m, 3), 4)
    assert eq.pointwise_inequality_holds(m, m, 3)


def test_inequality_9_fails_for_the_layer_as_it_is():
    m, n, g = 64, 128, 4
    assert counted(HetConv2d(m, n, 3, part=g), 4) > counted(GWCPWC2d(m, n, 3, groups=g), 4)
    assert not eq.grouped_inequality_holds(m, n, 3, g)
    assert eq.hetconv_ratio(g, 3) < eq.gwc_pwc_ratio(g, 3)  # as printed it is true
    assert counted(HetConv2d(m, m, 3, part=g), 4) < counted(GWCPWC2d(m, m, 3, groups=g), 4)
    assert eq.grouped_inequality_holds(m, m, 3, g)


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from((3, 5, 7)), st.integers(1, 64))
def test_bound_of_both_inequalities(m, n, k, g):
    below = n < eq.channel_bound(m, k)
    assert eq.pointwise_inequality_holds(m, n, k) == below
    assert eq.grouped_inequality_holds(m, n, k, g) == below


@pytest.mark.parametrize(('n', 'holds'), [(8, True), (9, False), (10, False)])
def test_bound_is_nine_eighths_for_3x3(n, holds):
    assert eq.channel_bound(8, 3) == 9
    assert eq.pointwise_inequality_holds(8, n, 3) is holds
    assert eq.grouped_inequality_holds(8, n, 3, 4) is holds


@pytest.mark.parametrize(
    'call',
    [
        lambda: eq.kxk_flops(1, 6, 4, 3, 4),
        lambda: eq.one_by_one_flops(1, 6, 4, 4),
        lambda: eq.hetconv_flops(1, 6, 4, 3, 0),
        lambda: eq.gwc_pwc_flops(1, 6, 4, 3, 4),
        lambda: eq.gwc_pwc_layer_flops(1, 6, 4, 3, 4),
    ],
)
def test_parts_that_do_not_divide_raise(call):
    with pytest.raises(ValueError, match='must divide 6 channels'):
        call()
