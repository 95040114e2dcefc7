"""Charts of a bench run, as matplotlib figures on a transparent ground that read on light and dark pages."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .figures import KXK_COLOUR, ONE_COLOUR
from .rows import LayerRow, Row, Run
from .summary import best_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['PLOTS', 'plot_latency', 'plot_layers', 'plot_realised', 'plot_speedup']

# Okabe and Ito's palette, told apart by the colour-blind, in tones that stand out on white and on black.
_COLOURS = (KXK_COLOUR, ONE_COLOUR, '#2a9d6f', '#b3589a', '#8a8a8a', '#c9a227')
_FONT = 9


def _figure(width: float, height: float, columns: int = 1) -> tuple['Figure', list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    figure.patch.set_alpha(0)
    axes = list(figure.subplots(1, columns, squeeze=False, sharey=True)[0])
    for ax in axes:
        ax.patch.set_alpha(0)
        ax.spines[['top', 'right']].set_visible(False)
        ax.tick_params(labelsize=_FONT)
    return figure, axes


def _threads(rows: list[Any]) -> list[int]:
    return sorted({row.threads for row in rows})


def _label(threads: int) -> str:
    return f'{threads} thread{"s" if threads > 1 else ""}'


def _short(model: str) -> str:
    return model.removeprefix('hetconv_')


def _hetconv_rows(run: Run) -> list[Row]:
    return [row for row in run.rows if row.theory_flops not in (None, 1) and row.measured_speedup is not None]


def plot_speedup(run: Run) -> 'Figure | None':
    """Theory beside measurement: bars a model, a panel a thread count. None without a compared row."""
    rows = _hetconv_rows(run)
    models, threads = list(dict.fromkeys(row.model for row in rows)), _threads(rows)
    if not rows:
        return None
    bars = (
        ('theory, by FLOPs', 'theory_flops'),
        ('measured, over direct engines', 'measured_speedup_direct'),
        ('theory, minimal', 'theory_minimal'),
        ('measured, over the fastest dense engine', 'measured_speedup'),
    )
    figure, axes = _figure(max(6.0, 3.4 * len(threads)), 1.2 + 0.75 * len(models), len(threads))
    for ax, count in zip(axes, threads):
        for i, model in enumerate(models):
            best = best_row(row for row in rows if row.model == model and row.threads == count)
            if best is None:
                continue
            for j, (_, field) in enumerate(bars):
                value = getattr(best, field)
                if value is None:
                    continue
                ax.barh(i + 0.19 * (j - 1.5), value, 0.17, color=_COLOURS[j], alpha=0.55 if j % 2 == 0 else 1)
                ax.text(value, i + 0.19 * (j - 1.5), f' {value:.2f}×', va='center', fontsize=_FONT - 2)
        ax.axvline(1, linewidth=0.8, color='#8a8a8a')
        ax.set_title(_label(count), fontsize=_FONT)
        ax.set_yticks(range(len(models)), [_short(model) for model in models])
        ax.margins(x=0.14)
    axes[0].invert_yaxis()
    handles = [axes[0].barh(0, 0, color=_COLOURS[j], alpha=0.55 if j % 2 == 0 else 1) for j in range(len(bars))]
    figure.legend(
        handles, [name for name, _ in bars], loc='outside lower center', ncols=2, frameon=False, fontsize=_FONT - 1
    )
    return figure


def plot_realised(run: Run) -> 'Figure | None':
    """Realised share over P, a line an architecture and thread count. None without a P to show."""
    points: dict[tuple[str, int], dict[int, float]] = {}
    for row in _hetconv_rows(run):
        match = re.fullmatch(r'hetconv_(.+)_p(\d+)(_se)?', row.model)
        if match and row.realised is not None:
            line = points.setdefault((match[1] + (match[3] or ''), row.threads), {})
            line[int(match[2])] = max(line.get(int(match[2]), 0.0), row.realised)
    if not points:
        return None
    figure, (ax,) = _figure(6.0, 3.0)
    for i, ((arch, threads), line) in enumerate(points.items()):
        parts = sorted(line)
        ax.plot(
            parts, [100 * line[p] for p in parts], color=_COLOURS[i % len(_COLOURS)], marker='os^Dv'[threads % 5],
            label=f'{arch}, {_label(threads)}', linewidth=1.5, markersize=5,
        )  # fmt: skip
    parts = sorted({p for line in points.values() for p in line})
    ax.set_xscale('log', base=2)
    ax.set_xticks(parts, [str(p) for p in parts])
    ax.minorticks_off()
    ax.axhline(100, linewidth=0.8, color='#8a8a8a')
    ax.set_ylim(0, max(105.0, *(105 * value for line in points.values() for value in line.values())))
    ax.set_xlabel('P', fontsize=_FONT)
    ax.set_ylabel('realised, %', fontsize=_FONT)
    ax.legend(frameon=False, fontsize=_FONT - 1)
    return figure


def plot_latency(run: Run) -> 'Figure | None':
    """Milliseconds of every model on every engine, a panel a thread count. None without a timed row."""
    rows = [row for row in run.rows if row.ms_median is not None]
    if not rows:
        return None
    threads, engines = _threads(rows), list(dict.fromkeys(row.engine for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    figure, axes = _figure(
        max(6.0, 3.4 * len(threads)), 1.2 + 0.28 * len(engines) * max(1, len(models) / 2), len(threads)
    )
    height = 0.8 / len(models)
    for ax, count in zip(axes, threads):
        for row in rows:
            if row.threads != count or row.ms_median is None or row.ms_p20 is None or row.ms_p80 is None:
                continue
            i = models.index(row.model)
            y = engines.index(row.engine) + height * (i - (len(models) - 1) / 2)
            spread = [[row.ms_median - row.ms_p20], [row.ms_p80 - row.ms_median]]
            ax.barh(y, row.ms_median, 0.9 * height, color=_COLOURS[i % len(_COLOURS)], xerr=spread, ecolor='#8a8a8a')
        ax.set_title(_label(count), fontsize=_FONT)
        ax.set_yticks(range(len(engines)), engines)
        ax.set_xlabel('ms', fontsize=_FONT)
    axes[0].invert_yaxis()
    handles = [axes[0].barh(0, 0, color=_COLOURS[i % len(_COLOURS)]) for i in range(len(models))]
    figure.legend(
        handles, [_short(m) for m in models], loc='outside lower center', ncols=min(3, len(models)), frameon=False,
        fontsize=_FONT - 1,
    )  # fmt: skip
    return figure


def _shape_label(row: LayerRow) -> str:
    shape = row.shape
    stride = '' if max(shape['stride']) == 1 else f' /{shape["stride"][0]}'
    return f'{shape["in_channels"]}→{shape["out_channels"]}, {shape["input"][0]}²{stride}, P={shape["part"]}'


def plot_layers(run: Run) -> 'Figure | None':
    """Realised share of each layer shape on its fastest engine, a panel a thread count. None without layers."""
    rows = [row for row in run.layers if row.theory_flops not in (None, 1) and row.realised is not None]
    if not rows:
        return None
    labels, threads = list(dict.fromkeys(_shape_label(row) for row in rows)), _threads(rows)
    figure, axes = _figure(max(6.0, 3.4 * len(threads)), 1.0 + 0.26 * len(labels), len(threads))
    for ax, count in zip(axes, threads):
        for i, label in enumerate(labels):
            shares = [row.realised or 0.0 for row in rows if row.threads == count and _shape_label(row) == label]
            if shares:
                ax.barh(i, 100 * max(shares), 0.7, color=_COLOURS[0])
                ax.text(100 * max(shares), i, f' {max(shares):.0%}', va='center', fontsize=_FONT - 2)
        ax.axvline(100, linewidth=0.8, color='#8a8a8a')
        ax.set_title(_label(count), fontsize=_FONT)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_xlabel('realised, %', fontsize=_FONT)
        ax.margins(x=0.12)
    axes[0].invert_yaxis()
    return figure


# Name of the picture file, caption, and the function that draws it.
PLOTS: tuple[tuple[str, str, Callable[[Run], 'Figure | None']], ...] = (
    ('speedup', 'Theory beside measurement, each model on its fastest engine', plot_speedup),
    ('realised', 'Realised share of the promise over P, fastest engine', plot_realised),
    ('latency', 'Milliseconds an inference by engine, median with the 20 and 80 % quantiles', plot_latency),
    ('layers', 'Realised share by layer shape, fastest engine', plot_layers),
)
