"""The table of docs/int8.md, from the rows in benchmarks/results: `python benchmarks/int8_table.py` writes it there.

A test holds the page to it.
"""

import json
from pathlib import Path

from readme_table import BEGIN, END, embed

ROOT = Path(__file__).parent.parent
PAGE = ROOT / 'docs' / 'int8.md'
ACCURACY = ROOT / 'benchmarks' / 'results' / 'int8_accuracy.json'
SPEED = ROOT / 'benchmarks' / 'results' / 'kernels_int8.json'

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
    """Lines: ResNet-34, an engine a line, P across."""
    content = json.loads(SPEED.read_text())
    rows = [row for row in content['networks'] if row['threads'] == 1]
    parts = sorted({row['part'] for row in rows})
    lines = [
        'ResNet-34 at 224×224, batch 1, one thread: milliseconds, and × over the fastest dense INT8 of another engine.',
        '',
        f'| engine | {" | ".join(f"P = {part}" for part in parts)} |',
        '|---|' + '---|' * len(parts),
    ]
    for engine in dict.fromkeys(row['engine'] for row in rows):
        cells = {row['part']: row for row in rows if row['engine'] == engine}
        texts = (f'{cells[part]["ms"]:.1f}, {cells[part]["over_dense_int8"]:.2f}×' for part in parts)
        lines.append(f'| {engine} | {" | ".join(texts)} |')
    lines += [
        '',
        'ONNX Runtime takes Q/DQ placed so mostly in float32 (see above). '
        f'Medians of interleaved rounds; {content["environment"]["cpu"]}. Rows: '
        '[benchmarks/results/kernels_int8.json](../benchmarks/results/kernels_int8.json), by '
        '`python benchmarks/kernels_int8.py`; [kernels.md](kernels.md#int8) says what bounds them.',
    ]
    return lines


if __name__ == '__main__':
    PAGE.write_text(embed(PAGE.read_text(), table()))
