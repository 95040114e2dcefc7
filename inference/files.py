"""Files that are whole or not there."""

import os
from pathlib import Path

from .errors import UserError

__all__ = ['write_atomically']


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, then rename: no reader ever sees half a file, and an interrupted write leaves nothing.

    Raises:
        UserError: The folder does not exist or cannot be written to.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        temporary.unlink(missing_ok=True)
