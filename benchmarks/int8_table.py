"""The table of docs/int8.md, from the rows in benchmarks/results: `python benchmarks/int8_table.py` writes it there.

A test holds the page to it.
"""

import json
from pathlib import Path

from readme_table import BEGIN, END, embed

ROOT = Path(__file__).parent.parent
PAGE = ROOT / 'docs' / 'int8.md'
ACCURACY = ROOT / 'benchmarks' / 'results' / 'int8_accuracy.json'

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
    return '\n'.join(lines)


if __name__ == '__main__':
    PAGE.write_text(embed(PAGE.read_text(), table()))
