"""One run: timm's train.py in a process of its own, which can be killed at any time and goes on where it was."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from .dataset import Dataset
from .folder import RunFailed, State, alone, newest_checkpoint, read_curve, untold_seconds
from .recipes import Recipe
from .results import Epoch

__all__ = ['Plan', 'Training']

REFUSED = re.compile(r'train\.py: error: (argument .*)')
STEP = re.compile(r'Train: (\d+) \[ *(\d+)/(\d+)')


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes:
        model: Registered name.
        recipe: Of `load_recipe`.
        seed: train.py's.
        epochs: How many.
        data: What on.
        device: 'cpu' or 'cuda', train.py's.
    """

    model: str
    recipe: Recipe
    seed: int
    epochs: int
    data: Dataset
    device: str = 'cpu'

    @property
    def name(self) -> str:
        """Of its folder, and of the file of its result."""
        return f'{self.model}-{self.recipe.name}-{self.epochs}-s{self.seed}'

    @property
    def begun(self) -> dict[str, Any]:
        """What a run must not change when it goes on."""
        # What train.py downloads has no checksum before.
        data = self.data.dataset if self.data.downloads else self.data.checksum
        facts = {'settings': self.recipe.settings, 'data': data, 'device': self.device}
        return json.loads(json.dumps(facts, default=str))

    @property
    def total(self) -> int:
        """Epochs that train.py makes of it: some recipes add a few before and after."""
        settings = self.recipe.settings
        before = settings.get('warmup_epochs', 5) if settings.get('warmup_prefix') else 0
        return self.epochs + before + settings.get('cooldown_epochs', 0)

    def command(self, timm_dir: Path, output: Path, resume: Path | None, workers: int) -> list[str]:
        """train.py's command line. What it says goes before what the recipe says."""
        command: list[Any] = [
            sys.executable, '-m', 'timm_hetconv', timm_dir / 'train.py', '--config', self.recipe.path,
            '--model', self.model, '--dataset', self.data.dataset, '--data-dir', self.data.folder,
            '--epochs', self.epochs, '--seed', self.seed, '--output', output, '--experiment', self.name,
            '--device', self.device, '--workers', workers, '--log-interval', 20,
        ]  # fmt: skip
        for name, value in self.recipe.changed.items():
            command += [f'--{name.replace("_", "-")}', *(value if isinstance(value, list) else [value])]
        if self.device == 'cpu':
            command.append('--no-prefetcher')
        if self.data.downloads:
            command.append('--dataset-download')
        if resume is not None:
            command += ['--resume', resume]
        return [str(part) for part in command]


