"""The table of docs/int8.md, from the rows in benchmarks/results: `python benchmarks/int8_table.py` writes it there.

A test holds the page to it.
"""

import json
from pathlib import Path

from readme_table import BEGIN, END, embed

from inference.rows import Run
from inference.summary import ms_text, times_text

ROOT = Path(__file__).parent.parent
PAGE = ROOT / 'docs' / 'int8.md'
ACCURACY = ROOT / 'benchmarks' / 'results' / 'int8_accuracy.json'
SPEED = ROOT / 'benchmarks' / 'results' / 'int8.json'

__all__ = ['BEGIN', 'END', 'PAGE', 'table']


def table() -> str:
    """Markdown: a line a calibration."""
    content = json.loads(ACCURACY.read_text())
    heads = (
        'model', 'preset', 'method', 'in float', 'images', 'top-1 in float', 'in INT8', 'on our kernels',
        'the same class', 'noisiest layer',
    )  # fmt: skip
    lines = [f'| {" | ".join(heads)} |', '|' + '---|' * len(heads)]
    for row in content['rows']:
        lines.append(
            f'| `{row["model"]}` | {row["preset"]} | {row["method"]} | {", ".join(row["float_layers"]) or "–"} '
            f'| {row["images"]:,} | {row["top1_float"]:.2f}% | {row["top1_int8"]:.2f}% '
            f'| {row["top1_kernels"]:.2f}% | {row["agreement"]:.2f}% '
            f'| {row["least_sqnr_db"]:.1f} dB |'
        )
    environment = content['environment']
    lines += [
        '',
        f'Ranges of {content["calibration_images"]} training images, all validation images; {environment["cpu"]}, '
        f'onnxruntime {environment["onnxruntime"]}, {content["date"]}. Rows: '
        '[benchmarks/results/int8_accuracy.json](../benchmarks/results/int8_accuracy.json).',
    ]
    return '\n'.join([*lines, '', *_speed()])


def _speed() -> list[str]:
    """Lines: a network's engines, a line each, P across; for each number of threads."""
    run = Run.load(SPEED)
    rows = {(row.threads, row.precision, row.engine, row.model): row for row in run.rows}
    models = sorted({row.model for row in run.rows}, key=lambda model: int(model.rpartition('_p')[2]))
    lines = [
        'ResNet-34 at 224×224, batch 1: milliseconds, and × over the fastest dense network in INT8 of another engine.',
        '',
        f'| threads | engine | {" | ".join("P = " + model.rpartition("_p")[2] for model in models)} |',
        '|---|---|' + '---|' * len(models),
    ]
    for threads, precision, engine in dict.fromkeys(key[:3] for key in rows):
        if precision == 'fp32' and engine != 'ort-cpu':
            continue
        dense = min(
            row.ms_median for row in run.rows if not row.own and row.theory_flops == 1
            and (row.threads, row.precision) == (threads, 'int8')
        )  # fmt: skip
        cells = [rows[threads, precision, engine, model].ms_median for model in models]
        texts = (f'{ms_text(ms)}, {times_text(dense / ms)}' for ms in cells)
        lines.append(f'| {threads} | {engine} {precision} | {" | ".join(texts)} |')
    lines += [
        '',
        'ONNX Runtime has Q/DQ here where its own tool places them. '
        f'{run.settings["rounds"]} interleaved rounds, medians; {run.environment["cpu"]}, onnxruntime '
        f'{run.environment["onnxruntime"]}, openvino {run.environment["openvino"]}, {run.created[:10]}. Rows: '
        '[benchmarks/results/int8.json](../benchmarks/results/int8.json), by `python benchmarks/cpu.py --int8`; '
        '[kernels.md](kernels.md#int8) says what bounds them.',
    ]
    return lines


if __name__ == '__main__':
    PAGE.write_text(embed(PAGE.read_text(), table()))
