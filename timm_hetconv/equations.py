"""The equations of section 3 of the paper (Singh et al., CVPR 2019), one function each.

Symbols: D_o, height and width of the output (the paper's maps are square); M, input channels; N, output channels, that
is filters; K, kernel size; P, the part: M/P kernels of a filter are K x K, the others 1 x 1; G, groups of the grouped
convolution (GWC). FLOPs are multiply-accumulates. Costs are exact integers, ratios to the standard convolution exact
fractions, so that an inequality at its bound is decided and not rounded.

The numbers (1) to (6) and (9) are the ones that this project goes by. Of the equations between, the numbers (7) and (8)
follow from their order only, and the two for DWC + PWC carry none here: none of these was compared with the numbers
printed in the paper.

Slips of the paper, which the functions below state and do not repeat:

* Inequality (6) is not general. At P = M it says 1/M + (1 - 1/M)/K^2 < 1/N + 1/K^2. Take 1/K^2 from both sides:
  (1/M) (1 - 1/K^2) < 1/N, hence N < M K^2/(K^2 - 1), which for K = 3 is N < 9M/8. It fails wherever a layer doubles the
  channels. A layer with P = M exists only where M divides N, so of those it holds for N = M alone.
* The cost of GWC + PWC behind (9) has M N K^2/G for the grouped stage and M N for the pointwise one: no two layers in
  sequence have both unless M = N. With a grouped stage M -> M, as in `GWCPWC2d`, the ratio is M/(N G) + 1/K^2, and
  HetConv at P = G is below it only for N < M K^2/(K^2 - 1) again, whatever G.
* "A larger P becomes the standard convolution" is backwards: P = 1 is the standard convolution, and FLOPs fall as P
  rises.
* Table 1 prints 5.17 M parameters for VGG-16_P4 and a reduction of 65.45 %. Of the 15.00 M printed for VGG-16_P1 that
  reduction leaves 5.18 M, and 5.17 M is a reduction of 65.53 %.
"""

from fractions import Fraction

__all__ = [
    'channel_bound',
    'dwc_pwc_flops',
    'dwc_pwc_ratio',
    'grouped_inequality_holds',
    'gwc_pwc_flops',
    'gwc_pwc_layer_flops',
    'gwc_pwc_layer_ratio',
    'gwc_pwc_ratio',
    'hetconv_flops',
    'hetconv_ratio',
    'kxk_flops',
    'one_by_one_flops',
    'pointwise_inequality_holds',
    'standard_flops',
]


def _share(channels: int, parts: int) -> int:
    if parts < 1 or channels % parts:
        raise ValueError(f'{parts} must divide {channels} channels')
    return channels // parts


def standard_flops(d_o: int, m: int, n: int, k: int) -> int:
    """Equation (1), a standard convolution: FL_S = D_o^2 M N K^2."""
    return d_o**2 * m * n * k**2


def kxk_flops(d_o: int, m: int, n: int, k: int, p: int) -> int:
    """Equation (2), the K x K kernels of HetConv: FL_K = D_o^2 M N K^2 / P.

    Raises:
        ValueError: P does not divide M.
    """
    return d_o**2 * _share(m, p) * n * k**2


def one_by_one_flops(d_o: int, m: int, n: int, p: int) -> int:
    """Equation (3), the 1 x 1 kernels of HetConv: FL_1 = D_o^2 N (M - M/P).

    Raises:
        ValueError: P does not divide M.
    """
    return d_o**2 * n * (m - _share(m, p))


def hetconv_flops(d_o: int, m: int, n: int, k: int, p: int) -> int:
    """Equation (4), HetConv: FL_HC = FL_K + FL_1. At P = 1 it is the standard convolution.

    Raises:
        ValueError: P does not divide M.
    """
    return kxk_flops(d_o, m, n, k, p) + one_by_one_flops(d_o, m, n, p)


def hetconv_ratio(p: int, k: int) -> Fraction:
    """Equation (5), HetConv over standard: R_HetConv = FL_HC / FL_S = 1/P + (1 - 1/P) / K^2.

    It falls from 1 at P = 1, the standard convolution, towards 1/K^2; the paper's remark that a larger P comes nearer
    to the standard convolution is backwards.
    """
    return Fraction(1, p) + (1 - Fraction(1, p)) / k**2


def dwc_pwc_flops(d_o: int, m: int, n: int, k: int) -> int:
    """DWC + PWC, MobileNet's pair (number not confirmed): FL = D_o^2 M K^2 + D_o^2 M N.

    D_o is the side of both outputs; the depthwise stage carries the stride.
    """
    return d_o**2 * m * k**2 + d_o**2 * m * n


def dwc_pwc_ratio(n: int, k: int) -> Fraction:
    """DWC + PWC over standard (number not confirmed): R = 1/N + 1/K^2."""
    return Fraction(1, n) + Fraction(1, k**2)


def pointwise_inequality_holds(m: int, n: int, k: int) -> bool:
    """Inequality (6), HetConv at P = M against DWC + PWC: 1/M + (1 - 1/M)/K^2 < 1/N + 1/K^2?

    The paper states it without a condition; it is true only for N < `channel_bound(m, k)`.
    """
    return hetconv_ratio(m, k) < dwc_pwc_ratio(n, k)


def channel_bound(m: int, k: int) -> Fraction:
    """The N below which (6), and (9) with a grouped stage M -> M, are true: M K^2 / (K^2 - 1), 9M/8 for K = 3."""
    return Fraction(m * k**2, k**2 - 1)


def gwc_pwc_flops(d_o: int, m: int, n: int, k: int, g: int) -> int:
    """Equation (7) by order, GWC + PWC as printed: FL = D_o^2 M N K^2 / G + D_o^2 M N.

    The first term is a grouped stage M -> N, the second a pointwise stage M -> N: two layers in sequence only for
    M = N. `gwc_pwc_layer_flops` is what the layer costs.

    Raises:
        ValueError: G does not divide M.
    """
    return d_o**2 * _share(m, g) * n * k**2 + d_o**2 * m * n


def gwc_pwc_ratio(g: int, k: int) -> Fraction:
    """Equation (8) by order, GWC + PWC as printed over standard: R = 1/G + 1/K^2."""
    return Fraction(1, g) + Fraction(1, k**2)


def gwc_pwc_layer_flops(d_o: int, m: int, n: int, k: int, g: int) -> int:
    """GWC + PWC with a grouped stage M -> M, as `GWCPWC2d` has it: D_o^2 M^2 K^2 / G + D_o^2 M N. Not in the paper.

    Raises:
        ValueError: G does not divide M.
    """
    return d_o**2 * _share(m, g) * m * k**2 + d_o**2 * m * n


def gwc_pwc_layer_ratio(m: int, n: int, k: int, g: int) -> Fraction:
    """`gwc_pwc_layer_flops` over standard: M/(N G) + 1/K^2; the printed 1/G + 1/K^2 where M = N. Not in the paper."""
    return Fraction(m, n * g) + Fraction(1, k**2)


def grouped_inequality_holds(m: int, n: int, k: int, g: int) -> bool:
    """Inequality (9), HetConv at P = G against GWC + PWC, for a grouped stage M -> M.

    Is 1/G + (1 - 1/G)/K^2 < M/(N G) + 1/K^2? The paper has 1/G in the place of M/(N G): then it is always true. With
    the layers as they are it is true only for N < `channel_bound(m, k)`.
    """
    return hetconv_ratio(g, k) < gwc_pwc_layer_ratio(m, n, k, g)
