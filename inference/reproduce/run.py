"""One run: timm's train.py in a process of its own, which can be killed at any time and goes on where it was."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_atomically
from .dataset import Dataset
from .recipes import Recipe
from .results import Epoch

__all__ = ['Plan', 'RunFailed', 'Training', 'read_curve']

STEP = re.compile(r'Train: (\d+) \[ *(\d+)/(\d+)')
STATE = 'reproduce.json'


class RunFailed(Exception):
    """A run ended with an error, which it says in one line; what it has done is kept."""


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
        if self.device == 'cpu':
            command.append('--no-prefetcher')
        if not self.data.checksum:
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
        resumed_at: Epochs at which it went on, this time and earlier.
        note: What a user should know of its beginning: '' or that it goes on, or why it cannot.
        done: Epochs, and the share of the one that runs.
        seconds: Of the parts that have ended.
    """

    plan: Plan
    folder: Path
    resumed_at: list[int] = field(default_factory=list)
    note: str = ''
    done: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = 0.0
        self._process: subprocess.Popen | None = None
        self._stop = threading.Event()
        state = self.folder / STATE
        try:
            earlier = json.loads(state.read_text())
            self.seconds, self.resumed_at = float(earlier['seconds']), list(earlier['resumed_at'])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self.note = f'{state} is damaged: the time of earlier parts is not counted'

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
    ) -> float:
        """Train to the end.

        Args:
            timm_dir: A clone of timm's repository.
            threads: Of PyTorch, on a CPU.
            workers: Processes that read images.
            report: Called whenever `done` has grown.

        Returns:
            Seconds, those of earlier parts among them.

        Raises:
            RunFailed: train.py ended with an error, or was killed.
            UserError: The disk is full.
        """
        resume = self._checkpoint()
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
                    errors='replace', start_new_session=True,
                )  # fmt: skip
                if self._stop.is_set():
                    self.stop()
                assert self._process.stdout is not None
                for line in self._process.stdout:
                    file.write(line)
                    tail = [*tail[-99:], line]
                    match = STEP.match(line)
                    if match:
                        epoch, step, steps = map(int, match.groups())
                        self.done = epoch + step / max(steps, 1)
                        report(self)
        except OSError as error:
            raise UserError(f'{log}: {error.strerror}; what was done is kept') from error
        finally:
            self._end()
            self._save_state(self.seconds + time.monotonic() - started)
        if self._process.returncode or not self.complete:
            raise RunFailed(f'{self.plan.name} {_reason(self._process.returncode, tail)}; all it said: {log}')
        self.done = self.plan.total
        report(self)
        return self.seconds + time.monotonic() - started

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

    def _save_state(self, seconds: float) -> None:
        state = {'seconds': round(seconds, 1), 'resumed_at': self.resumed_at}
        with contextlib.suppress(UserError):  # a full disk, of which the run has told
            write_atomically(self.folder / STATE, json.dumps(state).encode())

    def _checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; None to begin, with what was there before put away."""
        found = []
        for path in self.folder.glob('*.pth.tar'):
            epoch = _epoch_of(path)
            if epoch is not None:
                found.append((epoch, path.name == 'last.pth.tar', path))
            elif path.name.startswith(('last', 'checkpoint')):
                self.note = f'{path} is cut off or damaged'
        if found:
            epoch, _, path = max(found)
            self.resumed_at = [*self.resumed_at, epoch + 1]
            self.done = epoch + 1
            self.note = f'{self.note}, ' * bool(self.note) + f'goes on after epoch {epoch + 1} of {self.plan.total}'
            return path
        if (self.folder / 'summary.csv').exists():
            os.replace(self.folder / 'summary.csv', self.folder / 'summary-before.csv')
            self.note = f'{self.note}, ' * bool(self.note) + 'begins again'
        self.seconds, self.resumed_at, self.done = 0.0, [], 0.0
        return None


def _epoch_of(checkpoint: Path) -> int | None:
    """The last epoch in a checkpoint; None where it is not whole."""
    import argparse

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return int(torch.load(checkpoint, map_location='cpu', weights_only=True)['epoch'])
    except Exception:  # whatever pickle and zip say of half a file
        return None


def read_curve(summary: Path) -> list[Epoch]:
    """Epochs in train.py's summary.csv, in order.

    A run that went on has a second head there, and perhaps an epoch twice, of which the later is right; one that was
    killed while it wrote has half a line at the end.
    """
    try:
        text = summary.read_text(encoding='utf-8')
    except FileNotFoundError:
        return []
    epochs: dict[int, Epoch] = {}
    for row in csv.DictReader(line for line in text.splitlines(keepends=True) if line.endswith('\n')):
        if row['epoch'] == 'epoch':
            continue
        try:
            epoch = Epoch(
                epoch=int(row['epoch']),
                train_loss=float(row['train_loss']),
                val_loss=float(row['eval_loss']),
                top1=float(row['eval_top1']),
                top5=float(row['eval_top5']),
            )
        except (KeyError, TypeError, ValueError):
            continue
        epochs[epoch.epoch] = epoch
    curve = [epochs[number] for number in sorted(epochs)]
    return curve if [epoch.epoch for epoch in curve] == list(range(len(curve))) else []


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
