"""Images in the form of MNIST: four IDX files, gzipped or not, as Fashion-MNIST comes in Debian's package."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from inference.errors import UserError

__all__ = ['find_idx', 'read_idx']

PREFIXES = {'train': 'train', 'val': 't10k'}


def find_idx(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The files of a split's images and labels; None where the folder has none of this form.

    Args:
        folder: Where they may be.
        split: 'train' or 'val'.
    """
    for suffix in ('', '.gz'):
        names = (f'{PREFIXES[split]}-{what}-ubyte{suffix}' for what in ('images-idx3', 'labels-idx1'))
        images, labels = (folder / name for name in names)
        if images.is_file() and labels.is_file():
            return images, labels
    return None


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: uint8, (count, ...).

    Raises:
        UserError: It is damaged, or something else.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path} is damaged: {error}') from error
    if len(data) < 8 or data[:3] != bytes([0, 0, 8]):
        raise UserError(f'{path} is no IDX file of bytes')
    shape = np.frombuffer(data, '>u4', data[3], offset=4).tolist()
    start = 4 + 4 * data[3]
    if len(data) - start != np.prod(shape):
        raise UserError(f'{path} is cut off: {len(data) - start} bytes for {shape}')
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
