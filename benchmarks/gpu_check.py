"""Everything that needs a GPU, at one go: `make gpu-check`. Checks, then a bench, then one report of both.

The checks are tests/gpu; what is missing there (a package, a driver) is a failure and not a reason to skip. Nothing is
timed when a check of a result has failed.
"""

import argparse
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from inference.rows import Run, write_text_atomically
from inference.summary import main_lines

ROOT = Path(__file__).parent.parent
MODELS = [f'hetconv_{arch}_p{part}' for arch in ('resnet34', 'vgg16') for part in (4, 8, 64)]
BATCHES = (1, 4, 16, 64, 256)


@dataclass
class Check:
    """One test: its name, 'passed', 'failed' or 'skipped', seconds, why, and what it recorded."""

    name: str
    outcome: str
    seconds: float
    why: str = ''
    recorded: dict[str, str] = field(default_factory=dict)


def read_checks(junit: Path) -> list[Check]:
    """What pytest's --junitxml has."""
    checks = []
    for case in ElementTree.parse(junit).iter('testcase'):
        outcome, why = 'passed', ''
        for kind, word in (('failure', 'failed'), ('error', 'failed'), ('skipped', 'skipped')):
            found = case.find(kind)
            if found is not None:
                outcome, why = word, ' '.join((found.get('message') or '').split())
        module = (case.get('classname') or '').split('.')[-1].removeprefix('test_gpu_')
        name = f'{module}: {(case.get("name") or "").removeprefix("test_").replace("_", " ")}'
        recorded = {p.get('name') or '': p.get('value') or '' for p in case.iter('property')}
        checks.append(Check(name, outcome, float(case.get('time') or 0), why, recorded))
    return checks


def write_report(path: Path, checks: list[Check], run: Run | None) -> None:
    """The report, in Markdown."""
    counts = {word: sum(check.outcome == word for check in checks) for word in ('passed', 'failed', 'skipped')}
    lines = ['# GPU check', '', ', '.join(f'{count} {word}' for word, count in counts.items()), '']
    if run is not None:
        lines += [f'- {key}: {value}' for key, value in run.environment.items()] + ['']
    lines += ['| check | outcome | s | recorded, or why not |', '|---|---|---:|---|']
    for check in checks:
        words = check.why[:300] or ', '.join(f'{key} {value}' for key, value in check.recorded.items())
        words = words.replace('|', '\\|')
        lines.append(f'| {check.name} | {check.outcome} | {check.seconds:.1f} | {words} |')
    if run is not None:
        lines += ['', '## Bench', '', *(f'- {line}' for line in main_lines(run.rows)), '']
        failed = [row for row in run.rows if row.status == 'failed']
        lines += [f'- {row.model} on {row.engine}, {row.precision}: {row.error}' for row in failed]
    else:
        lines += ['', 'No bench: a check has failed, and wrong results are not timed.']
    write_text_atomically(path, '\n'.join(lines) + '\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, default=Path('out/gpu-check'), help='folder for the report')
    parser.add_argument('--models', nargs='+', default=MODELS)
    parser.add_argument('--batches', nargs='+', type=int, default=BATCHES)
    parser.add_argument('--precisions', nargs='+', default=['fp16', 'fp32'])
    parser.add_argument('--rounds', type=int, default=10)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    junit, rows, report = (args.output / name for name in ('checks.xml', 'bench.json', 'report.md'))
    for old in (junit, rows, report):
        old.unlink(missing_ok=True)
    pytest = [sys.executable, '-m', 'pytest', str(ROOT / 'tests/gpu'), '-ra', f'--junitxml={junit}']
    subprocess.run(pytest, env={**os.environ, 'HETCONV_GPU_REQUIRED': '1'})
    if not junit.exists():
        print('gpu-check: the tests did not run to their end', file=sys.stderr)
        return 2
    checks, run = read_checks(junit), None
    right = bool(checks) and all(check.outcome != 'failed' for check in checks)
    if right:
        bench = [sys.executable, '-m', 'inference', 'bench', *args.models, '--device', 'cuda', '--layers']
        for option, values in (('--batch', args.batches), ('--precision', args.precisions)):
            bench += [word for value in values for word in (option, str(value))]
        bench += ['--rounds', str(args.rounds), '--json', str(rows), '--report', str(args.output / 'bench')]
        subprocess.run(bench)
        run = Run.load(rows) if rows.exists() else None
    write_report(report, checks, run)
    print(report)
    return 0 if right and run is not None else 1


if __name__ == '__main__':
    sys.exit(main())
