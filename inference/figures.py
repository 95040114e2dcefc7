"""The paper's figures 1 to 4, drawn from the code: masks from the reference, orders and stages from the layers.

Each function returns a matplotlib `Figure` on a transparent ground, for light pages and dark ones: fills of middle
brightness, and lines and text in `INK`, which `to_svg` turns into the text colour of the page around it.
matplotlib is imported when a figure is drawn; it comes with `pip install timm-hetconv[report]`.
"""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch.fx
import torch.nn as nn

from timm_hetconv import DWCPWC2d, GWCPWC2d, HetConv2d
from timm_hetconv.order import blocked_order
from timm_hetconv.reference import dense_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    'FIGURES',
    'INK',
    'convolution_stages',
    'figure_filters',
    'figure_latency',
    'figure_order',
    'stand_alone',
    'to_svg',
]

INK = '#000000'
_ALONE = '#787c82'  # reads on light and dark pages
# Black and white text both have a contrast of about 4.5 on these.
KXK_COLOUR = '#2f76c9'
ONE_COLOUR = '#c06014'
_MUTED = '#767676'

_FONT = 9


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple['Figure', list[Any]]:
    """A transparent figure of bare axes, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor='none', layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        ax.set_facecolor('none')
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return figure, axes


def _kernel(ax: Any, mask: Any, x: float, y: float, grid: bool) -> None:
    """One kernel of (K, K) taps in the unit square whose lower left corner is (x, y), its taps filled."""
    from matplotlib.patches import Rectangle

    rows, columns = mask.shape
    size, edge = 0.86, 0.07
    taps = mask.nonzero()
    colour = KXK_COLOUR if len(taps) == mask.numel() else ONE_COLOUR
    ax.add_patch(Rectangle((x + edge, y + edge), size, size, fill=False, edgecolor=_MUTED, linewidth=0.6))
    if grid:
        for row, column in taps.tolist():
            corner = x + edge + size * column / columns, y + edge + size * (rows - 1 - row) / rows
            ax.add_patch(Rectangle(corner, size / columns, size / rows, facecolor=colour, edgecolor=INK, linewidth=0.6))
        return
    # The smallest rectangle around all taps: one shape a kernel instead of nine keeps the SVG small.
    (top, left), (bottom, right) = taps.min(0).values.tolist(), taps.max(0).values.tolist()
    corner = x + edge + size * left / columns, y + edge + size * (rows - 1 - bottom) / rows
    width, height = size * (right - left + 1) / columns, size * (bottom - top + 1) / rows
    ax.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor='none'))


def _legend(figure: 'Figure', kernel_size: int) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=KXK_COLOUR, label=f'{kernel_size}×{kernel_size} kernel'),
        Patch(facecolor=ONE_COLOUR, label='1×1 kernel'),
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=2, frameon=False, fontsize=_FONT, labelcolor=INK)


def figure_filters(channels: int = 8, parts: Sequence[int] = (1, 2, 4), kernel_size: int = 3) -> 'Figure':
    """Figures 1 and 2: one filter of the standard convolution (P = 1) and of HetConv, kernel by kernel.

    Args:
        channels: M, the kernels of a filter.
        parts: The P of each filter drawn; each divides `channels`.
        kernel_size: K.
    """
    figure, (ax,) = _figure(7, 0.5 + 0.78 * len(parts))
    for i, part in enumerate(parts):
        y = -1.25 * i
        mask = dense_mask(channels, channels, kernel_size, part, blocked=False)[0]
        for c in range(channels):
            _kernel(ax, mask[c], c, y, grid=True)
        name = 'standard' if part == 1 else 'HetConv'
        ax.text(-0.25, y + 0.5, f'{name}\nP = {part}', ha='right', va='center', fontsize=_FONT, color=INK)
        dense = mask.numel()
        note = f'{int(mask.sum())} of {dense} taps'
        ax.text(channels + 0.25, y + 0.5, note, ha='left', va='center', fontsize=_FONT, color=INK)
    ax.set_xlim(-1.9, channels + 2.3)
    ax.set_ylim(-1.25 * (len(parts) - 1) - 0.05, 1.05)
    ax.set_aspect('equal')
    _legend(figure, kernel_size)
    return figure


def figure_order(channels: int = 8, part: int = 4, kernel_size: int = 3) -> 'Figure':
    """Figure 3: the filters of one layer in the paper's shifted arrangement and in our blocked order beside it.

    Rows are filters, columns input channels; the numbers are those of the shifted order on both sides, so one can see
    where blocked order puts each.

    Args:
        channels: M = N.
        part: P, which divides `channels`.
        kernel_size: K.
    """
    figure, axes = _figure(7, 4.1, columns=2)
    shifted = list(range(channels))
    panels = [
        ('shifted (the paper)', False, shifted),
        ('blocked (this package)', True, blocked_order(channels, part).tolist()),
    ]
    for ax, (title, blocked, numbers) in zip(axes, panels, strict=True):
        mask = dense_mask(channels, channels, kernel_size, part, blocked=blocked)
        for n in range(channels):
            for c in range(channels):
                _kernel(ax, mask[n, c], c, channels - 1 - n, grid=False)
        centres = [i + 0.5 for i in range(channels)]
        ax.set_xticks(centres, [str(c) for c in numbers], fontsize=_FONT, color=INK)
        ax.set_yticks(centres[::-1], [str(n) for n in numbers], fontsize=_FONT, color=INK)
        ax.tick_params(length=0)
        ax.set_xlim(0, channels)
        ax.set_ylim(0, channels)
        ax.set_aspect('equal')
        ax.set_title(title, fontsize=_FONT + 1, color=INK)
        ax.set_xlabel('input channel', fontsize=_FONT, color=INK)
        ax.set_ylabel('filter', fontsize=_FONT, color=INK)
    _legend(figure, kernel_size)
    return figure


class _Tracer(torch.fx.Tracer):
    """HetConv is one operator, and FX cannot look into it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, HetConv2d) or super().is_leaf_module(m, module_qualified_name)


