"""README's table, from the raw rows in benchmarks/results: `python benchmarks/readme_table.py` writes it there.

A test holds README to it, so that no figure there is from anywhere else.
"""

import sys
from pathlib import Path

from inference.report import read_accuracy
from inference.rows import Row, Run

ROOT = Path(__file__).parent.parent
RESULT = ROOT / 'benchmarks' / 'results' / 'cpu.json'
MAIN_JOB = ROOT / 'benchmarks' / 'results' / 'main_job.json'
BEGIN, END = '<!-- table: begin -->', '<!-- table: end -->'


def _shown(rows: list[Row]) -> list[Row]:
    """For every model and thread count the fastest row of other people's engines, and then that of our own."""
    best: dict[tuple[int, int, bool], Row] = {}
    models = list(dict.fromkeys(row.model for row in rows))
    for row in rows:
        key = (row.threads, models.index(row.model), row.own)
        if row.ms_median and (key not in best or row.ms_median < (best[key].ms_median or 0)):
            best[key] = row
    return [best[key] for key in sorted(best)]


def table(run: Run) -> str:
    """Markdown: the fastest engine of every model, other people's and our own, beside theory."""
    environment = run.environment
    lines = [
        '| model | threads | engine | ms | theory | measured | over direct engines | over any dense | realised |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in _shown(run.rows):
        dense = row.theory_flops == 1
        cells = [
            f'`{row.model}`',
            f'{row.threads}',
            f'**{row.engine}**' if row.own else f'{row.engine}, {row.lowering}',
            f'{row.ms_median:.1f}',
            'dense' if dense else f'{row.theory_flops:.2f}×',
            f'{row.measured_speedup:.2f}× ({row.baseline})',
            f'{row.measured_speedup_direct:.2f}× ({row.baseline_direct})',
            f'{row.measured_speedup_any:.2f}× of {row.theory_minimal:.2f}×',
            '' if dense else f'{row.realised:.0%}',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    versions = ', '.join(
        f'{name} {environment[name]}'
        for name in ('torch', 'onnxruntime', 'openvino', 'MNN', 'ncnn')
        if name in environment
    )
    lines += [
        '',
        f'{environment["cpu"]}, {environment["cores"]} cores ({", ".join(environment["isa"])}), fp32, batch '
        f'{run.settings["batch"]}, {run.settings["rounds"]} interleaved rounds, medians; {versions}; '
        f'{run.created[:10]}. '
        'Every row: [benchmarks/results/cpu.json](benchmarks/results/cpu.json).',
        '',
        "Trained by timm's train.py, exported, and run on real images, `{}`: {}. "
        '([benchmarks/results/main_job.json](benchmarks/results/main_job.json))'.format(*read_accuracy(MAIN_JOB)),
    ]
    return '\n'.join(lines)


def embed(readme: str, text: str) -> str:
    """README with the text between the marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f'{before}{BEGIN}\n{text}\n{END}{after}'


if __name__ == '__main__':
    path = ROOT / 'README.md'
    path.write_text(embed(path.read_text(), table(Run.load(sys.argv[1] if len(sys.argv) > 1 else RESULT))))
