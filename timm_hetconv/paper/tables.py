"""Every count that the paper publishes in its tables 1 to 6, as printed. Data only: nothing here is computed.

Values are strings, since the number of digits says to what accuracy a count can agree. A column is taken to have the
same number of digits throughout, hence 15.00, 44.00, 44.30 and 76.40.

`ACCURACIES` has only the accuracies of table 1 that could be read in a source, and that source is second-hand; those of
SE, of the rivals and of tables 2 to 6 are left out rather than guessed.
"""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

__all__ = ['ACCURACIES', 'FIGURES', 'Published', 'printed']


@dataclass(frozen=True)
class Published:
    """One published figure.

    Attributes:
        table: Number of the table, 1 to 6.
        row: Name of the network as in the paper.
        metric: 'MFLOPs' or 'GFLOPs' (millions or thousands of millions of multiply-accumulates), 'Mparams' (millions),
            'FLOPs reduced %' or 'params reduced %'.
        printed: The value as printed.
        model: Our registered counterpart.
        convention: Key in `conventions.CONVENTIONS` of the way of counting that yields the value.
        base: For the reductions, our counterpart of the network that they are relative to.
    """

    table: int
    row: str
    metric: str
    printed: str
    model: str
    convention: str
    base: Optional[str] = None


# Row: part of the model name, MFLOPs, FLOPs reduced %, Mparams, params reduced %.
_TABLE_1: Dict[str, Tuple[str, str, Optional[str], str, Optional[str]]] = {
    'VGG-16_P1': ('p1', '313.74', None, '15.00', None),
    'VGG-16_P2': ('p2', '175.23', '44.15', '8.45', '43.68'),
    'VGG-16_P4': ('p4', '105.98', '66.22', '5.17', '65.45'),
    'VGG-16_P8': ('p8', '71.35', '77.26', '3.54', '76.40'),
    'VGG-16_P16': ('p16', '54.04', '82.78', '2.72', '81.86'),
    'VGG-16_P32': ('p32', '45.38', '85.54', '2.31', '84.58'),
    'VGG-16_P64': ('p64', '41.05', '86.92', '2.11', '85.95'),
    'VGG-16_P1_SE': ('p1_se', '314.19', None, '15.22', None),
    'VGG-16_P2_SE': ('p2_se', '175.67', '44.00', '8.68', '42.99'),
    'VGG-16_P4_SE': ('p4_se', '106.42', '66.08', '5.41', '64.48'),
    'VGG-16_P8_SE': ('p8_se', '71.79', '77.12', '3.77', '75.22'),
    'VGG-16_P16_SE': ('p16_se', '54.48', '82.64', '2.95', '80.59'),
    'VGG-16_P32_SE': ('p32_se', '45.82', '85.39', '2.54', '83.28'),
    'VGG-16_P64_SE': ('p64_se', '41.49', '86.77', '2.34', '84.63'),
    'VGG-16_GWC4_PWC': ('gwc4', '107.67', '65.68', '5.42', None),
    'VGG-16_DWC_PWC': ('dwc', '38.53', '87.72', '1.97', None),
    'VGG-16_PC': ('pc', '38.18', '87.83', '1.93', None),
    'VGG-16_PC_SE': ('pc_se', '38.62', '87.69', '2.15', None),
}


def _table_1() -> List[Published]:
    figures = []
    vgg = 'hetconv_vgg16_cifar_'
    for row, (kind, flops, flops_reduced, params, params_reduced) in _TABLE_1.items():
        rival = 'rival-' if kind in ('gwc4', 'dwc') else ''
        figures.append(Published(1, row, 'MFLOPs', flops, vgg + kind, f'vgg-{rival}flops'))
        if flops_reduced:
            # The SE rows too are relative to the network without SE ...
            figures.append(Published(1, row, 'FLOPs reduced %', flops_reduced, vgg + kind, 'printed-flops', f'{vgg}p1'))
        figures.append(Published(1, row, 'Mparams', params, vgg + kind, f'vgg-{rival}params'))
        if params_reduced:
            # ... but for parameters they are relative to the one with SE.
            base = f'{vgg}p1_se' if kind.endswith('_se') else f'{vgg}p1'
            figures.append(
                Published(1, row, 'params reduced %', params_reduced, vgg + kind, 'vgg-params-reduced', base)
            )
    return figures


