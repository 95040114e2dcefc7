"""What a server adds to one request: an image or a tensor, Python backend and Triton's own, each way to send it.

    python benchmarks/serving_overhead.py --python .venv-serve/bin/python --images PHOTOS --backends FOLDER

FOLDER has Triton's backend of ONNX Runtime (docs/serving.md); without it there are no rows of it. Each request is one
of a pair with the same work in this process, with which its answer is compared; in each round all ways in an order of
its own. The server is started anew several times: where its memory happens to lie is worth a few tenths of a
millisecond. Rows: benchmarks/results/serving_overhead.json; then `python benchmarks/serving_table.py`.
"""

import argparse
import json
import random
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serving import PORTS, SIZE, hetconv, photographs, server, triton_version, wait_until_ready
from serving_socket import Socket

from inference.errors import UserError
from inference.files import write_atomically

REGION = 'hetconv-overhead'
NOTHING, DENSE = 'nothing', 'onnxruntime'
# What a request takes where nothing is computed.
NOTHING_MODEL = """
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


@dataclass(frozen=True)
class Way:
    """Of a request to the server.

    Attributes:
        engine: That answers, or `NOTHING`; `DENSE` has the dense network.
        given: 'image', for the ensemble, or 'tensor', for the engine.
        client: 'socket', which is HTTP without a client library; 'http' and 'grpc' are tritonclient's.
        shared_memory: A tensor goes through system shared memory.
    """

    engine: str
    given: str
    client: str
    shared_memory: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--python', type=Path, required=True, help='interpreter with nvidia-pytriton')
    parser.add_argument(
        '--images', type=Path, required=True, help='folder; they are resized to 500 x 375 and sent as JPEG'
    )
    parser.add_argument('--backends', type=Path, help="folder with Triton's backend of ONNX Runtime")
    parser.add_argument('--dense', default='hetconv_resnet34_p1')
    parser.add_argument('--model', default='hetconv_resnet34_p4')
    parser.add_argument('--starts', type=int, default=5, help='of the server')
    parser.add_argument('--rounds', type=int, default=30, help='pairs of each way after each')
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/serving_overhead.json'))
    args = parser.parse_args()
    try:
        result = run(args)
    except UserError as error:
        print(f'serving_overhead: {error}', file=sys.stderr)
        sys.exit(2)
    for row in result['rows']:
        memory = ', shared memory' * row['shared_memory']
        low, high = row['overhead_quartiles_ms']
        print(
            f'{row["engine"]:15} {row["given"]:6} {row["client"]}{memory}: {row["served_ms"]:.2f} ms, '
            f'of it the server {row["overhead_ms"]:.2f} ({low:.2f} to {high:.2f})'
        )
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.json, json.dumps(result, indent=1).encode() + b'\n')
    print(args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    from inference.environment import describe_environment

    images = photographs(args.images)
    engines = ['ort-cpu', *['ort-cpu-native'] * (args.backends is not None)]
    options = [] if args.backends is None else ['--backends', str(args.backends)]
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / 'models'
        for engine in (*engines, DENSE):
            model = args.dense if engine == DENSE else args.model
            hetconv(
                'deploy', model, '--engine', engine, '--to', repository, '--name', engine, '--max-batch', '1',
                '--no-measure',
            )  # fmt: skip
        (repository / NOTHING / '1').mkdir(parents=True)
        (repository / NOTHING / '1' / 'model.py').write_text(NOTHING_MODEL)
        (repository / NOTHING / 'config.pbtxt').write_text(NOTHING_CONFIG)
        pairs: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways_of(engines)}
        for start in range(args.starts):
            with server(repository, args.python, *options, '--shared-memory') as log:
                wait_until_ready([*engines, DENSE, NOTHING], log)
                version = triton_version()
                measure(repository, engines, images, args.rounds, pairs)
            print(f'{start + 1} of {args.starts} starts', flush=True)
    return {
        'environment': describe_environment(['ort-cpu']),
        'settings': {
            'model': args.model, 'dense': args.dense, 'starts': args.starts, 'rounds': args.rounds, 'threads': 1,
            'image': list(SIZE), 'images': len(images), 'triton': version,
        },
        'rows': [row(way, found) for way, found in pairs.items()],
    }  # fmt: skip


def ways_of(engines: list[str]) -> list[Way]:
    """All that is measured: images for the first engine, which prepares them itself, and tensors for each."""
    clients = ('socket', 'http', 'grpc')
    images = [Way(engine, 'image', client) for engine in (engines[0], DENSE, NOTHING) for client in clients]
    tensors = [Way(engine, 'tensor', client) for engine in engines for client in clients]
    return [*images, *tensors, *(Way(way.engine, 'tensor', way.client, shared_memory=True) for way in tensors)]


def measure(
    repository: Path, engines: list[str], images: list[bytes], rounds: int, pairs: dict[Way, list[tuple[float, float]]]
) -> None:
    """Milliseconds in this process and served, of each way, after those that are there."""
    import numpy as np

    from inference.serving.steps.labels import Labels
    from inference.serving.steps.prepare import KEPT_BYTES, prepare

    folder = repository / f'{engines[0]}_engine' / '1'
    if not runpy.run_path(str(folder / 'memory.py'))['keep_freed_memory'](KEPT_BYTES):  # as the server's process does
        raise UserError('unset LD_PRELOAD, MALLOC_... and GLIBC_TUNABLES: they choose how memory is kept')
    facts = json.loads((folder / 'facts.json').read_bytes())
    labels = Labels(folder / 'labels.txt', 5)
    sessions = {engine: session_of(repository, engine) for engine in (engines[0], DENSE)}
    tensor = np.random.default_rng(0).standard_normal((1, *facts['input_size']), np.float32)

    def alone(way: Way, image: bytes) -> Any:
        session = sessions[DENSE if way.engine == DENSE else engines[0]]
        x = prepare(image, facts)[None] if way.given == 'image' else tensor
        logits = session.run(None, {session.get_inputs()[0].name: x})[0]
        return labels.best(logits)['class'] if way.given == 'image' else logits

    ways = list(pairs)
    order = random.Random(0)
    with askers(ways, images, tensor) as asker:
        for i in range(-5, rounds):
            image = images[i % len(images)]
            for way in order.sample(ways, len(ways)):
                base, expected = timed(partial(alone, way, image))
                served, answer = timed(partial(asker[way], image))
                if isinstance(answer, bytes):
                    answer = Socket.result(answer).as_numpy(wanted(way))
                if way.engine != NOTHING and not np.array_equal(answer, expected):  # no timing on a wrong result
                    raise UserError(f'{way}: the server and the network disagree')
                if i >= 0:
                    pairs[way].append((round(base, 3), round(served, 3)))


def session_of(repository: Path, engine: str) -> Any:
    """What the server's process runs."""
    import onnxruntime

    from inference.engines.ort_cpu import make_session

    path = repository / f'{engine}_engine' / '1' / 'network.onnx'
    if engine != DENSE:
        return make_session(path, 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def wanted(way: Way) -> str:
    """Of the answer what is compared."""
    return 'class' if way.given == 'image' else 'logits'


@contextmanager
def askers(ways: list[Way], images: list[bytes], tensor: Any) -> Iterator[dict[Way, Callable[[bytes], Any]]]:
    """For each way what sends a request, and gives the answer or its bytes."""
    import numpy as np
    import tritonclient.grpc
    import tritonclient.http
    from tritonclient.utils import shared_memory

    http = tritonclient.http.InferenceServerClient(f'127.0.0.1:{PORTS.http}')
    clients = {
        'http': (tritonclient.http, http),
        'grpc': (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(f'127.0.0.1:{PORTS.grpc}')),
    }
    bare = Socket(PORTS.http)
    region = shared_memory.create_shared_memory_region(REGION, REGION, tensor.nbytes)

    def given(module: Any, way: Way, image: bytes) -> Any:
        if way.given == 'image':
            value = module.InferInput('image', [1, 1], 'BYTES')
            value.set_data_from_numpy(np.array([[image]], dtype=object))
            return value
        value = module.InferInput('input', list(tensor.shape), 'FP32')
        if way.shared_memory:
            shared_memory.set_shared_memory_region(region, [tensor])
            value.set_shared_memory(REGION, tensor.nbytes)
        else:
            value.set_data_from_numpy(tensor)
        return value

    def asker(way: Way) -> Callable[[bytes], Any]:
        tensors = way.given == 'tensor'
        model = f'{way.engine}_engine' if tensors else way.engine
        module, client = clients['http' if way.client == 'socket' else way.client]
        outputs = [module.InferRequestedOutput(wanted(way))] if tensors else None
        if way.client != 'socket':
            return lambda image: client.infer(model, [given(module, way, image)], outputs=outputs).as_numpy(wanted(way))
        requests = {image: bare.request(model, [given(module, way, image)], outputs) for image in images}

        def ask(image: bytes) -> bytes:
            if way.shared_memory:
                shared_memory.set_shared_memory_region(region, [tensor])
            return bare.ask(requests[image])

        return ask

    try:
        http.register_system_shared_memory(REGION, REGION, tensor.nbytes)
        yield {way: asker(way) for way in ways}
    finally:
        shared_memory.destroy_shared_memory_region(region)
        bare.close()
        for _, client in clients.values():
            client.close()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what it gives."""
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e3, result


def row(way: Way, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of what was measured in pairs, and the pairs; nothing has no work to be compared with."""
    over = [served - base * (way.engine != NOTHING) for base, served in pairs]
    low, middle, high = statistics.quantiles(over, n=4)
    return {
        **vars(way),
        'offline_ms': round(statistics.median(base for base, _ in pairs), 3),
        'served_ms': round(statistics.median(served for _, served in pairs), 3),
        'overhead_ms': round(middle, 3),
        'overhead_quartiles_ms': [round(low, 3), round(high, 3)],
        'pairs_ms': pairs,
    }


if __name__ == '__main__':
    main()