def convolution_stages(module: nn.Module) -> list[list[nn.Module]]:
    """The convolutions of a layer by latency unit: those of one stage can start only after the stage before.

    Read off the data flow of the module's forward. A layer's latency in the units of the paper's figure 4 is the
    number of stages.
    """
    root = nn.Sequential(module)
    depth: dict[torch.fx.Node, int] = {}
    stages: list[list[nn.Module]] = []
    for node in _Tracer().trace(root).nodes:
        depth[node] = max((depth[n] for n in node.all_input_nodes), default=0)
        layer = root.get_submodule(str(node.target)) if node.op == 'call_module' else None
        if isinstance(layer, (nn.Conv2d, HetConv2d)):
            if depth[node] == len(stages):
                stages.append([])
            stages[depth[node]].append(layer)
            depth[node] += 1
    return stages


def _describe(layer: nn.Module) -> str:
    rows, columns = layer.kernel_size  # type: ignore[misc]
    text = f'{rows}×{columns}'
    if isinstance(layer, HetConv2d):
        return f'{text} and 1×1, P = {layer.part}'
    groups = layer.groups
    return text if groups == 1 else f'{text}, {groups} groups'


def figure_latency(channels: int = 8, part: int = 4, kernel_size: int = 3) -> 'Figure':
    """Figure 4: latency of HetConv and its rivals in units of one convolution after another.

    Args:
        channels: M = N of the layers.
        part: P of HetConv and G of GWC + PWC.
        kernel_size: K.
    """
    from matplotlib.patches import Rectangle

    layers: dict[str, nn.Module] = {
        'standard': nn.Conv2d(channels, channels, kernel_size),
        'HetConv': HetConv2d(channels, channels, kernel_size, part=part),
        'GWC + PWC': GWCPWC2d(channels, channels, kernel_size, groups=part),
        'DWC + PWC': DWCPWC2d(channels, channels, kernel_size),
    }
    figure, (ax,) = _figure(7, 0.55 + 0.5 * len(layers))
    stages = {name: convolution_stages(layer) for name, layer in layers.items()}
    for i, sequence in enumerate(stages.values()):
        for x, stage in enumerate(sequence):
            text = ' ‖ '.join(map(_describe, stage))
            colour = ONE_COLOUR if all(conv.kernel_size == (1, 1) for conv in stage) else KXK_COLOUR
            ax.add_patch(Rectangle((x + 0.01, -i - 0.36), 0.98, 0.72, facecolor=colour, edgecolor='none'))
            ax.text(x + 0.5, -i, text, ha='center', va='center', fontsize=_FONT, color=INK)
    longest = max(map(len, stages.values()))
    ax.set_yticks([-i for i in range(len(stages))], list(stages), fontsize=_FONT, color=INK)
    ax.set_xticks(range(longest + 1), [str(x) for x in range(longest + 1)], fontsize=_FONT, color=INK)
    ax.tick_params(axis='y', length=0)
    ax.tick_params(axis='x', color=INK)
    ax.spines['bottom'].set_visible(True)
    ax.spines['bottom'].set_color(INK)
    ax.set_xlim(0, longest)
    ax.set_ylim(-len(stages) + 0.5, 0.5)
    ax.set_xlabel('latency: convolutions one after another', fontsize=_FONT, color=INK)
    return figure


def to_svg(figure: 'Figure') -> str:
    """The figure as an `<svg>` element to put into a page: lines and text have the colour of the text around it.

    The same figure always gives the same text.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({'svg.hashsalt': 'hetconv', 'svg.fonttype': 'path'}):
        figure.savefig(buffer, format='svg', metadata={'Date': None})
    text = buffer.getvalue()
    # matplotlib writes no fill at all for black text, so that has to come from the root.
    return text[text.index('<svg') :].replace(INK, 'currentColor').replace('<svg ', '<svg fill="currentColor" ', 1)


def stand_alone(svg: str) -> str:
    """The element of `to_svg` as a file of its own, which has no page around it to take its colour from."""
    return svg.replace('<svg ', f'<svg style="color:{_ALONE}" ', 1)


# Title, then the function that draws it.
FIGURES: dict[str, Callable[[], 'Figure']] = {
    'Figures 1 and 2: the kernels of one filter, standard and HetConv': figure_filters,
    'Figure 3: the filters of one layer, shifted and blocked': figure_order,
    'Figure 4: latency of HetConv and of its rivals': figure_latency,
}