@dataclass
class Training:
    """A run that is under way.

    Attributes:
        plan: What is trained.
        folder: Of train.py's files: checkpoints, summary.csv, and its output, log.txt.
        code: Revisions that it is trained with now.
        note: What a user should know of its beginning: '' or that it goes on, or why it cannot.
        done: Epochs, and the share of the one that runs.
        state: Of all its parts.
    """

    plan: Plan
    folder: Path
    code: dict[str, Any] = field(default_factory=dict)
    note: str = ''
    done: float = 0.0
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen | None = None
        self._stop = threading.Event()
        state = State.load(self.folder)
        if state is None:
            self.note = f'the state of {self.folder} is damaged: the time of earlier parts is not counted'
        else:
            self.state = state
            self.state.seconds += untold_seconds(self.folder)

    @property
    def curve(self) -> list[Epoch]:
        """Epochs that have ended."""
        return read_curve(self.folder / 'summary.csv')

    @property
    def complete(self) -> bool:
        """Has every epoch ended?"""
        return len(self.curve) >= self.plan.total

    def run(
        self,
        timm_dir: Path,
        threads: int,
        workers: int,
        report: Callable[['Training'], None] = lambda training: None,
    ) -> None:
        """Train to the end.

        Args:
            timm_dir: A clone of timm's repository.
            threads: Of PyTorch, on a CPU.
            workers: Processes that read images.
            report: Called whenever `done` has grown.

        Raises:
            RunFailed: train.py ended with an error, or was killed; or another command trains the same.
            UserError: The disk is full, or train.py does not take a value of the recipe.
        """
        with alone(self.folder) as lock:
            self._run(timm_dir, threads, workers, report, lock)

    def _run(
        self, timm_dir: Path, threads: int, workers: int, report: Callable[['Training'], None], lock: TextIO
    ) -> None:
        resume = self._checkpoint()
        before = self.state.seconds
        self.state.begun = self.plan.begun
        self.state.codes = [*self.state.codes, self.code]
        self.state.save(self.folder)
        command = self.plan.command(timm_dir, self.folder.parent, resume, workers)
        environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'PYTHONUNBUFFERED': '1'}
        started = time.monotonic()
        log = self.folder / 'log.txt'
        tail: list[str] = []
        try:
            with log.open('a', encoding='utf-8') as file:
                # In a group of its own: Ctrl-C is ours, and reaches it by `stop`.
                self._process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    errors='replace', start_new_session=True, pass_fds=[lock.fileno()],
                )  # fmt: skip
                lock.write(str(self._process.pid))
                lock.flush()
                if self._stop.is_set():
                    self.stop()
                assert self._process.stdout is not None
                for line in self._process.stdout:
                    file.write(line)
                    tail = [*tail[-99:], line]
                    match = STEP.match(line)
                    if match:
                        epoch, step, steps = map(int, match.groups())
                        if epoch > self.done:  # should this process be killed, an epoch's time is lost at most
                            self.state.seconds = before + time.monotonic() - started
                            self.state.save(self.folder)
                        self.done = epoch + step / max(steps, 1)
                        report(self)
        except OSError as error:
            raise UserError(
                f'{log}: {error.strerror}; what was done is kept: free some space and give the same command again'
            ) from error
        finally:
            self._end()
            self.state.seconds = before + time.monotonic() - started
            self.state.save(self.folder)
        if self._process.returncode == 2 and tail and (refused := REFUSED.match(tail[-1])):
            if not any(self.folder.glob('*.pth.tar')):
                shutil.rmtree(self.folder, ignore_errors=True)  # nothing was begun
            raise UserError(f'{self.plan.recipe.path}: {refused[1]}')
        if self._process.returncode or not self.complete:
            raise RunFailed(f'{self.plan.name} {_reason(self._process.returncode, tail)}; all it said: {log}')
        self.done = self.plan.total
        report(self)

    def stop(self) -> None:
        """End the process from another thread, with those that read its images."""
        self._stop.set()
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def _end(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what reads images may outlive it
        self._process.wait()

    def _checkpoint(self) -> Path | None:
        """The newest checkpoint to go on from; None to begin, with what was there before put away."""
        found, wrong = newest_checkpoint(self.folder, len(self.curve))
        words = [word for word in (self.note, wrong) if word]
        if found:
            epoch, path = found
            self.state.resumed_at = [*self.state.resumed_at, epoch + 1]
            self.done = epoch + 1
            self.note = ', '.join([*words, f'goes on after epoch {epoch + 1} of {self.plan.total}'])
            return path
        if (self.folder / 'summary.csv').exists():
            os.replace(self.folder / 'summary.csv', self.folder / 'summary-before.csv')
            self.note = ', '.join([*words, 'begins again'])
        self.state, self.done = State(), 0.0
        return None


def _reason(code: int, tail: list[str]) -> str:
    text = ''.join(tail)
    if 'No space left on device' in text:
        return 'found the disk full: free some space and give the same command again'
    if code == -signal.SIGKILL:
        return 'was killed, perhaps for want of memory: the same command goes on where it was'
    if code == -signal.SIGTERM:
        return 'was stopped: the same command goes on where it was'
    said = [line.strip() for line in tail if line.strip()]
    return f'failed, exit code {code}: {said[-1][:200] if said else "it said nothing"}'
