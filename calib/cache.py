"""Ranges that were found once: a file of JSON, known by everything that they depend on.

The key is a SHA-256 over the network, the images, the method and the versions that computed them. A file says its own
key and a checksum of its content: one that is damaged, of other content or of an older form is refused, and never used
in part. Files are written beside and renamed, so processes may share a folder.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.errors import UserError
from inference.files import write_atomically

from .ranges import Ranges

__all__ = ['key_of', 'load_ranges', 'path_of', 'save_ranges']

FORM = 1


def key_of(model: bytes, images: str, method: str, symmetric: bool, tensors: Sequence[str]) -> str:
    """Of a calibration.

    Args:
        model: The ONNX file.
        images: Digest of the images, in their order.
        method: Of `ranges.METHODS`.
        symmetric: Whether ranges have zero in their middle.
        tensors: Which have a range: another version may want others of the same network.
    """
    from importlib.metadata import version

    facts = [
        FORM, hashlib.sha256(model).hexdigest(), images, method, symmetric, version('timm-hetconv'),
        _onnxruntime_version(), list(tensors),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _onnxruntime_version() -> str:
    import onnxruntime

    return onnxruntime.__version__


def path_of(folder: Path, key: str) -> Path:
    """Where the ranges of a key are."""
    return folder / f'{key[:16]}.ranges.json'


def save_ranges(path: Path, key: str, ranges: Ranges) -> None:
    """Write ranges; the folder must be there.

    Raises:
        UserError: It cannot be written to.
    """
    content = {'form': FORM, 'key': key, 'ranges': ranges}
    write_atomically(path, json.dumps({**content, 'checksum': _checksum(content)}, indent=1).encode() + b'\n')


def load_ranges(path: Path, key: str) -> Ranges | None:
    """Ranges of this very key; None where there is no file.

    Raises:
        UserError: The file is damaged, of another form, or of something else.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        checksum = content.pop('checksum')
        form = content['form']
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path} is damaged or no cache of ranges: remove it') from error
    if form != FORM:
        raise UserError(f'{path} has the form {form} of another version, this one writes {FORM}: remove it')
    if checksum != _checksum(content):
        raise UserError(f'{path} is damaged, its checksum is wrong: remove it')
    if content['key'] != key:
        raise UserError(f'{path} is of another network, other images or another method: remove it')
    return {name: (float(low), float(high)) for name, (low, high) in content['ranges'].items()}


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
