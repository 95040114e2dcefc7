"""How long the network of a version takes on this machine, by itself: what a server's latency is compared with."""

import statistics
import time
from typing import TYPE_CHECKING, Any

from .config import Settings

if TYPE_CHECKING:
    import numpy as np

__all__ = ['measure']

SECONDS, LEAST, MOST = 0.5, 5, 50


def measure(data: bytes, input_size: list[int], settings: Settings) -> dict[str, Any]:
    """Run the network alone, one image and a full batch.

    Args:
        data: ONNX, on our kernels or of standard operators.
        input_size: (C, H, W).
        settings: How many threads, and images a run.

    Returns:
        cpu, cores, threads, versions, and rows: batch, runs, ms (median), images_per_second.
    """
    import numpy as np

    from ..engines.ort_cpu import make_session
    from ..environment import describe_environment
    from ..export import INPUT

    session = make_session(data, settings.threads)
    rows = []
    for batch in dict.fromkeys((1, settings.max_batch)):
        x = np.random.default_rng(0).standard_normal((batch, *input_size), np.float32)
        times = _times(session, INPUT, x)
        median = statistics.median(times)
        rows.append(
            dict(batch=batch, runs=len(times), ms=round(median * 1e3, 3), images_per_second=round(batch / median, 1))
        )
    machine = describe_environment(['ort-cpu'])
    return {
        **{key: machine[key] for key in ('cpu', 'cores', 'isa', 'onnxruntime')},
        'threads': settings.threads,
        'rows': rows,
    }


def _times(session: Any, name: str, x: 'np.ndarray') -> list[float]:
    """Seconds of each run after two that are not counted."""
    times: list[float] = []
    for i in range(-2, MOST):
        start = time.perf_counter()
        session.run(None, {name: x})
        if i >= 0:
            times.append(time.perf_counter() - start)
        if len(times) >= LEAST and sum(times) > SECONDS:
            break
    return times
