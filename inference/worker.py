"""One engine in a process of its own, driven by lines of JSON: `python -m inference.worker CORES`.

Engines disturb each other in one process (thread pools, allocators, two copies of OpenMP), and a crash of one must not
take the run with it. Requests come on standard input, one a line, and answers go to the standard output that the
process was started with; whatever an engine prints goes to standard error.

    {"activate": {engine, files, threads, batch, precision, samples}}   -> {"ok": {"max_error": float}}
    {"time": n}                                                         -> {"ok": [milliseconds] * n}
    any failure                                                         -> {"error": "one line"}
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Above this a row is wrong and is not timed: far above rounding (and in fp32 Winograd's error; a GPU multiplies it in
# TF32, whose fraction is that of fp16), far below a wrong weight.
MAX_RELATIVE_ERROR = {
    ('cpu', 'fp32'): 1e-3,
    ('cpu', 'int8'): 1e-1,
    ('cuda', 'fp32'): 1e-2,
    ('cuda', 'fp16'): 5e-3,
    ('cuda', 'bf16'): 3e-2,
}
GPU_WARM_UP_S = 0.1


def compare(output: Any, expected: Any, device: str = 'cpu', precision: str = 'fp32') -> float:
    """Largest difference, relative to the largest expected value.

    Raises:
        ValueError: Another shape, a value that is not finite, or a difference above `MAX_RELATIVE_ERROR`.
    """
    import numpy as np

    if output.shape != expected.shape:
        raise ValueError(f'output of shape {output.shape}, expected {expected.shape}')
    if not np.isfinite(expected).all():
        raise ValueError("PyTorch's own output is not finite: the weights are broken")
    if not np.isfinite(output).all():
        raise ValueError('output is not finite')
    error = float(np.abs(output - expected).max() / np.abs(expected).max())
    largest = MAX_RELATIVE_ERROR[device, precision]
    if not error <= largest:  # also when it is not a number
        raise ValueError(f'output differs from PyTorch by {error:.1e}, more than {largest:.0e}')
    return error


class Worker:
    """Answers the requests, in order: activate, then time any number of times."""

    def activate(
        self, engine: str, files: dict[str, str], threads: int, batch: int, precision: str, samples: str
    ) -> dict[str, float]:
        import numpy as np

        from .engines import ModelFiles, load_engine

        with np.load(samples) as data:
            self._x, expected = data['x'], data['y']
        self._engine = load_engine(engine)(
            ModelFiles(**{key: Path(value) for key, value in files.items()}), threads, batch, precision
        )
        self._engine.activate()
        # Twice: the first call may compile, and a second that differs from it would be a bug too.
        self._engine.infer(self._x)
        output = self._engine.infer(self._x)
        return {'max_error': compare(output, expected, self._engine.device, precision)}

    def time(self, n: int) -> list[float]:
        if self._engine.device == 'cuda':  # its clocks fall while it waits for its turn
            end = time.perf_counter() + GPU_WARM_UP_S
            while time.perf_counter() < end:
                self._engine.infer(self._x)
        return self._engine.time(self._x, n)


def _die_with_parent() -> None:
    """A stopped worker must not outlive a parent that was killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; Linux only


def main() -> None:
    _die_with_parent()
    if hasattr(os, 'sched_setaffinity'):  # before any import that starts threads, which inherit it
        os.sched_setaffinity(0, [int(core) for core in sys.argv[1].split(',')])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        ((verb, argument),) = json.loads(line).items()
        try:
            answer: dict[str, Any] = {
                'ok': worker.activate(**argument) if verb == 'activate' else worker.time(argument)
            }
        except Exception as error:
            message = ' '.join(str(error).split())
            answer = {'error': f'{type(error).__name__}: {message}'[:500]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    main()
