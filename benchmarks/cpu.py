"""README's table on the CPU: the networks of the paper on every engine that could be a baseline, and on our kernels.

    python benchmarks/cpu.py [--threads 1 --threads 2] [--rounds 10] [--json benchmarks/results/cpu.json]

About ten minutes on a quiet machine. Every row is compared with PyTorch first; one wrong row, and nothing is written.
PyTorch's own two engines are left out: they have never been the fastest, and `make bench` has them.
"""

import sys
from pathlib import Path

from inference.bench import Settings, bench
from inference.show import bar, show_run

RESULT = Path(__file__).parent / 'results' / 'cpu.json'
ENGINES = ('ort-cpu', 'onnxruntime', 'openvino', 'mnn', 'ncnn')
MODELS = (
    *(f'hetconv_resnet34_p{part}' for part in (4, 8, 16, 64)),
    'hetconv_vgg16_p4',
    *(f'hetconv_vgg16_cifar_p{part}' for part in (4, 8)),
)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, action='append')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--models', nargs='+', default=MODELS)
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()
    settings = Settings(ENGINES, tuple(args.threads or (1, 2)), (args.batch,), rounds=args.rounds)
    with bar() as progress:
        run = bench(args.models, settings, progress=progress)
    show_run(run)
    if not run.settings['complete'] or any(row.status == 'failed' for row in run.rows):
        sys.exit('a row failed, or the run was cut short: nothing is written')
    run.save(args.json)


if __name__ == '__main__':
    main()
