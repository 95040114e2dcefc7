"""How the paper must have counted: for every published figure, the convention that yields it.

The paper does not say what it counts. These functions compute from the layer shapes of our registered models (the dense
P = 1 network, HetConv by equation (5)), with what one has to add to arrive at the printed digits: biases, squeeze-and-
excitation, normalisation. None of it is needed for a cost of one's own: `timm_hetconv.count` is the exact one.

Counts are exact: multiply-accumulates or parameters, as fractions, since the paper's bias terms are scaled by R too.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Callable, Dict, Iterable, Tuple, Union

import timm

from .._family import parse_variant
from ..cost import LayerCost, ModelCost, count
from ..equations import hetconv_ratio
from .tables import Published, printed

__all__ = [
    'CONVENTIONS',
    'Convention',
    'exact_cost',
    'mobilenet_flops',
    'mobilenet_hetconv_flops',
    'printed_flops_reduced',
    'resnet34_flops',
    'resnet34_se_reduced',
    'resnet56_reduced',
    'resnet56_se_reduced',
    'vgg_flops',
    'vgg_imagenet_flops',
    'vgg_params',
    'vgg_rival_flops',
    'vgg_rival_params',
]

Number = Union[int, Fraction]
# A convolution's bias and, for each channel, the scale, shift, mean and variance of a batch norm.
_BIAS_AND_NORM, _NORM = 5, 4


@cache
def exact_cost(model: str) -> ModelCost:
    """`timm_hetconv.count` of a registered model, made without memory for its weights."""
    return count(timm.create_model(model, device='meta'))


def _split(arch: str) -> Tuple[LayerCost, Tuple[LayerCost, ...], Tuple[LayerCost, ...]]:
    """First convolution, the 3x3 convolutions that HetConv replaces, and the head, of the dense network `arch`.

    1x1 shortcuts are left out: option A of the ResNet paper, which has none, is what yields the printed figures.
    """
    first, *rest = [layer for layer in exact_cost(f'hetconv_{arch}_p1').layers if 'downsample' not in layer.name]
    body = tuple(layer for layer in rest if layer.shape.get('kernel_size') == (3, 3))
    return first, body, tuple(layer for layer in rest if layer not in body)


def _channels(layer: LayerCost) -> int:
    return layer.shape['out_channels'] if 'out_channels' in layer.shape else layer.shape['out_features']


def _outputs(layer: LayerCost) -> int:
    """Numbers that a layer puts out; a bias costs one addition each."""
    rows, columns = layer.shape.get('output', (1, 1))
    return _channels(layer) * rows * columns


def _ratio(layer: LayerCost, conv: str) -> Fraction:
    """R of equation (5) for a 3x3 layer. 'pc' counts at P = N, also where P = N > M is no layer that could be built."""
    return hetconv_ratio(_channels(layer) if conv == 'pc' else int(conv[1:]), layer.shape['kernel_size'][0])


def _se_weights(layers: Iterable[LayerCost], reduction: int) -> int:
    """Weights, hence multiply-accumulates, of squeeze-and-excitation after each layer: 2 C^2/reduction, no biases."""
    return sum(2 * _channels(layer) ** 2 // reduction for layer in layers)


def vgg_flops(conv: str, se: bool = False) -> Fraction:
    """VGG-16 on CIFAR-10, table 1: multiply-accumulates and biases, R on both, of the 12 HetConv layers.

    The first convolution and the head 512-512-10 are counted whole, with their biases. SE, at reduction 16, is counted
    after the 12 HetConv layers: its weights, and one multiplication for each number that it scales.
    """
    first, body, head = _split('vgg16_cifar')
    total = Fraction(sum(layer.macs + _outputs(layer) for layer in (first, *head)))
    total += sum(_ratio(layer, conv) * (layer.macs + _outputs(layer)) for layer in body)
    if se:
        total += _se_weights(body, 16) + sum(map(_outputs, body))
    return total


def vgg_rival_flops(conv: str) -> int:
    """VGG-16 with GWC + PWC or DWC + PWC, table 1: as `vgg_flops`, but the pointwise stages have no bias."""
    layers = exact_cost(f'hetconv_vgg16_cifar_{conv}').layers
    return sum(layer.macs + (0 if layer.name.endswith('.pwc') else _outputs(layer)) for layer in layers)


def vgg_params(conv: str, se: bool = False) -> Fraction:
    """Parameters of VGG-16 in table 1: biases and four numbers a channel of every batch norm count as well.

    So running means and variances are taken for parameters, and R scales biases and norms of the HetConv layers along
    with their weights. The hidden layer of the head has a norm. SE, at reduction 16, is counted after all 13
    convolutions, unlike its FLOPs.
    """
    first, body, head = _split('vgg16_cifar')
    hidden = head[0]
    total = Fraction(first.params + sum(layer.params for layer in head))
    total += _BIAS_AND_NORM * _channels(first) + _NORM * _channels(hidden)
    total += sum(_ratio(layer, conv) * (layer.params + _BIAS_AND_NORM * _channels(layer)) for layer in body)
    return total + (_se_weights((first, *body), 16) if se else 0)


def vgg_rival_params(conv: str) -> int:
    """Parameters of VGG-16 with GWC + PWC or DWC + PWC in table 1.

    Bias and batch norm after the grouped stage, batch norm without bias after the pointwise one; four numbers a channel
    of a norm. Unlike in `vgg_params`, the hidden layer of the head has no norm.
    """
    layers = exact_cost(f'hetconv_vgg16_cifar_{conv}').layers
    total = sum(layer.params for layer in layers)
    for i, layer in enumerate(layers):
        if i == 0 or layer.name.endswith('.gwc'):
            total += _BIAS_AND_NORM * _channels(layer)
        elif layer.name.endswith('.pwc'):
            total += _NORM * _channels(layer)
    return total


def printed_flops_reduced(model: str, base: str) -> float:
    """Tables 1 and 2: reduction in %, from the MFLOPs as printed in table 1, relative to P1 without SE."""
    return _reduced(Fraction(printed(1, model, 'MFLOPs')), Fraction(printed(1, base, 'MFLOPs')))


def _macs(arch: str, conv: str) -> Fraction:
    """Multiply-accumulates only, no biases."""
    first, body, head = _split(arch)
    return sum(layer.macs for layer in (first, *head)) + sum(
        (_ratio(layer, conv) * layer.macs for layer in body), Fraction(0)
    )


def _resnet56_base() -> Fraction:
    """Multiply-accumulates of ResNet-56 rounded to 0.1 M."""
    return _to_tenth_of_a_million(_macs('resnet56_cifar', 'p1'))


def _to_tenth_of_a_million(number: Number) -> Fraction:
    return Fraction(round(number / Fraction(100_000)) * 100_000)


def resnet56_reduced(conv: str) -> float:
    """ResNet-56 on CIFAR-10, table 3: reduction in %, from multiply-accumulates that are first rounded to 0.1 M.

    HetConv in the 54 convolutions of the blocks, shortcuts without parameters, no biases.
    """
    return _reduced(_to_tenth_of_a_million(_macs('resnet56_cifar', conv)), _resnet56_base())


def resnet56_se_reduced(conv: str) -> float:
    """Table 3 with SE at reduction 8 after each of the 54 convolutions; only the base, without SE, is rounded."""
    _, body, _ = _split('resnet56_cifar')
    return _reduced(_macs('resnet56_cifar', conv) + _se_weights(body, 8), _resnet56_base())


def mobilenet_flops() -> int:
    """MobileNet on CIFAR-10, table 4: no biases but that of the classifier, and the average pool's 4096 additions."""
    *convs, classifier = exact_cost('hetconv_mobilenet_cifar_dwc').layers
    return sum(layer.macs for layer in convs) + _outputs(convs[-1]) + classifier.macs + _outputs(classifier)


