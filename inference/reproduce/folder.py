"""The folder of a run: who trains in it, what was begun in it, and which of its checkpoints to go on from."""

import contextlib
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ..errors import UserError
from ..files import write_atomically
from .results import Epoch

__all__ = ['RunFailed', 'State', 'alone', 'newest_checkpoint', 'read_curve', 'untold_seconds']

STATE = 'reproduce.json'


class RunFailed(Exception):
    """A run ended with an error, which it says in one line; what it has done is kept."""


@dataclass
class State:
    """What train.py's own files do not say.

    Attributes:
        begun: What the run began with, which is not to change: settings, data, device. Empty of earlier versions.
        seconds: Of the parts so far.
        resumed_at: Epochs at which it went on.
        codes: Revisions at the beginning of each part.
    """

    begun: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    resumed_at: list[int] = field(default_factory=list)
    codes: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def load(folder: Path) -> 'State | None':
        """None where it is damaged; a new one where there is none."""
        try:
            found = json.loads((folder / STATE).read_text())
            return State(
                dict(found.get('begun', {})), float(found['seconds']), list(found['resumed_at']),
                list(found.get('codes', [])),
            )  # fmt: skip
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, folder: Path) -> None:
        """Write it, where the disk has room: of a full one the run tells."""
        with contextlib.suppress(UserError):
            write_atomically(folder / STATE, json.dumps({**vars(self), 'seconds': round(self.seconds, 1)}).encode())


def untold_seconds(folder: Path) -> float:
    """How long train.py went on after the state was written, by the time of its files: its command may be killed."""
    times = {}
    for name in (STATE, 'summary.csv', 'last.pth.tar'):
        with contextlib.suppress(FileNotFoundError):
            times[name] = (folder / name).stat().st_mtime
    return max(times.values()) - times[STATE] if STATE in times else 0.0


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[TextIO]:
    """No other process trains here meanwhile.

    train.py inherits the file, so that it keeps others away when the command that started it is killed.

    Yields:
        The file of the lock, for the number of the process that trains.

    Raises:
        RunFailed: Another one does.
    """
    import fcntl

    with (folder / 'lock').open('a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            number = file.read().strip()
            raise RunFailed(
                f'{folder.name} is being trained by process {number or "of another command"}: wait for it, or end it'
            ) from None
        file.truncate(0)
        yield file


def newest_checkpoint(folder: Path, epochs: int) -> tuple[tuple[int, Path] | None, str]:
    """The newest that is whole, of no later epoch than the curve has.

    Args:
        folder: Of the run.
        epochs: How many the curve has from the first on: those of train.py's summary, which it writes first.

    Returns:
        Its last epoch and its path, or None; and what is wrong with others, or ''.
    """
    found, note = [], ''
    for path in folder.glob('*.pth.tar'):
        epoch = _epoch_of(path)
        if epoch is None:
            if path.name.startswith(('last', 'checkpoint')):
                note = f'{path} is cut off or damaged'
        elif epoch < epochs:
            found.append((epoch, path.name == 'last.pth.tar', path))
        else:
            note = f'{folder / "summary.csv"} is damaged: {epoch + 1} epochs were trained, and it has {epochs}'
    if not found:
        return None, note
    epoch, _, path = max(found)
    return (epoch, path), note


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
    """Epochs in train.py's summary.csv from the first on, up to one that is not there.

    A run that went on has a second head there, and perhaps an epoch twice, of which the later is right; one that was
    killed while it wrote has half a line at the end.
    """
    try:
        text = summary.read_text(encoding='utf-8', errors='replace')
    except FileNotFoundError:
        return []
    epochs: dict[int, Epoch] = {}
    for row in csv.DictReader(line for line in text.splitlines(keepends=True) if line.endswith('\n')):
        try:
            epoch = Epoch(
                epoch=int(row['epoch']),
                train_loss=float(row['train_loss']),
                val_loss=float(row['eval_loss']),
                top1=float(row['eval_top1']),
                top5=float(row['eval_top5']),
            )
        except (KeyError, TypeError, ValueError):  # a second head among them
            continue
        epochs[epoch.epoch] = epoch
    curve: list[Epoch] = []
    while len(curve) in epochs:
        curve.append(epochs[len(curve)])
    return curve
