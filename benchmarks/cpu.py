"""README's table on the CPU: the networks of the paper on every engine that could be a baseline, and on our kernels.

    python benchmarks/cpu.py [--threads 1 --threads 2] [--rounds 10] [--json benchmarks/results/cpu.json]
    python benchmarks/cpu.py --int8

About ten minutes on a quiet machine; with --int8, the table of docs/int8.md, four. Every row is compared with PyTorch
first; one wrong row, or a busy machine, and nothing is written. PyTorch's own two engines are left out: they have never
been the fastest, and `make bench` has them. INT8 has its fp32 beside it, in the same run.
"""

import argparse
import os
import sys
from pathlib import Path

from calib.for_bench import quantize_for_bench
from inference.bench import Settings, bench
from inference.show import bar, show_run
from inference.worker_process import available_cores

RESULTS = Path(__file__).parent / 'results'
ENGINES = ('ort-cpu', 'onnxruntime', 'openvino', 'mnn', 'ncnn')
INT8_ENGINES = ('ort-cpu', 'onnxruntime', 'openvino')
MODELS = (
    *(f'hetconv_resnet34_p{part}' for part in (4, 8, 16, 64)),
    'hetconv_vgg16_p4',
    *(f'hetconv_vgg16_cifar_p{part}' for part in (4, 8)),
)
INT8_MODELS = MODELS[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, action='append')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--models', nargs='+')
    parser.add_argument('--int8', action='store_true')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    settings = Settings(
        INT8_ENGINES if args.int8 else ENGINES, tuple(args.threads or (1, 2)), (args.batch,),
        ('int8', 'fp32') if args.int8 else ('fp32',), rounds=args.rounds,
    )  # fmt: skip
    load, cores = os.getloadavg()[0], len(available_cores())
    if load >= cores:
        sys.exit(f'the machine is busy (load {load:.1f} on {cores} cores): nothing is measured')
    models = args.models or (INT8_MODELS if args.int8 else MODELS)
    with bar() as progress:
        run = bench(models, settings, progress=progress, quantize=quantize_for_bench)
    show_run(run)
    if not run.settings['complete'] or any(row.status == 'failed' for row in run.rows):
        sys.exit('a row failed, or the run was cut short: nothing is written')
    run.save(args.json or RESULTS / ('int8.json' if args.int8 else 'cpu.json'))


if __name__ == '__main__':
    main()
