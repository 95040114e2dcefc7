"""Charts of a bench run: matplotlib figures on a transparent ground that read on light and dark pages.

A chart is a list of panels, one a setting (threads, batch, precision), each narrow enough for a phone. Panels of one
chart share their scale.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .figures import INK, KXK_COLOUR, ONE_COLOUR
from .rows import LayerRow, Row, Run
from .summary import best_row, is_dense, layer_text, percent_text, setting_of, setting_text, times_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['PLOTS', 'plot_latency', 'plot_layers', 'plot_realised', 'plot_speedup']

# After Okabe and Ito, in tones that keep a contrast of 3 with white and with black pages; shapes tell them apart too.
COLOURS = (KXK_COLOUR, ONE_COLOUR, '#23926a', '#b3589a', '#808080', '#a07d00', '#1c93b8', '#cf4a4a')
MARKERS = 'osD^vP*X'
MUTED = '#808080'
_FONT, _SMALL = 9.5, 8.5
_WIDTH = 4.6
# Characters that fit a panel, and an entry of its legend.
_LONG, _SHORT = 48, 22


def panel(height: float, title: str, legend: bool) -> tuple['Figure', Any]:
    """An empty panel; heights are inches of the plotting area."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height + 0.75 + 0.3 * legend), facecolor='none', layout='constrained')
    ax = figure.subplots()
    ax.set_facecolor('none')
    ax.set_title(_text(title, _LONG), loc='left', fontsize=_FONT, fontweight='bold', color=INK)
    ax.spines[['top', 'right', 'left']].set_visible(False)
    ax.spines['bottom'].set_color(MUTED)
    ax.tick_params(labelsize=_SMALL, color=MUTED, labelcolor=INK)
    ax.tick_params(axis='y', length=0)
    return figure, ax


def legend(figure: 'Figure', handles: list[Any], names: Iterable[str], columns: int = 4) -> None:
    figure.legend(
        handles, [_text(name, _SHORT) for name in names], loc='outside lower left', ncols=columns, frameon=False,
        fontsize=_SMALL, labelcolor=INK, handlelength=1.2, columnspacing=1.2, handletextpad=0.5, borderpad=0,
    )  # fmt: skip


def _text(text: str, length: int) -> str:
    """At most so many characters, cut in the middle since names differ at their end; never read as a formula."""
    text = ' '.join(text.split())
    if len(text) > length:
        text = f'{text[: length - length // 3 - 1]}…{text[-(length // 3) :]}'
    # A leading underscore would hide a legend's entry.
    return re.sub(r'^_', '\u200b_', text.replace('$', r'\$'))


def _names(ax: Any, models: list[str], band: float) -> None:
    """Each name above its own band, where a long one has room, instead of beside the axis."""
    ax.set_yticks([])
    for i, model in enumerate(models):
        name = _text(model.removeprefix('hetconv_'), _LONG)
        place = dict(xytext=(0, 0), textcoords='offset points', xycoords=('axes fraction', 'data'))
        ax.annotate(name, (0, i - band), **place, fontsize=_FONT, color=INK, va='bottom')
    ax.set_ylim(len(models) - 0.5, -0.6)


def _settings(rows: Iterable[Any]) -> list[tuple[int, int, str]]:
    return sorted({setting_of(row) for row in rows})


def _compared(run: Run) -> list[Row]:
    """The timed rows of models that promise something."""
    return [row for row in run.rows if row.theory_flops and not is_dense(row) and row.measured_speedup is not None]


