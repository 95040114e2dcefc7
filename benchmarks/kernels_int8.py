"""The CPU kernels in eight bits: layers of ResNet-34 beside our own in fp32; whole networks: `cpu.py --int8`.

    python benchmarks/kernels_int8.py [--rounds 15] [--json benchmarks/results/kernels_int8.json]

Half a minute on a quiet machine; the shortest of all rounds. Weights are random, since time does not depend on them,
and every layer equals the oracle first.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent
RESULT = ROOT / 'results' / 'kernels_int8.json'
PARTS = (1, 4, 8, 16, 64)
SIZES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and pixels of ResNet-34


def measure(runs, rounds, repeat=1):
    """The shortest, in ms, by name; `runs` are functions, and take turns."""
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # brings its weights back into the cache
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            times[name].append((time.perf_counter() - start) * 1e3 / repeat)
    return {name: min(values) for name, values in times.items()}  # so short that any other process shows


def at(layer, x, z, out):
    """A call of a layer without the checks of its arguments, which take 9 us."""
    addresses = [array.ctypes.data for array in (x, z, out)]
    kept = (x, z, out)  # as long as the addresses
    return lambda: layer.run_at(*addresses, *kept[0].shape[:3])


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
            runs = {'int8': at(int8, x, z, out), 'fp32': at(fp32, *floats[3:], float_out)}
            shortest = measure(runs, rounds, repeat=5)
            multiplies = (
                size**2 * channels * (channels // part * 9 + (channels - channels // part if w is not None else 0))
            )
            rows.append(
                dict(channels=channels, size=size, part=part, int8_ms=shortest['int8'], fp32_ms=shortest['fp32'],
                     speedup=shortest['fp32'] / shortest['int8'], gmacs=multiplies / shortest['int8'] / 1e6)
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--json', type=Path, default=RESULT)
    args = parser.parse_args()

    from inference.environment import describe_environment

    rows = layers(args.rounds)
    for row in rows:
        print('  '.join(f'{k} {v:.3g}' if isinstance(v, float) else f'{v}' for k, v in row.items()))
    result = {'environment': describe_environment(['ort-cpu']), 'rounds': args.rounds, 'layers': rows}
    args.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
