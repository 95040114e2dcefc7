"""What a server adds to a request that brings a tensor: Python backend and Triton's own, each way to send it, in turns.

    python benchmarks/serving_overhead.py --python .venv-serve/bin/python --backends FOLDER

FOLDER has Triton's backend of ONNX Runtime (docs/serving.md). Each request is one of a pair with the network alone in
this process, and compared with it bit for bit. Rows: benchmarks/results/serving_overhead.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import PORTS, hetconv, server, triton_version, wait_until_ready

from inference.errors import UserError
from inference.files import write_atomically

ENGINES = ('ort-cpu', 'ort-cpu-native')
REGION = 'hetconv-overhead'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--python', type=Path, required=True, help='interpreter with nvidia-pytriton')
    parser.add_argument('--backends', type=Path, required=True, help="folder with Triton's backend of ONNX Runtime")
    parser.add_argument('--model', default='hetconv_resnet34_p4')
    parser.add_argument('--rounds', type=int, default=150)
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
            f'{row["engine"]:15} {row["protocol"]}{memory}: {row["served_ms"]:.2f} ms, '
            f'of it the server {row["overhead_ms"]:.2f} ({low:.2f} to {high:.2f})'
        )
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.json, json.dumps(result, indent=1).encode() + b'\n')
    print(args.json)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    from inference.environment import describe_environment

    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / 'models'
        for engine in ENGINES:
            hetconv(
                'deploy', args.model, '--engine', engine, '--to', repository, '--name', engine, '--max-batch', '1',
                '--no-measure',
            )  # fmt: skip
        with server(repository, args.python, '--backends', str(args.backends), '--shared-memory') as log:
            wait_until_ready(list(ENGINES), log)
            rows = measure(repository, args.rounds)
            return {
                'environment': describe_environment(['ort-cpu']),
                'settings': {'model': args.model, 'rounds': args.rounds, 'threads': 1, 'triton': triton_version()},
                'rows': rows,
            }


def measure(repository: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each engine, protocol and way of the tensor."""
    import numpy as np
    import tritonclient.grpc
    import tritonclient.http
    from tritonclient.utils import shared_memory

    from inference.engines.ort_cpu import make_session
    from inference.export import INPUT

    session = make_session(repository / f'{ENGINES[0]}_engine' / '1' / 'network.onnx', 1)
    x = np.random.default_rng(0).standard_normal((1, *session.get_inputs()[0].shape[1:]), np.float32)
    clients = {
        'grpc': (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(f'127.0.0.1:{PORTS.grpc}')),
        'http': (tritonclient.http, tritonclient.http.InferenceServerClient(f'127.0.0.1:{PORTS.http}')),
    }
    region = shared_memory.create_shared_memory_region(REGION, REGION, x.nbytes)
    try:
        clients['http'][1].register_system_shared_memory(REGION, REGION, x.nbytes)

        def asked(engine: str, protocol: str, shared: bool) -> Any:
            module, client = clients[protocol]
            given = module.InferInput('input', list(x.shape), 'FP32')
            if shared:
                shared_memory.set_shared_memory_region(region, [x])
                given.set_shared_memory(REGION, x.nbytes)
            else:
                given.set_data_from_numpy(x)
            wanted = [module.InferRequestedOutput('logits')]
            return client.infer(f'{engine}_engine', [given], outputs=wanted).as_numpy('logits')

        def offline() -> Any:
            return session.run(None, {INPUT: x})[0]

        ways = [(engine, protocol, shared) for engine in ENGINES for protocol in clients for shared in (False, True)]
        pairs: dict[Any, list[tuple[float, float]]] = {way: [] for way in ways}
        for i in range(-5, rounds):
            for way in ways:
                (alone, expected), (served, answer) = timed(offline), timed(lambda way=way: asked(*way))
                if not np.array_equal(answer, expected):  # no timing on a wrong result
                    raise UserError(f'{way}: the server and the network disagree')
                if i >= 0:
                    pairs[way].append((round(alone, 3), round(served, 3)))
    finally:
        shared_memory.destroy_shared_memory_region(region)
        for _, client in clients.values():
            client.close()
    return [row(*way, pairs[way]) for way in ways]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what it gives."""
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e3, result


def row(engine: str, protocol: str, shared: bool, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of what was measured in pairs, and the pairs."""
    over = [served - alone for alone, served in pairs]
    low, middle, high = statistics.quantiles(over, n=4)
    return {
        'engine': engine,
        'protocol': protocol,
        'shared_memory': shared,
        'offline_ms': round(statistics.median(alone for alone, _ in pairs), 3),
        'served_ms': round(statistics.median(served for _, served in pairs), 3),
        'overhead_ms': round(middle, 3),
        'overhead_quartiles_ms': [round(low, 3), round(high, 3)],
        'pairs_ms': pairs,
    }


if __name__ == '__main__':
    main()
