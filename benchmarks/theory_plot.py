"""docs/theory.svg: multiplies a weight pair and pixel over P, counted by `timm_hetconv.count`.

python benchmarks/theory_plot.py [-o docs/theory.svg]
"""

import argparse
from pathlib import Path

from torch import nn

from timm_hetconv import HetConv2d, count

CHANNELS = 64
PARTS = (1, 2, 4, 8, 16, 32, 64)
OUTPUT = Path(__file__).parent.parent / 'docs' / 'theory.svg'


def multiplies(part: int) -> tuple[float, float]:
    """Of one layer, a weight pair and output pixel: directly, and with Winograd's F(4x4,3x3) on its 3x3 kernels."""
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False) if part == 1 else HetConv2d(
        CHANNELS, CHANNELS, part=part, bias=False
    )  # fmt: skip
    cost = count(layer, (CHANNELS, 56, 56))
    pairs = CHANNELS * CHANNELS * 56 * 56
    return cost.macs / pairs, cost.minimal_multiplies / pairs


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use('svg')
    matplotlib.rcParams['svg.hashsalt'] = 'timm-hetconv'  # the same picture gives the same bytes
    import matplotlib.pyplot as plt

    direct, winograd = zip(*map(multiplies, PARTS))
    figure, ax = plt.subplots(figsize=(6.4, 3.6), layout='constrained', facecolor='white')
    for values, name, colour, marker in ((direct, 'direct', '#2f76c9', 'o'), (winograd, 'Winograd', '#c06014', 's')):
        ax.plot(PARTS[1:], values[1:], color=colour, marker=marker, markersize=5, label=f'HetConv, {name}')
        ax.axhline(values[0], color=colour, linestyle='--', linewidth=1, label=f'dense, {name}: {values[0]:g}')
        for part, value in zip(PARTS[1:], values[1:]):
            above = name == 'direct'
            ax.annotate(
                f'{value:.2f}', (part, value), xytext=(0, 7 if above else -14), textcoords='offset points', ha='center',
                fontsize=8,
            )  # fmt: skip
    ax.set_xscale('log', base=2)
    ax.set_xticks(PARTS[1:], [str(part) for part in PARTS[1:]])
    ax.set_ylim(0, 9.8)
    ax.set_xlabel('P')
    ax.set_ylabel('multiplies a weight pair and pixel')
    ax.legend(frameon=False, fontsize=8)
    ax.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, metadata={'Date': None})


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-o', '--output', type=Path, default=OUTPUT)
    draw(parser.parse_args().output)
