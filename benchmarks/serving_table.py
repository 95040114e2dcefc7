"""The table of docs/serving.md, from the raw rows in benchmarks/results; this script writes it there.

A test holds the page to it, so that no figure there is from anywhere else.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from readme_table import embed

from inference.figures import stand_alone, to_svg
from inference.serving.loadtest import Plan, results
from inference.summary import ms_text, times_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RESULT = ROOT / 'benchmarks' / 'results' / 'serving.json'
SOAK = ROOT / 'benchmarks' / 'results' / 'serving_soak.json'
OVERHEAD = ROOT / 'benchmarks' / 'results' / 'serving_overhead.json'
PAGE = ROOT / 'docs' / 'serving.md'
PICTURE = ROOT / 'docs' / 'serving.svg'


def table(result: dict[str, Any], soak: dict[str, Any], overhead: dict[str, Any]) -> str:
    """Markdown: a column a model, a line a way of loading the server; then its overhead, and its memory.

    Args:
        result: Of serving.py.
        soak: Of serving_soak.py.
        overhead: Of serving_overhead.py.
    """
    settings, models = result['settings'], result['models']
    p99 = f'p99 within {settings["p99_ms"]:g} ms'
    closed = {r.model: r for r in results(result['closed_loop'], Plan(tuple(models), clients=1))}
    bound = {r.model: r for r in results(result['p99_bound'], Plan(tuple(models), p99_ms=settings['p99_ms']))}
    rates = {
        f'{2 * settings["instances"]} clients that wait': {name: closed[name].throughput for name in models},
        f'requests at random times, {p99}': {name: bound[name].throughput for name in models},
        'LoadGen, Offline': {name: loadgen_of(result['loadgen'], name, 'Offline') for name in models},
        f'LoadGen, Server, {p99}': {name: loadgen_of(result['loadgen'], name, 'Server') for name in models},
    }
    first, *_ = models
    heads = [f'`{model["model"]}` on {model["engine"]}' for model in models.values()]
    lines = [f'| images a second | {" | ".join(heads)} |', f'|{"---|" * (len(heads) + 1)}']
    for words, values in rates.items():
        if words.startswith('LoadGen') and not result['loadgen']:  # it was not installed
            continue
        cells = [_rate(values[name], values[first] if name != first else None) for name in models]
        if words.startswith('LoadGen, Server'):
            cells = [cell or _invalid(result['loadgen'], name) for cell, name in zip(cells, models)]
        lines.append(f'| {words} | {" | ".join(cells)} |')
    macs = {name: closed[name].macs for name in models}
    theory = [times_text(macs[first] / macs[name]) if macs[name] != macs[first] else 'dense' for name in models]
    lines += [
        f'| theory, by FLOPs | {" | ".join(theory)} |',
        '',
        _how(result),
        '',
        *_overhead(overhead),
        '',
        _soaked(soak),
    ]
    return '\n'.join(lines)


def _rate(value: float | None, base: float | None) -> str:
    if not value:
        return ''
    return f'{value:.1f}' + (f' (**{times_text(value / base)}**)' if base else '')


def _invalid(rows: list[dict[str, Any]], name: str) -> str:
    """The lowest rate that was tried; LoadGen wants more than a p99 within the bound, a sample that is large enough."""
    tried = [row for row in rows if row['model'] == name and row['scenario'] == 'Server']
    if not tried:
        return ''
    lowest = min(tried, key=lambda row: row['target_qps'])
    return f'none valid, down to {lowest["target_qps"]:.1f} with a p99 of {lowest["p99_ms"]:.0f} ms'


def _how(result: dict[str, Any]) -> str:
    environment, settings = result['environment'], result['settings']
    starts = sorted(result['cold_start_seconds'])
    return (
        f'{environment["cpu"]}, {environment["cores"]} cores, which the sender of the requests shares; Triton '
        f'{settings["triton"]}, onnxruntime {environment["onnxruntime"]}; {settings["instances"]} runs at a time of '
        f'{settings["threads"]} thread, JPEGs of {settings["image"][0]} x {settings["image"][1]}, fp32, batch 1; loads '
        f'of {settings["seconds"]:g} s in turns. All {len(result["models"])} models were ready '
        f'{statistics.median(starts):.1f} s after the command ({starts[0]:.1f} to {starts[-1]:.1f} s, {len(starts)} '
        'starts). Every load with its histogram: '
        '[benchmarks/results/serving.json](../benchmarks/results/serving.json).'
    )


def _overhead(result: dict[str, Any]) -> list[str]:
    """What a request takes, and what of it the server adds: a line for what is sent to whom, a column a client."""
    rows, settings = result['rows'], result['settings']
    clients = {'socket': 'HTTP, a bare socket', 'http': 'HTTP, tritonclient', 'grpc': 'gRPC, tritonclient'}
    names = {'nothing': 'a model that does nothing', 'onnxruntime': f'`{settings["dense"]}` on onnxruntime'}
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        engine = names.get(row['engine'], f'`{settings["model"]}` on {row["engine"]}')
        given = {'image': 'an image', 'tensor': 'a tensor'}[row['given']] + ' in shared memory' * row['shared_memory']
        kinds.setdefault(f'{given} to {engine}', {})[row['client']] = row
    lines = [
        f'| ms | one request | the server adds: {" | ".join(clients.values())} |',
        f'|{"---|" * (len(clients) + 2)}',
    ]
    for words, cells in kinds.items():
        over = [f'{cells[client]["overhead_ms"]:.1f}' for client in clients]
        lines.append(f'| {words} | {ms_text(cells["socket"]["served_ms"])} | {" | ".join(over)} |')
    alone = {
        given: ms_text(
            statistics.median(
                base
                for row in rows
                if row['given'] == given and row['engine'] != 'onnxruntime'
                for base, _ in row['pairs_ms']
            )
        )
        for given in ('image', 'tensor')
    }
    return [
        *lines,
        '',
        f'`{settings["model"]}` takes {alone["tensor"]} ms by itself and {alone["image"]} with preparation and labels; '
        f'medians of {settings["starts"] * settings["rounds"]} pairs of a request and the same work in one process, '
        f'over {settings["starts"]} starts of the server, {settings["threads"]} thread, JPEGs of '
        f'{settings["image"][0]} x {settings["image"][1]}, Triton {settings["triton"]}. Pairs: '
        '[benchmarks/results/serving_overhead.json](../benchmarks/results/serving_overhead.json).',
    ]


def _soaked(soak: dict[str, Any]) -> str:
    load = soak['load']
    return (
        f'After {load["seconds"] / 60:.0f} minutes at {soak["rate"]:.0f} requests a second, one in ten of them no '
        f"image, the server's memory was at most {soak['growth']:.1%} above that after the first minute; "
        f'{load["answered"]:,} requests were answered, {sum(load["errors"].values()):,} with what is wrong with the '
        f'image, and {load["refused"]:,} were refused (`{soak["model"]}`, '
        '[samples](../benchmarks/results/serving_soak.json)).'
    )


def plot(result: dict[str, Any]) -> 'Figure':
    """The 99th percentile over the rate: each load a mark, a line through the medians."""
    from inference.figures import INK
    from inference.plots import COLOURS, MARKERS, MUTED, legend, panel

    figure, ax = panel(2.6, 'p99 of requests at random times', legend=True)
    handles, names = [], []
    for (name, model), colour, marker in zip(result['models'].items(), COLOURS, MARKERS):
        loads = [row for row in result['p99_bound'] if row['model'] == name and row['p99_ms']]
        rates = sorted({row['rate'] for row in loads})
        medians = [statistics.median(row['p99_ms'] for row in loads if row['rate'] == rate) for rate in rates]
        ax.plot(
            [row['rate'] for row in loads],
            [row['p99_ms'] for row in loads],
            marker,
            color=colour,
            markersize=4,
            alpha=0.5,
        )
        handles += ax.plot(rates, medians, marker=marker, color=colour, markersize=5, linewidth=1.2)
        names.append(f'{model["model"].rpartition("_")[2]} {model["engine"]}')
    ax.axhline(result['settings']['p99_ms'], color=MUTED, linewidth=1, linestyle='--')
    ax.set_yscale('log')
    ax.set_yticks([50, 100, 200, 500, 1000], ['50', '100', '200', '500', '1000'])
    ax.minorticks_off()
    ax.set_xlim(left=0)
    ax.set_xlabel('requests a second', color=INK, fontsize=8.5)
    ax.set_ylabel('ms', color=INK, fontsize=8.5)
    legend(figure, handles, names, columns=2)
    return figure


def loadgen_of(rows: list[dict[str, Any]], name: str, scenario: str) -> float | None:
    """Of a valid run, samples a second."""
    values = [
        row['samples_per_second']
        for row in rows
        if (row['model'], row['scenario']) == (name, scenario) and row['valid']
    ]
    return values[-1] if values else None


def main() -> int:
    text = table(*(json.loads(path.read_text()) for path in (RESULT, SOAK, OVERHEAD)))
    PAGE.write_text(embed(PAGE.read_text(), text))
    PICTURE.write_text(stand_alone(to_svg(plot(json.loads(RESULT.read_text())))))
    print(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