def plot_speedup(run: Run) -> list['Figure']:
    """Theory beside measurement: four bars a model, of its row with the highest measured speed-up."""
    rows = _compared(run)
    # A promise in a pale tone, then what came of it in the full one.
    bars = (
        ('theory', 'theory_flops', 0, 0.55),
        ('direct', 'measured_speedup_direct', 0, 1),
        ('minimal', 'theory_minimal', 1, 0.55),
        ('measured', 'measured_speedup', 1, 1),
    )
    longest = max((getattr(row, field) or 0 for row in rows for _, field, _, _ in bars), default=0)
    figures = []
    for setting in _settings(rows):
        here = [row for row in rows if setting_of(row) == setting]
        models = list(dict.fromkeys(row.model for row in here))
        figure, ax = panel(0.85 * len(models), setting_text(setting), legend=True)
        for i, model in enumerate(models):
            ax.plot([1, 1], [i - 0.26, i + 0.42], linewidth=0.8, color=MUTED, zorder=0)
            best = best_row(row for row in here if row.model == model)
            for j, (_, field, colour, alpha) in enumerate(bars):
                value, y = getattr(best, field), i - 0.17 + 0.17 * j
                if value is not None:
                    ax.barh(y, value, 0.15, color=COLOURS[colour], alpha=alpha)
                    ax.text(value, y, f' {times_text(value)}', va='center', fontsize=_SMALL - 1, color=INK)
        _names(ax, models, band=0.27)
        ax.set_xlim(0, 1.15 * longest)
        ax.set_xlabel('speed-up over the dense twin', fontsize=_SMALL, color=INK)
        handles = [ax.barh(0, 0, color=COLOURS[colour], alpha=alpha) for _, _, colour, alpha in bars]
        legend(figure, handles, [name for name, *_ in bars])
        figures.append(figure)
    return figures


def plot_realised(run: Run) -> list['Figure']:
    """Realised share over P: a line an architecture, of the row with the highest measured speed-up."""
    lines: dict[Any, dict[str, dict[int, float]]] = {}
    for row in _compared(run):
        match = re.fullmatch(r'(?:hetconv_)?(.+)_p(\d+)(_se)?', row.model)
        if match and row.realised is not None and int(match[2]) > 0:
            line = lines.setdefault(setting_of(row), {}).setdefault(match[1] + (match[3] or ''), {})
            line[int(match[2])] = max(line.get(int(match[2]), 0.0), row.realised)
    archs = list(dict.fromkeys(arch for by_arch in lines.values() for arch in by_arch))
    points = [(part, share) for by in lines.values() for line in by.values() for part, share in line.items()]
    parts = sorted({part for part, _ in points})
    figures = []
    for setting, by_arch in sorted(lines.items()):
        figure, ax = panel(2.4, setting_text(setting), legend=True)
        ax.grid(axis='y', color=MUTED, alpha=0.3, linewidth=0.6)
        ax.axhline(100, linewidth=0.8, color=MUTED, zorder=0)
        for arch, line in by_arch.items():
            i, x = archs.index(arch), sorted(line)
            ax.plot(
                x, [100 * line[part] for part in x], color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)], linewidth=1.4, markersize=5, label=arch,
            )  # fmt: skip
        ax.set_xscale('log', base=2)
        ax.set_xticks(parts, [str(part) for part in parts])
        ax.minorticks_off()
        ax.set_xlim(parts[0] / 1.3, parts[-1] * 1.3)
        ax.set_ylim(0, max(108.0, *(108 * share for _, share in points)))
        ax.set_xlabel('P', fontsize=_SMALL, color=INK)
        ax.set_ylabel('realised, %', fontsize=_SMALL, color=INK)
        legend(figure, ax.get_lines()[1:], list(by_arch), columns=2)
        figures.append(figure)
    return figures


