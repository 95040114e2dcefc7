"""What a server makes of the speed-up: dense and HetConv networks behind one Triton server, in turns.

    python benchmarks/serving.py --python .venv-serve/bin/python --images PHOTOS

Deploys a dense network in stock ONNX Runtime, the same on our kernels, and the HetConv one on our kernels; measures how
long the server takes until it is ready, what it adds to a request's latency, the throughput with clients that wait, the
largest rate of random requests that is answered within a bound, and, where mlcommons-loadgen is installed, what
MLPerf's LoadGen says of it. Rows: benchmarks/results/serving.json; then `python benchmarks/serving_table.py`.
"""

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from inference.errors import UserError
from inference.files import write_atomically
from inference.serving.server import Ports

PORTS = Ports(18000, 18001, 18002)
URL = f'127.0.0.1:{PORTS.grpc}'
# What a request takes where nothing is computed: the client, Triton, and the way to its Python backend and back.
NOTHING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answer = np.zeros((1, 5), np.int32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor('class', answer)]) for _ in requests]
"""
NOTHING_CONFIG = """\
backend: "python"
max_batch_size: 1
input [{ name: "image" data_type: TYPE_STRING dims: [1] }]
output [{ name: "class" data_type: TYPE_INT32 dims: [5] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
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
        (repository / 'nothing' / '1').mkdir(parents=True)
        (repository / 'nothing' / '1' / 'model.py').write_text(NOTHING)
        (repository / 'nothing' / 'config.pbtxt').write_text(NOTHING_CONFIG)
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
                'overhead': [overhead(repository, name, images) for name in models],
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


def overhead(repository: Path, name: str, images: list[bytes], rounds: int = 60) -> dict[str, Any]:
    """One request at a time and the same work in this process, in turns; milliseconds.

    The work is what the server does: preparing the image, running the network on one thread, picking classes. `nothing`
    is a request to a model that does nothing, as seldom as the others.
    """
    import numpy as np
    import onnxruntime
    import tritonclient.grpc
    import tritonclient.http

    from inference.engines.ort_cpu import make_session
    from inference.export import INPUT
    from inference.serving.steps.prepare import prepare

    folder = repository / f'{name}_engine' / '1'
    facts = json.loads((folder / 'facts.json').read_bytes())
    if (folder / 'libhetconv.so').exists():
        session = make_session(folder / 'network.onnx', 1)
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(folder / 'network.onnx'), options, providers=['CPUExecutionProvider']
        )
    clients = {
        tritonclient.grpc: tritonclient.grpc.InferenceServerClient(URL),
        tritonclient.http: tritonclient.http.InferenceServerClient(f'127.0.0.1:{PORTS.http}'),
    }

    def offline(image: bytes) -> int:
        logits = session.run(None, {INPUT: prepare(image, facts)[None]})[0][0]
        powers = np.exp(logits - logits.max())
        return int(np.argsort(-powers / powers.sum(), kind='stable')[0])

    def asked(module: Any, model: str, image: bytes) -> int:
        given = module.InferInput('image', [1, 1], 'BYTES')
        given.set_data_from_numpy(np.array([[image]], dtype=object))
        return int(clients[module].infer(model, [given]).as_numpy('class')[0, 0])

    works = {
        'offline': offline,
        'served': partial(asked, tritonclient.grpc, name),
        'offline_http': offline,
        'served_http': partial(asked, tritonclient.http, name),
        'between': offline,  # the server's threads sleep before nothing is asked of them, as they do before the others
        'nothing': partial(asked, tritonclient.grpc, 'nothing'),
    }
    times: dict[str, list[float]] = {key: [] for key in works}
    for i in range(-5, rounds):
        image = images[i % len(images)]
        answers = {}
        for key, work in works.items():
            start = time.perf_counter()
            answers[key] = work(image)
            if i >= 0:
                times[key].append((time.perf_counter() - start) * 1e3)
        answers.pop('nothing')
        if len(set(answers.values())) > 1:  # no timing on a wrong result
            raise UserError(f'{name}: the server and the network disagree: classes {answers}')
    for client in clients.values():
        client.close()

    def over(served: str, base: str) -> float:
        return round(statistics.median(b - a for a, b in zip(times[base], times[served])), 3)

    times.pop('between')
    medians = {key: round(statistics.median(values), 3) for key, values in times.items()}
    return {
        'model': name,
        'rounds': rounds,
        **{f'{key}_ms': value for key, value in medians.items()},
        'overhead_ms': over('served', 'offline'),
        'overhead_http_ms': over('served_http', 'offline_http'),
    }


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
