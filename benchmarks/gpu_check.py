"""Everything that needs a GPU, at one go: `make gpu-check`. Checks, then a bench, then one report of both.

The checks are tests/gpu; what is missing there (a package, a driver) is a failure and not a reason to skip. Nothing is
timed when a check of a result has failed; a package that is missing is told, and the rest goes on.
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
RESNET, VGG = [f'hetconv_resnet34_p{part}' for part in (4, 8, 64)], ['hetconv_vgg16_p4']
TENSORRT = ['--engine', 'tensorrt', '--engine', 'tensorrt-portable']
# What a check says that could not begin: a package or its libraries are not there, or are for another version.
MISSING = ('is not installed', 'could not load', 'needs onnxruntime with')
# What is measured: the ladder of batches on TensorRT with the plugin and without, and every engine at two batches. Name
# -> arguments of `hetconv bench`. Layers are left to `hetconv profile`: alone in an engine one is bound by conversions.
BENCHES = {
    'ladder': [*RESNET, *VGG, *TENSORRT, *(word for size in (1, 4, 16, 64, 256) for word in ('--batch', str(size)))],
    'peers': [*RESNET[:2], '--batch', '1', '--batch', '64'],
}


@dataclass
class Check:
    """One test: its name, 'passed', 'failed', 'missing' (a package), 'skipped', seconds, why, and what it recorded."""

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
                why = ' '.join((found.get('message') or '').split())
                outcome = 'missing' if word == 'failed' and any(words in why for words in MISSING) else word
        module = (case.get('classname') or '').split('.')[-1].removeprefix('test_gpu_')
        name = f'{module}: {(case.get("name") or "").removeprefix("test_").replace("_", " ")}'
        recorded = {p.get('name') or '': p.get('value') or '' for p in case.iter('property')}
        checks.append(Check(name, outcome, float(case.get('time') or 0), why, recorded))
    return checks


def write_report(path: Path, checks: list[Check], runs: dict[str, Run]) -> None:
    """The report, in Markdown."""
    counts = {
        word: sum(check.outcome == word for check in checks) for word in ('passed', 'failed', 'missing', 'skipped')
    }
    lines = ['# GPU check', '', ', '.join(f'{count} {word}' for word, count in counts.items()), '']
    for run in list(runs.values())[:1]:
        lines += [f'- {key}: {value}' for key, value in run.environment.items()] + ['']
    lines += ['| check | outcome | s | recorded, or why not |', '|---|---|---:|---|']
    for check in checks:
        words = check.why[:300] or ', '.join(f'{key} {value}' for key, value in check.recorded.items())
        words = words.replace('|', '\\|')
        lines.append(f'| {check.name} | {check.outcome} | {check.seconds:.1f} | {words} |')
    for name, run in runs.items():
        lines += ['', f'## Bench: {name}', '', *(f'- {line}' for line in main_lines(run.rows)), '']
        failed = [row for row in [*run.rows, *run.layers] if row.status == 'failed']
        lines += [f'- {row.model} on {row.engine}, batch {row.batch}: {row.error}' for row in failed]
    if not runs:
        lines += ['', 'No bench: a check has failed, and wrong results are not timed.']
    write_text_atomically(path, '\n'.join(lines) + '\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, default=Path('out/gpu-check'), help='folder for the report')
    parser.add_argument('--bench', nargs='*', choices=BENCHES, default=list(BENCHES), help='which to measure')
    parser.add_argument('--precision', nargs='+', default=['fp16'])
    parser.add_argument('--rounds', type=int, default=10)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    junit, report = args.output / 'checks.xml', args.output / 'report.md'
    for old in (junit, report, *args.output.glob('*.json')):
        old.unlink(missing_ok=True)
    pytest = [sys.executable, '-m', 'pytest', str(ROOT / 'tests/gpu'), '-ra', f'--junitxml={junit}']
    subprocess.run(pytest, env={**os.environ, 'HETCONV_GPU_REQUIRED': '1'})
    if not junit.exists():
        print('gpu-check: the tests did not run to their end', file=sys.stderr)
        return 2
    checks, runs = read_checks(junit), {}
    right = bool(checks) and all(check.outcome != 'failed' for check in checks)
    write_report(report, checks, runs)  # what is known, should the measuring be stopped
    for name in args.bench if right else ():
        rows = args.output / f'{name}.json'
        command = [sys.executable, '-m', 'inference', 'bench', *BENCHES[name], '--device', 'cuda']
        command += [word for precision in args.precision for word in ('--precision', precision)]
        command += ['--rounds', str(args.rounds), '--json', str(rows), '--report', str(args.output / name)]
        subprocess.run(command)
        if rows.exists():
            runs[name] = Run.load(rows)
            write_report(report, checks, runs)
    print(report)
    whole = all(check.outcome in ('passed', 'skipped') for check in checks) and len(runs) == len(args.bench)
    return 0 if right and whole else 1


if __name__ == '__main__':
    sys.exit(main())