def plot_latency(run: Run) -> list['Figure']:
    """Milliseconds: a dot an engine in the band of its model, with the quantiles as a line through it."""
    rows = [row for row in run.rows if row.ms_median]
    lowerings: dict[str, set[str]] = {}
    for row in rows:
        lowerings.setdefault(row.engine, set()).add(row.lowering)

    def name(row: Row) -> str:
        return row.engine if len(lowerings[row.engine]) == 1 else f'{row.engine}, {row.lowering}'

    names = list(dict.fromkeys(map(name, rows)))
    lowest = min((row.ms_p20 or row.ms_median or 0 for row in rows), default=0)
    highest = max((row.ms_p80 or row.ms_median or 0 for row in rows), default=0)
    figures = []
    for setting in _settings(rows):
        here = [row for row in rows if setting_of(row) == setting]
        models = list(dict.fromkeys(row.model for row in here))
        figure, ax = panel((0.3 + 0.11 * len(names)) * len(models), setting_text(setting), legend=True)
        ax.grid(axis='x', color=MUTED, alpha=0.3, linewidth=0.6)
        for i in range(1, len(models)):
            ax.axhline(i - 0.53, color=MUTED, alpha=0.3, linewidth=0.6)
        share = 0.62 / len(names)
        for row in here:
            j = names.index(name(row))
            y, colour = models.index(row.model) - 0.2 + share * (j + 0.5), COLOURS[j % len(COLOURS)]
            ax.plot([row.ms_p20 or row.ms_median, row.ms_p80 or row.ms_median], [y, y], color=colour, linewidth=1.4)
            marker = MARKERS[(j + j // len(COLOURS)) % len(MARKERS)]
            ax.plot([row.ms_median], [y], color=colour, marker=marker, markersize=4.5, linestyle='none')
        _names(ax, models, band=0.22)
        _scale(ax, lowest, highest)
        ax.set_xlabel('ms', fontsize=_SMALL, color=INK)
        styles = [(COLOURS[j % len(COLOURS)], MARKERS[(j + j // len(COLOURS)) % len(MARKERS)])
                  for j in range(len(names))]  # fmt: skip
        handles = [ax.plot([], [], color=c, marker=m, markersize=4.5, linestyle='none')[0] for c, m in styles]
        legend(figure, handles, names, columns=3)
        figures.append(figure)
    return figures


def _scale(ax: Any, lowest: float, highest: float) -> None:
    """From zero where that shows the differences, else logarithmic with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if highest <= 8 * lowest:
        ax.set_xlim(0, 1.06 * highest)
        return
    ax.set_xscale('log')
    ax.set_xlim(lowest / 1.2, highest * 1.2)
    subs = (1.0, 2.0, 5.0) if highest < 300 * lowest else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))


def plot_layers(run: Run) -> list['Figure']:
    """Realised share of each layer shape on its fastest engine: a panel a model and setting."""
    rows = [row for row in run.layers if row.theory_flops and not is_dense(row) and row.realised is not None]
    panels: dict[Any, list[LayerRow]] = {}
    for row in rows:
        panels.setdefault((setting_of(row), row.model), []).append(row)
    longest = max([1.0, *(row.realised or 0 for row in rows)])
    figures = []
    for (setting, model), here in sorted(panels.items()):
        shapes = list(dict.fromkeys(map(layer_text, here)))
        figure, ax = panel(0.4 * len(shapes), f'{model.removeprefix("hetconv_")}, {setting_text(setting)}', False)
        ax.axvline(100, linewidth=0.8, color=MUTED, zorder=0)
        for i, shape in enumerate(shapes):
            share = max(row.realised or 0 for row in here if layer_text(row) == shape)
            ax.barh(i + 0.12, 100 * share, 0.44, color=COLOURS[0])
            ax.text(100 * share, i + 0.12, f' {percent_text(share)}', va='center', fontsize=_SMALL - 1, color=INK)
        _names(ax, shapes, band=0.12)
        ax.set_xlim(0, 115 * longest)
        ax.set_xlabel('realised, %', fontsize=_SMALL, color=INK)
        figures.append(figure)
    return figures


# Name for files and ids, caption, and the function that draws the panels.
PLOTS: tuple[tuple[str, str, Callable[[Run], list['Figure']]], ...] = (
    ('speedup', 'Theory beside measurement, each model on the engine where it gains most', plot_speedup),
    ('realised', 'Realised share of the promise over P, on the engine where it is highest', plot_realised),
    ('latency', 'Milliseconds a batch by engine: median, and the 20 and 80% quantiles', plot_latency),
    ('layers', 'Realised share by layer shape, on the engine where it is highest', plot_layers),
)
