"""What the CPU kernels do by themselves: one direct layer beside theory, what bounds the layers of a network, batches,
instruction sets, memory.

    python benchmarks/kernels.py [--rounds 10] [--json benchmarks/results/kernels.json]

About two minutes on a quiet machine, on one thread. Every figure is a ratio of medians of interleaved rounds within
this run. Results are compared first: layers with the oracle, networks with stock ONNX Runtime.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

RESULT = Path(__file__).parent / 'results' / 'kernels.json'
PARTS = (1, 2, 4, 8)
SIZES = ((128, 28), (256, 14), (512, 7))  # channels and pixels of ResNet-34
IMAGES = 4  # a call from Python costs as much as 1 % of one
ERROR = 1e-4  # of the largest value


def measure(runs, rounds, repeat=1):
    """Medians in ms, by name; `runs` are functions, and take turns."""
    times = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # brings its weights back into the cache
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            times[name].append((time.perf_counter() - start) * 1e3 / repeat)
    return {name: statistics.median(values) for name, values in times.items()}


def check(name, y, expected):
    error = float(np.abs(y - expected).max() / np.abs(expected).max())
    if not error < ERROR:
        sys.exit(f'{name} is wrong by {error:.1e}: nothing is measured')


def layers(rounds):
    """One direct layer over our own dense direct one: how much of what the FLOPs promise."""
    from inference.kernels.cpu import Layer
    from inference.kernels.reference import conv2d

    random = np.random.default_rng(0)
    rows = []
    for channels, size in SIZES:
        x = random.standard_normal((IMAGES, size, size, channels), np.float32)
        runs = {}
        for part in PARTS:
            w = random.standard_normal((channels, channels), np.float32) if part > 1 else None
            w_kxk = random.standard_normal((channels, channels // part, 3, 3), np.float32)
            if part > 1:
                w_kxk[:, :, 1, 1] = 0  # the centre taps are in w
            layer = Layer(w_kxk, w, np.zeros(channels), part=part, pads=(1, 1, 1, 1), algorithm='direct')
            out = np.empty_like(x)
            check(f'P={part}', layer(x, out=out), conv2d(x, w_kxk, w, part=part, pads=(1, 1, 1, 1)))
            runs[part] = lambda layer=layer, x=x, out=out: layer(x, out=out)
        ms = measure(runs, rounds, repeat=5)
        for part in PARTS:
            theory = 9 / (9 / part + 1 - 1 / part)
            speedup = ms[1] / ms[part]
            rate = x.size / channels * channels**2 * 9 / theory / ms[part] / 1e6
            rows.append(
                dict(channels=channels, size=size, images=IMAGES, part=part, ms=ms[part], speedup=speedup,
                     theory_flops=theory, realised=speedup / theory, gmacs=rate)
            )  # fmt: skip
    return rows


def bounds(rounds, peak, folder):
    """The layers of ResNet-34 where they stand: time, and multiplications a second beside the fastest layer alone.

    Multiplications are those of the algorithm that runs, on whole outputs: what tiles waste at the edge of a map, and
    the transforms, count as lost.
    """
    from inference.build import exported_of
    from inference.engines.ort_cpu import make_session
    from inference.export import INPUT
    from inference.lowering.ort_cpu import to_ort_cpu

    rows = []
    x = np.random.default_rng(2).standard_normal((1, 3, 224, 224), np.float32)
    for part in (1, 4, 8, 16, 64):
        built = to_ort_cpu(exported_of(f'hetconv_resnet34_p{part}', None), joined=False)
        session = make_session(built.SerializeToString(), 1, profile=folder / f'p{part}')
        for _ in range(3 * rounds):
            session.run(None, {INPUT: x})
        times, shapes = {}, {}
        for event in json.loads(Path(session.end_profiling()).read_text()):
            name = event['name'].removesuffix('_kernel_time')
            if event.get('cat') == 'Node' and name != event['name']:
                times.setdefault(name, []).append(event['dur'] / 1e3)
                shapes[name] = [next(iter(shape.values())) for shape in event['args']['input_type_shape'][:1]]
                shapes[name] += [next(iter(shape.values())) for shape in event['args']['output_type_shape']]
        found = {}
        for node in built.graph.node:
            median = statistics.median(times[node.name])
            key = describe(node, built, *shapes[node.name])
            found.setdefault(key, []).append(median)
        for (layer, algorithm, multiplies), medians in found.items():
            rate = multiplies / statistics.median(medians) / 1e6
            rows.append(
                dict(part=part, count=len(medians), layer=layer, algorithm=algorithm, ms=statistics.median(medians),
                     total_ms=sum(medians), gmacs=rate, of_peak=rate / peak)
            )  # fmt: skip
    return rows


def describe(node, built, into, out):
    """A node in words, its algorithm, and how many multiplications that takes."""
    from inference.kernels.cpu import Layer

    attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
    if node.op_type not in ('Conv', 'HetConv2d') or 'pads' not in attributes:
        return node.op_type, '', 0
    dims = {t.name: tuple(t.dims) for t in built.graph.initializer}
    hetconv = node.op_type == 'HetConv2d'
    n, m, *kernel = dims[node.input[2 if hetconv else 1]]
    part = attributes['part' if hetconv else 'group']
    layer = Layer(
        np.zeros((n, m, *kernel), np.float32), np.zeros((n, m * part), np.float32) if hetconv else None,
        part=part, stride=tuple(attributes['strides']), pads=tuple(attributes['pads']),
    )  # fmt: skip
    algorithm = layer.algorithm(1, into[1], into[2])
    products = {'winograd4': 36 / 16, 'winograd2': 16 / 4}  # of one channel, for an output
    taps = products.get(algorithm, kernel[0] * kernel[1])
    pixels = out[1] * out[2]
    others = (m * part - m) if hetconv else 0
    text = f'{m * part}-{n}, {into[1]}x{into[2]}, {kernel[0]}x{kernel[1]}/{attributes["strides"][0]}'
    return text, algorithm, pixels * n * (m * taps + others)


def networks(rounds, folder):
    """Batch 8 beside batch 1, a picture; and one instruction set beside another."""
    import onnxruntime

    from inference.build import build
    from inference.engines.ort_cpu import make_session
    from inference.export import INPUT, export_model
    from inference.kernels.cpu import instruction_sets
    from inference.models import create_model

    batches, isas = [], []
    x = np.random.default_rng(1).standard_normal((8, 3, 224, 224), np.float32)
    for model in ('hetconv_resnet34_p1', 'hetconv_resnet34_p4', 'hetconv_resnet34_p64'):
        built, _ = build(model, 'ort-cpu')
        data = built.SerializeToString()
        exported = export_model(create_model(model)).SerializeToString()
        (folder / f'{model}.onnx').write_bytes(exported)
        (folder / f'{model}.ort-cpu.onnx').write_bytes(data)
        stock = onnxruntime.InferenceSession(exported, providers=['CPUExecutionProvider'])
        expected = stock.run(None, {INPUT: x})[0]
        session = make_session(data, 1)
        check(model, session.run(None, {INPUT: x})[0], expected)
        ms = measure(
            {batch: lambda n=batch, s=session: s.run(None, {INPUT: x[:n]}) for batch in (1, 8)}, rounds
        )  # fmt: skip
        batches.append(dict(model=model, ms_1=ms[1], ms_8=ms[8] / 8, ratio=ms[1] * 8 / ms[8]))
        sessions = {isa: make_session(data, 1, isa=isa) for isa in instruction_sets()}
        for isa, one in sessions.items():
            check(f'{model} on {isa}', one.run(None, {INPUT: x})[0], expected)
        ms = measure({isa: lambda s=one: s.run(None, {INPUT: x[:1]}) for isa, one in sessions.items()}, rounds)
        isas += [dict(model=model, isa=isa, ms=value, over=value / ms[next(iter(ms))]) for isa, value in ms.items()]
    return batches, isas


RSS = """
import sys
import numpy as np
import onnxruntime
from inference.engines.ort_cpu import make_session
peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024
path, own = sys.argv[1], sys.argv[2] == 'own'
before = peak()
if own:
    session = make_session(path, 1)
else:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
for _ in range(3):
    session.run(None, {'input': np.zeros((1, 3, 224, 224), np.float32)})
print(peak() - before)
"""


def memory(folder):
    """Peak resident memory above the imports, MiB, beside stock ONNX Runtime's."""
    rows = []
    for model in ('hetconv_resnet34_p1', 'hetconv_resnet34_p4', 'hetconv_resnet34_p64'):
        mib = {}
        for kind, name in (('own', f'{model}.ort-cpu.onnx'), ('stock', f'{model}.onnx')):
            command = [sys.executable, '-c', RSS, str(folder / name), kind]
            mib[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(dict(model=model, own_mib=mib['own'], stock_mib=mib['stock'], ratio=mib['own'] / mib['stock']))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()

    from inference.environment import describe_environment

    result = {'environment': describe_environment(['ort-cpu']), 'rounds': args.rounds, 'layers': layers(args.rounds)}
    with TemporaryDirectory() as folder:
        peak = max(row['gmacs'] for row in result['layers'])
        result['bounds'] = bounds(args.rounds, peak, Path(folder))
        result['batches'], result['isas'] = networks(args.rounds, Path(folder))
        result['memory'] = memory(Path(folder))
    for name in ('layers', 'bounds', 'batches', 'isas', 'memory'):
        print(name)
        for row in result[name]:
            print(
                '  ',
                '  '.join(
                    f'{key} {value:.3g}' if isinstance(value, float) else f'{value}' for key, value in row.items()
                ),
            )
    args.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
