"""What a server makes of the speed-up: dense and HetConv networks behind one Triton server, in turns.

    python benchmarks/serving.py --python .venv-serve/bin/python --images PHOTOS

Deploys a dense network in stock ONNX Runtime, the same on our kernels, and the HetConv one on our kernels; measures how
long the server takes until it is ready, the throughput with clients that wait, the largest rate of random requests that
is answered within a bound, and, where mlcommons-loadgen is installed, what MLPerf's LoadGen says of it. Rows:
benchmarks/results/serving.json; then `python benchmarks/serving_table.py`.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inference.errors import UserError
from inference.files import write_atomically
from inference.serving.server import Ports

PORTS = Ports(18000, 18001, 18002)
URL = f'127.0.0.1:{PORTS.grpc}'
SIZE = (500, 375)  # of a photograph of ImageNet, usually


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--python', type=Path, help='interpreter with nvidia-pytriton; default: tritonserver on the path'
    )
    parser.add_argument(
        '--images', type=Path, required=True, help='folder; they are resized to 500 x 375 and sent as JPEG'
    )
    parser.add_argument('--dense', default='hetconv_resnet34_p1')
    parser.add_argument('--model', default='hetconv_resnet34_p4')
    parser.add_argument('--p99-ms', type=float, default=250.0, help='bound of the latency')
    parser.add_argument('--seconds', type=float, default=10.0, help='of each load')
    parser.add_argument('--instances', type=int, default=2, help='runs at a time, of a thread each')
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/serving.json'))
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        print(f'serving: {error}', file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """All of it."""
    from inference.environment import describe_environment

    images = photographs(args.images)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / 'models'
        models = {
            'dense_onnxruntime': (args.dense, 'onnxruntime'),
            'dense_ort-cpu': (args.dense, 'ort-cpu'),
            'hetconv_ort-cpu': (args.model, 'ort-cpu'),
        }
        for name, (model, engine) in models.items():
            hetconv(
                'deploy', model, '--engine', engine, '--to', repository, '--name', name, '--max-batch', '1',
                '--instances', args.instances, '--threads', '1', '--no-measure',
            )  # fmt: skip
        starts = [cold_start(repository, args.python, list(models)) for _ in range(3)]
        with server(repository, args.python) as log:
            wait_until_ready(list(models), log)
            result = {
                'environment': describe_environment(['ort-cpu', 'onnxruntime']),
                'settings': {
                    'instances': args.instances, 'threads': 1, 'max_batch': 1, 'image': list(SIZE),
                    'images': len(images), 'p99_ms': args.p99_ms, 'seconds': args.seconds, 'triton': triton_version(),
                },
                'models': {name: {'model': model, 'engine': engine} for name, (model, engine) in models.items()},
                'cold_start_seconds': starts,
                'closed_loop': loads(models, images, args, clients=2 * args.instances),
                'p99_bound': loads(models, images, args, p99_ms=args.p99_ms),
            }  # fmt: skip
            result['loadgen'] = loadgen(result['closed_loop'], images, args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.json, json.dumps(result, indent=1).encode() + b'\n')
    print(args.json)


def photographs(folder: Path) -> list[bytes]:
    """Up to 64 images as JPEG of the usual size: what decoding and resizing take depends on that, not on the motif."""
    from PIL import Image

    from inference.serving.sender import read_images

    found = []
    for data in read_images(folder, 64):
        out = io.BytesIO()
        Image.open(io.BytesIO(data)).convert('RGB').resize(SIZE, Image.Resampling.BICUBIC).save(out, 'JPEG', quality=90)
        found.append(out.getvalue())
    return found


def hetconv(*arguments: Any) -> None:
    """One of our commands."""
    subprocess.run([sys.executable, '-m', 'inference', *map(str, arguments)], check=True)


@contextmanager
def server(repository: Path, python: Path | None, *options: str) -> Iterator[Path]:
    """`hetconv serve`; what it says goes to the file."""
    ports = [f'--{name}={number}' for name, number in vars(PORTS).items()]
    own = [] if python is None else ['--python', str(python)]
    log = repository.parent / 'log'
    with log.open('wb') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', 'inference', 'serve', str(repository), *own, *ports, *options],
            stdout=file,
            stderr=file,
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(models: list[str], log: Path, seconds: float = 60.0) -> None:
    """Raises UserError where it takes longer."""
    end = time.monotonic() + seconds
    for name in models:
        while True:
            try:
                with urllib.request.urlopen(f'http://127.0.0.1:{PORTS.http}/v2/models/{name}/ready', timeout=5):
                    break
            except OSError:
                if time.monotonic() > end:
                    raise UserError(f'the server is not ready: {log.read_text(errors="replace")[-2000:]}') from None
                time.sleep(0.02)


def cold_start(repository: Path, python: Path | None, models: list[str]) -> float:
    """Seconds from the command to all models being ready, their first runs done."""
    start = time.monotonic()
    with server(repository, python) as log:
        wait_until_ready(models, log)
        return round(time.monotonic() - start, 3)


def triton_version() -> str:
    with urllib.request.urlopen(f'http://127.0.0.1:{PORTS.http}/v2', timeout=5) as answer:
        return json.load(answer)['version']


def loads(models: dict[str, Any], images: list[bytes], args: argparse.Namespace, **kind: Any) -> list[dict[str, Any]]:
    """Rows of a load test of all models in turns."""
    from inference.serving.loadtest import Plan, run
    from inference.show import bar
    from inference.show_load import show_loads

    rows: list[dict[str, Any]] = []
    plan = Plan(tuple(models), seconds=args.seconds, rounds=5 if 'p99_ms' in kind else 3, **kind)
    with bar() as report:
        asyncio.run(run(plan, URL, images, rows.append, report))
    show_loads(rows, plan)
    return rows


def loadgen(closed: list[dict[str, Any]], images: list[bytes], args: argparse.Namespace) -> list[dict[str, Any]]:
    """LoadGen's verdict on each model but our dense one, whose closed loop is known; none where it is not installed."""
    import importlib.util

    if importlib.util.find_spec('mlperf_loadgen') is None:
        print('without LoadGen: pip install mlcommons-loadgen', file=sys.stderr)
        return []
    from serving_loadgen import offline, server_search

    rows = []
    for name in ('dense_onnxruntime', 'hetconv_ort-cpu'):
        capacity = max(row['throughput'] for row in closed if row['model'] == name)
        rows.append(offline(URL, name, images, args.seconds, capacity))
        rows += server_search(URL, name, images, args.seconds, args.p99_ms, rows[-1]['samples_per_second'])
        print(rows[-1])
    return rows


if __name__ == '__main__':
    main()
