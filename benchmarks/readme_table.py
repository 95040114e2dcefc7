"""README's table, from the raw rows in benchmarks/results: `python benchmarks/readme_table.py` writes it there.

A test holds README to it, so that no figure there is from anywhere else.
"""

import sys
from pathlib import Path

from inference.report import read_accuracy
from inference.rows import Row, Run
from inference.summary import ms_text, percent_text, times_text

ROOT = Path(__file__).parent.parent
RESULT = ROOT / 'benchmarks' / 'results' / 'cpu.json'
MAIN_JOB = ROOT / 'benchmarks' / 'results' / 'main_job.json'
BEGIN, END = '<!-- table: begin -->', '<!-- table: end -->'


def _pairs(rows: list[Row]) -> list[tuple[Row, Row | None]]:
    """For every thread count and model the fastest row of other people's engines, and that of our own."""
    best: dict[tuple[int, int], dict[bool, Row]] = {}
    models = list(dict.fromkeys(row.model for row in rows))
    for row in rows:
        those = best.setdefault((row.threads, models.index(row.model)), {})
        if row.ms_median and (row.own not in those or row.ms_median < (those[row.own].ms_median or 0)):
            those[row.own] = row
    return [(best[key][False], best[key].get(True)) for key in sorted(best)]


def table(run: Run) -> str:
    """Markdown: a line a model and thread count, the best of other people's engines beside our own, beside theory."""
    environment = run.environment
    lines = [
        '| model | threads | best of others, ms | × | **ort-cpu**, ms | × | over direct engines | theory | realised | '
        'over any dense | minimal |',
        '|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for other, own in _pairs(run.rows):
        shown = own or other
        dense = shown.theory_flops == 1
        cells = [
            f'`{other.model}`',
            f'{other.threads}',
            f'{ms_text(other.ms_median)} ({other.engine})',
            times_text(other.measured_speedup),
            f'**{ms_text(own.ms_median)}**' if own else '',
            f'**{times_text(own.measured_speedup)}**' if own else '',
            times_text(shown.measured_speedup_direct),
            'dense' if dense else times_text(shown.theory_flops),
            '' if dense else percent_text(shown.realised),
            '' if dense else times_text(shown.measured_speedup_any),
            '' if dense else times_text(shown.theory_minimal),
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
        f'{run.rows[0].batch}, {run.settings["rounds"]} interleaved rounds, medians; {versions}; '
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
