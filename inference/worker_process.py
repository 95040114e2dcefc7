"""The parent's side of `inference.worker`: start it on pinned cores, ask, and let it run only when it is its turn."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ['WorkerError', 'WorkerProcess', 'available_cores', 'spread']

# Far above any honest answer: a load with its conversion and compilation, or one turn.
ANSWER_TIMEOUT_S = 600.0


class WorkerError(RuntimeError):
    """The worker answered with an error, or died; the message is one line."""


def available_cores() -> list[int]:
    """Cores this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def spread(cores: list[int], siblings: Callable[[int], str]) -> list[int]:
    """Cores in the order in which to use them: two hyper-threads of one core only when each core has one thread.

    Args:
        cores: Numbers of the logical cores.
        siblings: Gives any name that the hyper-threads of a core share.
    """
    seen: dict[str, int] = {}
    ranks = {}
    for core in cores:
        name = siblings(core)
        ranks[core] = seen[name] = seen.get(name, -1) + 1
    return sorted(cores, key=lambda core: (ranks[core], core))


def _siblings(core: int) -> str:
    """The kernel's list of the hyper-threads beside a logical core; where it gives none, each is a core of its own."""
    try:
        return Path(f'/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list').read_text()
    except OSError:
        return str(core)


class WorkerProcess:
    """A worker on its own cores, stopped (SIGSTOP) between its turns, so that its idle threads cannot spin.

    Args:
        threads: Threads and cores it gets, of different physical cores as far as there are any; 0 for all cores.
        timeout: Seconds after which a missing answer counts as a hung engine.
    """

    def __init__(self, threads: int, timeout: float = ANSWER_TIMEOUT_S) -> None:
        self._timeout = timeout
        cores = spread(available_cores(), _siblings)
        cores = cores[:threads] if threads else cores
        environment = dict(os.environ)
        for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
            environment[variable] = str(len(cores))
        self._errors = tempfile.TemporaryFile('w+', errors='replace')  # noqa: SIM115  closed in `close`
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'inference.worker', ','.join(map(str, cores))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def _ask(self, request: dict[str, Any]) -> Any:
        process = self._process
        try:
            self._signal(signal.SIGCONT)
            process.stdin.write(json.dumps(request) + '\n')
            process.stdin.flush()
            # An answer is one line, written at once, so nothing of it can wait in our buffer.
            if not select.select([process.stdout.fileno()], [], [], self._timeout)[0]:
                self._signal(signal.SIGKILL)
                raise WorkerError(f'the engine gave no answer in {self._timeout:g} s')
            line = process.stdout.readline()
        except OSError:
            line = ''
        if not line:
            raise WorkerError(self._last_words())
        self._signal(signal.SIGSTOP)
        answer = json.loads(line)
        if 'error' in answer:
            raise WorkerError(answer['error'])
        return answer['ok']

    def _signal(self, number: signal.Signals) -> None:
        """To the worker and whatever it has started: converters, compilers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)  # it leads a session, and so a group, of its own

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        how = f'killed by {signal.Signals(-code).name}' if code < 0 else f'exited with code {code}'
        return f'the engine was {how}' + (f': {lines[-1][:300]}' if lines else '')

    def activate(self, engine: str, files: Any, condition: Any, samples: Path) -> float:
        """Load a model and compare its output with the expected one.

        Args:
            engine: Its name.
            files: The `ModelFiles`.
            condition: threads, batch and precision.
            samples: An .npz of x and y.

        Returns:
            Largest difference from PyTorch, relative to its largest value.

        Raises:
            WorkerError: The engine cannot load or run the model, or its result is wrong.
        """
        paths = {key: str(value) for key, value in vars(files).items() if value is not None}
        request = dict(engine=engine, files=paths, samples=str(samples), **vars(condition))
        return self._ask({'activate': request})['max_error']

    def time(self, n: int) -> list[float]:
        """Milliseconds of n inferences, after one that is not counted."""
        return self._ask({'time': n})

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._signal(signal.SIGKILL)  # also ends a stopped process
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()
            except OSError:
                continue
