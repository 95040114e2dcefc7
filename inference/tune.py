"""Which algorithm each layer runs on, measured in the network on this machine, instead of the kernels' cost model."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable

from .hetconv_op import NHWC_DOMAIN

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ['choose', 'tune']

ATTRIBUTE = 'algorithm'
WORTH = 0.97  # of the cost model's time; a smaller gain is not worth a file that differs
WARM_UP, RUNS = 1, 3  # of a turn; the first brings a session's weights back, which the others drove out


def tune(
    lowered: 'onnx.ModelProto',
    x: 'np.ndarray',
    threads: int = 1,
    rounds: int = 8,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, str]:
    """Run a network once for each algorithm, side by side, and write the faster ones into its nodes.

    A layer is measured where it stands, after its predecessors and with weights that come from memory: alone, with all
    in the cache, other algorithms win. The file is then right for this kind of machine and for inputs of this size;
    it runs on any other, only not always at its best.

    Args:
        lowered: Of `to_ort_cpu(..., joined=False)`; changed in place: attribute `algorithm` of the nodes whose
            algorithm changes.
        x: An input.
        threads: Threads inside an operator.
        rounds: Turns of each algorithm.
        report: Called with what is being done, how much of it is done, and of how much, before every round.

    Returns:
        The algorithm of every node that was changed, by its name.

    Raises:
        ValueError: The layers are joined.
    """
    from .kernels.cpu import ALGORITHMS

    if any(node.domain == NHWC_DOMAIN and node.op_type.endswith('Sequence') for node in lowered.graph.node):
        raise ValueError('layers are measured one by one: lower the model with joined=False')

    convolutions = {
        node.name: node
        for node in lowered.graph.node
        if node.domain == NHWC_DOMAIN and node.op_type in ('HetConv2d', 'Conv', 'FloatConv')
    }
    for node in convolutions.values():
        _set(node, 0)
    times = _measure(lowered, x, threads, rounds, list(ALGORITHMS), report)
    chosen = choose({name: times[name] for name in convolutions if name in times})
    for name, algorithm in chosen.items():
        _set(convolutions[name], ALGORITHMS[algorithm])
    return chosen


def choose(times: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    """The algorithms that are worth a change.

    Args:
        times: Times of every run, by layer and algorithm, 'auto' among them.

    Returns:
        Algorithm by layer, for those where one is faster than 'auto' and three quarters of its runs than three
        quarters of those: 'auto' is one of the others under another name, so that noise alone makes differences.
    """
    chosen = {}
    for name, by_algorithm in times.items():
        quartiles = {algorithm: statistics.quantiles(values, n=4) for algorithm, values in by_algorithm.items()}
        best = min(quartiles, key=lambda algorithm: quartiles[algorithm][1])
        if quartiles[best][1] < WORTH * quartiles['auto'][1] and quartiles[best][2] < quartiles['auto'][0]:
            chosen[name] = best
    return chosen


def _measure(
    proto: 'onnx.ModelProto',
    x: Any,
    threads: int,
    rounds: int,
    algorithms: list[str],
    report: Callable[[str, int, int], None],
) -> dict[str, dict[str, list[float]]]:
    """Microseconds by node and algorithm, as ONNX Runtime's profiler has them."""
    from .engines.ort_cpu import make_session
    from .export import INPUT

    data = proto.SerializeToString()
    times: dict[str, dict[str, list[float]]] = defaultdict(dict)
    with TemporaryDirectory() as folder:
        sessions = {
            algorithm: make_session(data, threads, profile=Path(folder) / algorithm, algorithm=algorithm)
            for algorithm in algorithms
        }
        for done in range(rounds):
            report('measuring algorithms', done, rounds)
            for session in sessions.values():
                for _ in range(WARM_UP + RUNS):
                    session.run(None, {INPUT: x})
        for algorithm, session in sessions.items():
            for name, values in _kernel_times(Path(session.end_profiling())).items():
                turns = (values[i : i + WARM_UP + RUNS] for i in range(0, len(values), WARM_UP + RUNS))
                times[name][algorithm] = [value for turn in turns for value in turn[WARM_UP:]]
    return times


def _kernel_times(profile: Path) -> dict[str, list[float]]:
    """Microseconds of every run, by node."""
    suffix = '_kernel_time'
    times: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        if event.get('cat') == 'Node' and event['name'].endswith(suffix):
            times[event['name'].removesuffix(suffix)].append(event['dur'])
    return times


def _set(node: 'onnx.NodeProto', number: int) -> None:
    import onnx

    for attribute in list(node.attribute):
        if attribute.name == ATTRIBUTE:
            node.attribute.remove(attribute)
    if number:
        node.attribute.append(onnx.helper.make_attribute(ATTRIBUTE, number))
