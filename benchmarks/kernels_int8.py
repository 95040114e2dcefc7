"""The CPU kernels in eight bits: layers of ResNet-34 beside our own in fp32, and whole networks beside OpenVINO and
stock ONNX Runtime in eight bits.

    python benchmarks/kernels_int8.py [--rounds 15] [--json benchmarks/results/kernels_int8.json]

About two minutes on a quiet machine. Networks: medians of interleaved rounds, and the shortest; layers: the shortest.
--layers or --threads N runs a part, and rows of other parts stay in the file. Weights are random and ranges are those
of one image, since time does not depend on them; every layer equals the oracle, and every network is compared with ONNX
Runtime first.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).parent
RESULT = ROOT / 'results' / 'kernels_int8.json'
PARTS = (1, 4, 8, 16, 64)
SIZES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and pixels of ResNet-34
NETWORKS = (1, 4, 8)
ERROR = 0.05  # of the largest value: ties that fall the other way, carried on


def measure(runs, rounds, repeat=1):
    """Medians and the shortest, in ms, by name; `runs` are functions, and take turns."""
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # brings its weights back into the cache
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            times[name].append((time.perf_counter() - start) * 1e3 / repeat)
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def layers(rounds):
    """One layer with a residual and a ReLU, in eight bits and in fp32."""
    from inference.kernels.cpu import Layer
    from inference.kernels.cpu.int8 import Int8Layer
    from inference.kernels.reference_int8 import conv2d

    random = np.random.default_rng(0)
    rows = []
    for channels, size in SIZES:
        for part in PARTS:
            w_kxk = random.integers(-128, 128, (channels, channels // part, 3, 3), np.int8)
            w = random.integers(-128, 128, (channels, channels), np.int8) if part > 1 else None
            if part > 1:
                w_kxk[:, :, 1, 1] = 0  # the centre taps are in w
            x, z = random.integers(0, 256, (2, 1, size, size, channels), np.uint8)
            scale, bias = np.full(channels, 1e-4, np.float32), np.zeros(channels, np.float32)
            arguments = dict(part=part, pads=(1, 1, 1, 1), low=0.0, y_scale=0.1, z_scale=0.1)
            int8 = Int8Layer(w_kxk, w, scale, bias, **arguments)
            if not np.array_equal(int8(x, z), conv2d(x, w_kxk, w, scale, bias, z, **arguments)):
                sys.exit(f'{channels} channels, P={part}: not what the oracle says, nothing is measured')
            floats = [None if a is None else a.astype(np.float32) for a in (w_kxk, w, bias, x, z)]
            fp32 = Layer(*floats[:3], part=part, pads=(1, 1, 1, 1), low=0.0)
            out, float_out = np.empty_like(x), np.empty_like(floats[3])
            ms = measure(
                {
                    'int8': lambda layer=int8, x=x, z=z, out=out: layer(x, z, out=out),
                    'fp32': lambda layer=fp32, x=floats[3], z=floats[4], out=float_out: layer(x, z, out=out),
                },
                rounds, repeat=5,
            )  # fmt: skip
            multiplies = (
                size**2 * channels * (channels // part * 9 + (channels - channels // part if w is not None else 0))
            )
            shortest = {name: value[1] for name, value in ms.items()}  # so short that any other process shows
            rows.append(
                dict(channels=channels, size=size, part=part, int8_ms=shortest['int8'], fp32_ms=shortest['fp32'],
                     speedup=shortest['fp32'] / shortest['int8'], gmacs=multiplies / shortest['int8'] / 1e6)
            )  # fmt: skip
    return rows


def openvino(path, threads):
    import openvino

    config = {'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    request = openvino.Core().compile_model(path, 'CPU', config).create_infer_request()
    return lambda x: request.infer({0: x}, share_inputs=True)[0]


def stock(proto, threads, level=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if level is not None:
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]


def networks(rounds, threads, folder):
    """ResNet-34 at 224 pixels, one image."""
    import onnx
    import onnxruntime

    sys.path.insert(0, str(ROOT.parent / 'tests' / 'inference'))  # the ranges of one image, as in the tests
    from quantized_networks import quantized

    from inference.engines.ort_cpu import make_session
    from inference.export import INPUT, export_model
    from inference.lowering.ort_cpu import to_ort_cpu
    from inference.lowering.portable import fix_batch, to_portable
    from inference.models import create_model

    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224), np.float32)
    runs = {}
    for part in NETWORKS:
        exported = export_model(create_model(f'hetconv_resnet34_p{part}'))
        graph = quantized(exported, x)
        portable = fix_batch(to_portable(graph), 1)
        path = folder / f'p{part}.onnx'
        onnx.save(portable, path)
        for kind, model in (('int8', graph), ('fp32', exported)):
            session = make_session(to_ort_cpu(model).SerializeToString(), threads)
            runs[part, f'ort-cpu {kind}'] = lambda x, s=session: s.run(None, {INPUT: x})[0]
        runs[part, 'openvino int8'] = openvino(path, threads)
        runs[part, 'onnxruntime int8'] = stock(portable, threads)
        expected = stock(graph, threads, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)(x)
        error = float(np.abs(runs[part, 'ort-cpu int8'](x) - expected).max() / np.abs(expected).max())
        if not error < ERROR:
            sys.exit(f'P={part} is wrong by {error:.1e}: nothing is measured')
    ms = measure({name: lambda run=run: run(x) for name, run in runs.items()}, rounds)
    dense = min(value[0] for (part, engine), value in ms.items() if part == 1 and not engine.startswith('ort-cpu'))
    return [
        dict(part=part, engine=engine, threads=threads, ms=median, shortest_ms=shortest, over_dense_int8=dense / median)
        for (part, engine), (median, shortest) in ms.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--json', type=Path, default=RESULT)
    parser.add_argument('--layers', action='store_true', help='only the layers')
    parser.add_argument('--threads', type=int, default=0, help='only the networks, on so many threads')
    args = parser.parse_args()

    from inference.environment import describe_environment

    result = json.loads(args.json.read_text()) if args.json.exists() else {'layers': [], 'networks': []}
    result |= {'environment': describe_environment(['ort-cpu', 'openvino', 'onnxruntime']), 'rounds': args.rounds}
    if not args.threads:
        result['layers'] = layers(args.rounds)
    with TemporaryDirectory() as folder:
        for threads in [] if args.layers else [args.threads] if args.threads else [1, 2]:
            others = [row for row in result['networks'] if row['threads'] != threads]
            result['networks'] = [*others, *networks(args.rounds, threads, Path(folder))]
    for name in ('layers', 'networks'):
        print(name)
        for row in result[name]:
            print('  ', '  '.join(f'{k} {v:.3g}' if isinstance(v, float) else f'{v}' for k, v in row.items()))
    args.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
