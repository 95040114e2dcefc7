"""Top-1 over multiply-accumulates: HetConv, its rivals and pruned networks, every seed a dot."""

import statistics
from collections.abc import Sequence
from typing import Any

from ..figures import INK, KXK_COLOUR, ONE_COLOUR, stand_alone, to_svg
from ..plots import legend, panel
from .summary import Group, Row

__all__ = ['plot_accuracy']

_KINDS = {  # colour, marker, name
    'hetconv': (KXK_COLOUR, 'o', 'HetConv'),
    'se': ('#23926a', 's', 'HetConv with SE'),
    'rival': ('#b3589a', 'D', 'rivals'),
    'pruned': ('#808080', '^', 'pruned'),
}


def _kind(row: Row) -> str:
    if row.conv.endswith('_se'):
        return 'se'
    return 'hetconv' if row.kind in ('dense', 'hetconv') or row.conv == 'pc' else row.kind


def plot_accuracy(groups: Sequence[Group]) -> bytes:
    """An SVG of one panel: the group with most rows.

    Args:
        groups: Of `summary.groups`; at least one.
    """
    group = max(groups, key=lambda group: len(group.rows))
    figure, ax = panel(2.6, f'{group.arch}, {group.epochs} epochs, {group.data}', True)
    handles, names = [], []
    far = _far(group.rows)
    shown = [row for row in group.rows if row not in far]
    for kind, (colour, marker, name) in _KINDS.items():
        rows = [row for row in shown if _kind(row) == kind]
        if not rows:
            continue
        for row in rows:
            ax.plot([row.macs / 1e6] * len(row.top1), row.top1, '.', color=colour, markersize=3, alpha=0.7)
        line = '-' if kind in ('hetconv', 'se') else 'none'
        handles += ax.plot(
            [row.macs / 1e6 for row in rows],
            [row.mean for row in rows],
            linestyle=line,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1,
        )
        names.append(name)
    ax.set_xscale('log')
    ax.set_xlabel('million multiply-accumulates', fontsize=8.5, color=INK)
    ax.set_ylabel('top-1, %', fontsize=8.5, color=INK)
    ax.xaxis.set_major_formatter('{x:g}')
    ax.xaxis.set_minor_formatter('{x:g}')
    ax.tick_params(axis='x', which='minor', labelsize=8.5, color=INK, labelcolor=INK)
    ax.grid(axis='y', color=ONE_COLOUR, alpha=0.15)
    ax.margins(x=0.1, y=0.12)
    _label(ax, shown)
    for i, row in enumerate(far):  # at the edge, with its number
        words = f'↓ {row.conv} {row.mean:.2f}'
        place = dict(xycoords=('data', 'axes fraction'), textcoords='offset points', fontsize=7)
        ax.annotate(words, (row.macs / 1e6, 0), (4, 4 + 9 * i), color=_KINDS[_kind(row)][0], **place)
    legend(figure, handles, names, columns=2)
    return stand_alone(to_svg(figure)).encode()


def _far(rows: Sequence[Row]) -> list[Row]:
    """Those that would press the others into a line: twice as far below the middle as the best is above it, or more."""
    order = sorted(rows, key=lambda row: row.mean, reverse=True)
    if not order:
        return []
    middle = statistics.median(row.mean for row in order)
    above = order[0].mean - middle
    return [row for row in order if 0 < 2 * above < middle - row.mean]


def _label(ax: Any, rows: Sequence[Row]) -> None:
    """Names above their marks, or below them where another name is there already."""
    taken: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: -row.mean):
        place = row.macs / 1e6, row.mean
        x, y = ax.transData.transform(place) * 72 / ax.figure.dpi
        beside = any(abs(x - other) < 30 and abs(y - height) < 8 for other, height in taken)
        taken.append((x, y - 14 * beside))
        offset = (4, -10) if beside else (4, 4)
        name = row.conv.removesuffix('_se')
        ax.annotate(name, place, offset, textcoords='offset points', fontsize=7, color=_KINDS[_kind(row)][0])