def mobilenet_hetconv_flops(conv: str, se: bool = False) -> Fraction:
    """MobileNet with each DW + PW pair replaced by one HetConv 3x3, table 4: as `mobilenet_flops`, without the pool.

    SE, at reduction 8, after each of the 13 blocks: weights and biases.
    """
    _, body, head = _split('mobilenet_cifar')
    total = _macs('mobilenet_cifar', conv) + sum(map(_outputs, head))
    if se:
        biases = sum(_channels(layer) + _channels(layer) // 8 for layer in body)
        total += _se_weights(body, 8) + biases
    return total


def vgg_imagenet_flops(conv: str) -> Fraction:
    """VGG-16 on ImageNet, table 5: multiply-accumulates only, head 4096-4096-1000 included."""
    return _macs('vgg16', conv)


def resnet34_flops(conv: str) -> Fraction:
    """ResNet-34 on ImageNet, table 6: shortcuts without parameters, biased convolutions, R on the biases too."""
    first, body, head = _split('resnet34')
    return sum(layer.macs + _outputs(layer) for layer in (first, *head)) + sum(
        (_ratio(layer, conv) * (layer.macs + _outputs(layer)) for layer in body), Fraction(0)
    )


def resnet34_se_reduced(conv: str) -> float:
    """Table 6 with SE at reduction 8 after each of the 32 convolutions, relative to P1 without SE; no biases here."""
    _, body, _ = _split('resnet34')
    return _reduced(_macs('resnet34', conv) + _se_weights(body, 8), _macs('resnet34', 'p1'))


def _reduced(new: Number, base: Number) -> float:
    """Reduction in %."""
    return float(100 * (1 - Fraction(new) / base))


@dataclass(frozen=True)
class Convention:
    """A way of counting.

    Attributes:
        text: In a line, for tables and pages.
        compute: The value that it gives a published figure, in the unit of the figure's metric.
    """

    text: str
    compute: Callable[[Published], float]


def _conv(figure: Published) -> str:
    return parse_variant(figure.model)['conv']


def _se(figure: Published) -> bool:
    return parse_variant(figure.model)['se']


def _vgg_params_reduced(figure: Published) -> float:
    return _reduced(vgg_params(_conv(figure), _se(figure)), vgg_params('p1', _se(figure)))


CONVENTIONS: Dict[str, Convention] = {
    'vgg-flops': Convention(
        'MACs and biases, R on both; SE: C²/8 and the scaling, after 12 convolutions; PC at P = N',
        lambda f: float(vgg_flops(_conv(f), _se(f)) / 10**6),
    ),
    'vgg-rival-flops': Convention(
        'MACs and biases; the pointwise stage has none', lambda f: vgg_rival_flops(_conv(f)) / 1e6
    ),
    'vgg-params': Convention(
        'weights, biases, 4 a channel of every norm, R on all; SE: C²/8 after 13 convolutions; PC at P = N',
        lambda f: float(vgg_params(_conv(f), _se(f)) / 10**6),
    ),
    'vgg-rival-params': Convention(
        'weights, biases of the grouped stages, 4 a channel of every norm; none in the head',
        lambda f: vgg_rival_params(_conv(f)) / 1e6,
    ),
    'vgg-params-reduced': Convention('from the unrounded parameters; SE relative to P1 with SE', _vgg_params_reduced),
    'printed-flops': Convention(
        'from the printed MFLOPs, relative to P1 without SE',
        lambda f: printed_flops_reduced(f.model, f.base or f.model),
    ),
    'resnet56-reduced': Convention(
        'MACs rounded to 0.1 M, shortcuts without parameters', lambda f: resnet56_reduced(_conv(f))
    ),
    'resnet56-se-reduced': Convention(
        'MACs and C²/4 after 54 convolutions; P1 without SE rounded to 0.1 M', lambda f: resnet56_se_reduced(_conv(f))
    ),
    'mobilenet-flops': Convention("MACs, classifier's bias, average pool", lambda f: mobilenet_flops() / 1e6),
    'mobilenet-hetconv-flops': Convention(
        "MACs, classifier's bias; one HetConv 3×3 a DW+PW pair; SE: C²/4 and biases after 13 blocks",
        lambda f: float(mobilenet_hetconv_flops(_conv(f), _se(f)) / 10**6),
    ),
    'vgg-imagenet-reduced': Convention(
        'MACs, head included', lambda f: _reduced(vgg_imagenet_flops(_conv(f)), vgg_imagenet_flops('p1'))
    ),
    'resnet34-flops': Convention(
        'MACs and biases, R on both, shortcuts without parameters', lambda f: float(resnet34_flops(_conv(f)) / 10**9)
    ),
    'resnet34-reduced': Convention(
        'MACs and biases, R on both, shortcuts without parameters',
        lambda f: _reduced(resnet34_flops(_conv(f)), resnet34_flops('p1')),
    ),
    'resnet34-se-reduced': Convention(
        'MACs and C²/4 after 32 convolutions, no biases; relative to P1 without SE',
        lambda f: resnet34_se_reduced(_conv(f)),
    ),
}