_REDUCED = 'FLOPs reduced %'

FIGURES: Tuple[Published, ...] = (
    *_table_1(),
    # Table 2 repeats table 1.
    Published(2, 'VGG-16_P32', _REDUCED, '85.54', 'hetconv_vgg16_cifar_p32', 'printed-flops', 'hetconv_vgg16_cifar_p1'),
    Published(2, 'VGG-16_P64', _REDUCED, '86.92', 'hetconv_vgg16_cifar_p64', 'printed-flops', 'hetconv_vgg16_cifar_p1'),
    *(
        Published(3, row, _REDUCED, printed, f'hetconv_resnet56_cifar_{kind}', key, 'hetconv_resnet56_cifar_p1')
        for row, printed, kind, key in (
            ('ResNet-56_P2', '44.30', 'p2', 'resnet56-reduced'),
            ('ResNet-56_P4', '66.45', 'p4', 'resnet56-reduced'),
            ('ResNet-56_P2_SE', '44.27', 'p2_se', 'resnet56-se-reduced'),
            ('ResNet-56_P4_SE', '66.42', 'p4_se', 'resnet56-se-reduced'),
        )
    ),
    Published(4, 'MobileNet', 'MFLOPs', '46.36', 'hetconv_mobilenet_cifar_dwc', 'mobilenet-flops'),
    Published(4, 'MobileNet_P32', 'MFLOPs', '55.94', 'hetconv_mobilenet_cifar_p32', 'mobilenet-hetconv-flops'),
    Published(4, 'MobileNet_P32_SE', 'MFLOPs', '56.91', 'hetconv_mobilenet_cifar_p32_se', 'mobilenet-hetconv-flops'),
    Published(5, 'VGG-16_P4', _REDUCED, '65.8', 'hetconv_vgg16_p4', 'vgg-imagenet-reduced', 'hetconv_vgg16_p1'),
    Published(6, 'ResNet-34_P1', 'GFLOPs', '3.6', 'hetconv_resnet34_p1', 'resnet34-flops'),
    Published(6, 'ResNet-34_P4', 'GFLOPs', '1.3', 'hetconv_resnet34_p4', 'resnet34-flops'),
    Published(6, 'ResNet-34_P4', _REDUCED, '64.48', 'hetconv_resnet34_p4', 'resnet34-reduced', 'hetconv_resnet34_p1'),
    Published(
        6, 'ResNet-34_P4_SE', _REDUCED, '64.48', 'hetconv_resnet34_p4_se', 'resnet34-se-reduced', 'hetconv_resnet34_p1'
    ),
)

# CIFAR-10 accuracy in %, table 1. Second-hand: the column "Acc% (Original)" in the README of a fork of
# github.com/irvinxav/Efficient-HetConv-Heterogeneous-Kernel-Based-Convolutions, whose MFLOPs are those of table 1.
ACCURACIES: Dict[str, str] = {
    'VGG-16_P1': '94.06',
    'VGG-16_P2': '93.89',
    'VGG-16_P4': '93.93',
    'VGG-16_P8': '93.92',
    'VGG-16_P16': '93.96',
    'VGG-16_P32': '93.73',
    'VGG-16_P64': '93.42',
}


def printed(table: int, model: str, metric: str) -> str:
    """The printed value of a metric of our counterpart `model` in a table.

    Raises:
        KeyError: The paper prints no such value.
    """
    for figure in FIGURES:
        if (figure.table, figure.model, figure.metric) == (table, model, metric):
            return figure.printed
    raise KeyError(f'table {table} has no {metric} of {model}')
