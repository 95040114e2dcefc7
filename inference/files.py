"""Files that are whole or not there."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

__all__ = ['require_checkpoint', 'write_atomically', 'write_together']


def require_checkpoint(path: Path) -> None:
    """Raises UserError where there is no such file; what is in it is not looked at."""
    if path.is_dir():
        raise UserError(f'{path} is a folder; give a file in it, last.pth.tar or model_best.pth.tar')
    if not path.is_file():
        raise UserError(f'{path}: no such checkpoint file')


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, then rename: no reader ever sees half a file, and an interrupted write leaves nothing.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    write_together({path: data})


def write_together(contents: dict[Path, bytes]) -> None:
    """Write several files beside, then rename one after the other, which Ctrl-C does not come between.

    Raises:
        UserError: A folder does not exist or cannot be written to.
    """
    own = f'{os.getpid()}.{threading.get_ident()}'
    temporaries = {path: path.with_name(f'.{path.name}.{own}') for path in contents}
    path = next(iter(contents))
    try:
        for path, data in contents.items():
            temporaries[path].write_bytes(data)
        with _without_interrupts():
            for path, temporary in temporaries.items():
                os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):  # not there, or on a disk that can only be read
                temporary.unlink()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end, where the system can make it wait."""
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
