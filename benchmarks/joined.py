"""Layers as one node of ONNX Runtime, and a node each, in turns: what entering a node costs.

    python benchmarks/joined.py [--rounds 40] [--threads 1]

A minute on a quiet machine; both give the same bits first. Rows: benchmarks/results/joined.json, for docs/kernels.md.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from calib.for_bench import quantize_for_bench
from inference.build import exported_of
from inference.engines.ort_cpu import make_session
from inference.environment import describe_environment
from inference.export import INPUT, metadata
from inference.files import write_atomically
from inference.lowering.ort_cpu import join_layers, to_ort_cpu
from inference.lowering.portable import to_portable

RESULT = Path(__file__).parent / 'results' / 'joined.json'
NETWORKS = (
    ('hetconv_resnet34_p4', 'int8'), ('hetconv_resnet34_p8', 'int8'), ('hetconv_resnet34_p4', 'fp32'),
    ('hetconv_resnet20_cifar_p4', 'fp32'), ('hetconv_resnet20_cifar_p4', 'int8'),
)  # fmt: skip
CALLS = 10  # a round


def measure(model: str, precision: str, rounds: int, threads: int) -> dict:
    """One network's row; milliseconds are medians of all calls."""
    proto = exported_of(model, None)
    x = np.random.default_rng(0).standard_normal((1, *metadata(proto)['input_size']), np.float32)
    if precision == 'int8':
        proto, _ = quantize_for_bench(proto, to_portable(proto), x)
    apart = to_ort_cpu(proto, joined=False)
    sessions = {
        name: make_session(lowered.SerializeToString(), threads)
        for name, lowered in (('apart', apart), ('joined', join_layers(apart)))
    }
    outputs = [session.run(None, {INPUT: x})[0] for session in sessions.values()]
    if not np.array_equal(*outputs):  # no timing on a wrong result
        sys.exit(f'{model} in {precision}: joined layers give other bits')
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            for call in range(CALLS + 3):
                start = time.perf_counter()
                session.run(None, {INPUT: x})
                if call >= 3:
                    times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        'model': model,
        'precision': precision,
        'nodes': len(apart.graph.node),
        **{f'{name}_ms': round(value, 4) for name, value in medians.items()},
        'speedup': round(medians['apart'] / medians['joined'], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=40)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()
    rows = []
    for model, precision in NETWORKS:
        rows.append(measure(model, precision, args.rounds, args.threads))
        print(*(f'{key} {value}' for key, value in rows[-1].items()), sep='  ')
    result = {'environment': describe_environment(['ort-cpu']), 'threads': args.threads, 'rows': rows}
    write_atomically(args.json, json.dumps(result, indent=1).encode() + b'\n')


if __name__ == '__main__':
    main()
