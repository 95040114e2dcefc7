"""Ten minutes of load on a server, bad images among the good ones: is its memory what it was?

    python benchmarks/serving_soak.py --python .venv-serve/bin/python --images PHOTOS

Requests at 80 % of the rate that clients who wait get, one in ten of them no image. Rows, a sample every 10 seconds of
the resident memory of all processes of the server: benchmarks/results/serving_soak.json.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from serving import URL, hetconv, server, wait_until_ready

from inference.errors import UserError
from inference.files import write_atomically

MODEL = 'net'
SETTLED = 60.0  # seconds until memory is what it will be


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--python', type=Path, help='interpreter with nvidia-pytriton; default: tritonserver on the path'
    )
    parser.add_argument('--images', type=Path, required=True, help='folder')
    parser.add_argument('--model', default='hetconv_resnet20_cifar_p4')
    parser.add_argument('--seconds', type=float, default=600.0)
    parser.add_argument('--load', type=float, default=0.8, help='of the throughput of clients that wait')
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/serving_soak.json'))
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        print(f'serving_soak: {error}', file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / 'models'
        hetconv('deploy', args.model, '--to', repository, '--name', MODEL, '--no-measure')
        with server(repository, args.python) as log:
            wait_until_ready([MODEL], log)
            result = asyncio.run(soak(args))
    write_atomically(args.json, json.dumps(result, indent=1).encode() + b'\n')
    print(f'{args.json}: memory {result["growth"]:+.1%} after {result["load"]["answered"]:,} answers')


async def soak(args: argparse.Namespace) -> dict[str, Any]:
    """The load, and meanwhile samples of memory."""
    from inference.serving.load import closed_loop, open_loop
    from inference.serving.sender import Sender, read_images

    sender = Sender(URL, 30.0)
    await sender.check(MODEL)
    good = sender.of(MODEL, read_images(args.images, 64))
    bad = sender.of(MODEL, [b'', b'no image', read_images(args.images, 1)[0][:200]])
    count = 0

    async def send() -> None:
        nonlocal count
        count += 1
        await (bad if count % 10 == 0 else good)()

    warm = await closed_loop(good, 4, 5.0)
    rate = args.load * warm.throughput
    samples: list[dict[str, float]] = []

    async def watch() -> None:
        start = time.monotonic()
        while True:
            samples.append({'seconds': round(time.monotonic() - start, 1), **memory()})
            print(samples[-1], file=sys.stderr, flush=True)
            await asyncio.sleep(10)

    watching = asyncio.create_task(watch())
    load = await open_loop(send, rate, args.seconds)
    watching.cancel()
    samples.append({'seconds': round(load.seconds, 1), **memory()})
    settled = [sample['mb'] for sample in samples if sample['seconds'] >= min(SETTLED, args.seconds / 2)]
    return {
        'model': args.model,
        'rate': round(rate, 2),
        'growth': max(settled) / settled[0] - 1,
        'samples': samples,
        'load': load.row(),
    }


def memory() -> dict[str, float]:
    """Resident megabytes of all processes of the server, and how many there are."""
    own = psutil.Process()
    tree = [child for child in own.children(recursive=True) if 'triton' in child.name()]
    return {'mb': round(sum(process.memory_info().rss for process in tree) / 1e6, 1), 'processes': len(tree)}


if __name__ == '__main__':
    main()
