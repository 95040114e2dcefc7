"""The bench's processes: what they answer, how they wait, and how they end."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from inference.bench import Condition
from inference.engines import ModelFiles
from inference.worker import compare
from inference.worker_process import WorkerError, WorkerProcess, spread


def test_compare():
    expected = np.array([[1.0, -2.0]], np.float32)
    assert compare(expected + 1e-3, expected) == pytest.approx(5e-4, rel=1e-2)
    for output, words in [
        (expected * 1.01, 'differs'),
        (expected * np.nan, 'not finite'),
        (expected[0], 'shape'),
    ]:
        with pytest.raises(ValueError, match=words):
            compare(output, expected)
    with pytest.raises(ValueError, match="PyTorch's own output is not finite"):
        compare(expected, expected * np.nan)


@pytest.mark.parametrize(
    ('siblings', 'order'),
    [
        ({0: '0', 1: '1', 2: '2', 3: '3'}, [0, 1, 2, 3]),
        ({0: '0-1', 1: '0-1', 2: '2-3', 3: '2-3'}, [0, 2, 1, 3]),
        ({4: '0,4', 5: '1,5', 6: '2,6', 2: '2,6'}, [2, 4, 5, 6]),
    ],
)
def test_hyper_threads_of_one_core_come_last(siblings, order):
    assert spread(sorted(siblings), siblings.__getitem__) == order


@pytest.fixture
def worker():
    process = WorkerProcess(threads=1)
    yield process
    process.close()


def test_worker_reports_an_error_in_one_line_and_lives(worker, tmp_path):
    files = ModelFiles(*(tmp_path / name for name in 'abc'))
    for _ in range(2):
        with pytest.raises(WorkerError, match='FileNotFoundError') as caught:
            worker.activate('torch', files, Condition(1), tmp_path / 'none.npz')
        assert '\n' not in str(caught.value)


def test_worker_that_dies_says_how(worker):
    os.write(worker._errors.fileno(), b'\xff not UTF-8\n')
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match='killed by SIGKILL'):
        worker.time(1)


def test_a_worker_that_hangs_is_ended(monkeypatch):
    process = WorkerProcess(threads=1, timeout=0.5)
    monkeypatch.setattr(process, '_signal', lambda number: None if number == signal.SIGCONT else forward(number))
    forward = functools.partial(WorkerProcess._signal, process)
    try:
        forward(signal.SIGSTOP)  # and nothing wakes it up: an engine that never answers
        with pytest.raises(WorkerError, match='gave no answer in'):
            process.time(1)
        assert process._process.wait(20) == -signal.SIGKILL
    finally:
        process.close()


def wait_until(condition, otherwise):
    """Signals arrive when the kernel gets to it."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc and asks the kernel for a death signal')
def test_worker_is_stopped_between_turns_and_dies_with_its_parent(tmp_path):
    code = (
        'import time\n'
        'from inference.worker_process import WorkerError, WorkerProcess\n'
        'from inference.bench import Condition\n'
        'from inference.engines import ModelFiles\n'
        'w = WorkerProcess(1)\n'
        'try: w.activate("torch", ModelFiles(*"abc"), Condition(1), "none.npz")\n'
        'except WorkerError: print(w._process.pid, flush=True)\n'
        'time.sleep(60)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    status = Path(f'/proc/{pid}/status')
    wait_until(lambda: 'T (stopped)' in status.read_text(), 'the worker was not stopped')
    parent.kill()
    parent.wait()
    wait_until(lambda: not status.exists() or 'Z (zombie)' in status.read_text(), 'the worker outlived its parent')
