"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from inference.errors import UserError
from inference.files import write_atomically


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_disk_that_can_only_be_read(tmp_path, monkeypatch):
    """There even a file that is not there cannot be removed."""
    (tmp_path / 'config').write_bytes(b'before')
    for name in ('write_bytes', 'unlink'):
        monkeypatch.setattr(Path, name, read_only)
    with pytest.raises(UserError, match='config cannot be written: Read-only file system'):
        write_atomically(tmp_path / 'config', b'after')
    assert (tmp_path / 'config').read_bytes() == b'before'


def test_nothing_is_left_of_what_cannot_be_renamed(tmp_path):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match='folder cannot be written: Is a directory'):
        write_atomically(tmp_path / 'folder', b'data')
    assert [path.name for path in tmp_path.iterdir()] == ['folder']
