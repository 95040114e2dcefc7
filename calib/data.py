"""Images for calibration and evaluation, prepared as the network's metadata says: folders, arrays, any iterable.

A source gives batches (images, labels): images float32 (B, C, H, W), normalised; labels int64 (B,), or None where there
are none.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from inference.errors import UserError

from .idx import find_idx, read_idx

__all__ = ['Arrays', 'Batch', 'Folder', 'batches_of', 'has_parts', 'open_source']

Batch = tuple[np.ndarray, Optional[np.ndarray]]


@dataclass
class Folder:
    """Some of the images in a folder: the same ones for the same seed.

    Args:
        root: Images in folders, one a class; or without classes, and then without labels.
        facts: Metadata of the network: input_size, mean, std, interpolation, crop_pct.
        count: How many images; 0 for all.
        seed: Of the choice.
        skip: So many of the choice are left out first, since they are used otherwise.
        fewer: Where there are fewer than `count`, take all.
        batch_size: Images a batch; the last has what is left.

    Raises:
        UserError: No images, or fewer than asked for.
    """

    root: Path
    facts: dict[str, Any]
    count: int = 0
    seed: int = 0
    skip: int = 0
    fewer: bool = False
    batch_size: int = 32
    files: list[tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        from timm.data.readers.reader_image_folder import find_images_and_targets

        if not self.root.is_dir():
            what = 'a file, no folder of images and no .npz' if self.root.exists() else 'no such folder of images'
            raise UserError(f'{self.root}: {what}')
        files, classes = find_images_and_targets(str(self.root))
        if not files:
            raise UserError(f'{self.root} holds no images')
        self.labelled = len(classes) == self.facts.get('num_classes')
        self.files = [files[i] for i in self._choice(len(files))]

    def _choice(self, total: int) -> np.ndarray:
        return _choice(str(self.root), total, self.count, self.seed, self.skip, self.fewer)

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """SHA-256 of the images' content, in their order."""
        digest = hashlib.sha256()
        for path, _ in self.files:
            try:
                digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
            except OSError as error:
                raise UserError(f'{path}: {error.strerror}') from error
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        transform, mode = _transform(self.facts)
        for start in range(0, len(self.files), self.batch_size):
            chosen = self.files[start : start + self.batch_size]
            images = np.stack([_read(path, mode, transform) for path, _ in chosen])
            yield images, np.array([label for _, label in chosen]) if self.labelled else None


def _choice(where: str, total: int, count: int, seed: int, skip: int, fewer: bool) -> np.ndarray:
    """`count` of `total` numbers, or all, after the first `skip` of the same order.

    Raises:
        UserError: There are not so many.
    """
    if fewer:
        count = min(count, total - skip)
    if skip + max(count, 1) > total:
        others = f' besides the {skip} for calibration' if skip else ''
        raise UserError(f'{where} has {total} images, and {max(count, 1)} are asked for{others}')
    return np.random.default_rng(seed).permutation(total)[skip : skip + count if count else None]


_PREPARATION = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')


def _transform(facts: dict[str, Any]) -> tuple[Any, str]:
    """From a PIL image to a tensor, and the mode that the image must have."""
    from timm.data import create_transform

    arguments = {key: facts[key] for key in _PREPARATION if key in facts}
    arguments['input_size'] = tuple(arguments['input_size'])
    return create_transform(**arguments, is_training=False), 'L' if arguments['input_size'][0] == 1 else 'RGB'


def _read(path: str, mode: str, transform: Any) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            converted = image.convert(mode)
    except Exception as error:  # whatever a decoder says
        raise UserError(f'{path} cannot be read as an image: {" ".join(str(error).split())}') from error
    return transform(converted).numpy()


@dataclass
class Arrays:
    """Images in memory, prepared already.

    Args:
        images: (count, C, H, W), float32.
        labels: (count,), or None.
        batch_size: Images a batch; the last has what is left.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    batch_size: int = 32

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """SHA-256 of the images."""
        return hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            yield self.images[chosen], None if self.labels is None else self.labels[chosen]


# Images a batch: of large ones few, since the activations of a batch are in memory at once.
SMALL_IMAGE = 128 * 128
FEW = 8


def _batch_size(facts: dict[str, Any]) -> int:
    return 32 if facts['input_size'][1] * facts['input_size'][2] <= SMALL_IMAGE else FEW


def open_source(
    path: Path, facts: dict[str, Any], split: str, count: int = 0, seed: int = 0, skip: int = 0, fewer: bool = False
) -> 'Folder | Arrays':
    """A folder of images, its part `split` where it has parts; files of MNIST's form; or a file of NumPy.

    Args:
        path: A folder; an .npz with `images` (count, C, H, W), prepared, and perhaps `labels`; an .npy of images.
        facts: Metadata of the network.
        split: 'train' or 'val': which folder inside, where there are such.
        count: How many; 0 for all.
        seed: Of the choice.
        skip: So many of the choice are left out first, where there are no parts.
        fewer: Where there are fewer than `count`, take all.

    Raises:
        UserError: There is none, it has too few images, or a part is missing.
    """
    if path.suffix.lower() not in ('.npz', '.npy'):
        idx = find_idx(path, split)
        if idx is not None:
            return _of_idx(*idx, facts, count, seed, fewer)
        if not has_parts(path):
            return Folder(path, facts, count, seed, skip, fewer, _batch_size(facts))
        if not (path / split).is_dir():
            raise UserError(f'{path} has no folder {split}/')
        return Folder(path / split, facts, count, seed, 0, fewer, _batch_size(facts))
    try:
        loaded = np.load(path, allow_pickle=False)
        images, labels = (loaded, None) if path.suffix.lower() == '.npy' else (loaded['images'], loaded.get('labels'))
    except OSError as error:
        raise UserError(f'{path}: {error.strerror or "no file of NumPy"}') from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f'{path} is damaged, or no file of NumPy with `images`') from error
    if images.ndim != 4 or (labels is not None and labels.shape != images.shape[:1]):
        raise UserError(f'{path} should have images of shape (count, C, H, W), and as many labels or none')
    if images.dtype.kind != 'f':
        raise UserError(f'{path} has images of {images.dtype}: they should be prepared, in floating point')
    order = _choice(str(path), len(images), count, seed, skip, fewer)
    return Arrays(images[order].astype(np.float32), None if labels is None else labels[order])


def _of_idx(images: Path, labels: Path, facts: dict[str, Any], count: int, seed: int, fewer: bool) -> Arrays:
    from PIL import Image

    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or classes.shape != pixels.shape[:1]:
        raise UserError(f'{images} and {labels} do not fit together')
    transform, mode = _transform(facts)
    order = _choice(str(images), len(pixels), count, seed, 0, fewer)
    x = np.stack([transform(Image.fromarray(image).convert(mode)).numpy() for image in pixels[order]])
    return Arrays(x, classes[order].astype(np.int64))


def has_parts(path: Path) -> bool:
    """Is it a folder with a part for training and one for validation?"""
    return (path / 'train').is_dir() or (path / 'val').is_dir() or find_idx(path, 'val') is not None


def batches_of(source: Iterable[Any], input_size: Sequence[int]) -> Iterator[Batch]:
    """Batches of any source, looked at: also of a torch DataLoader, or of an iterable of arrays.

    Args:
        source: Gives arrays or tensors (B, C, H, W), or pairs of them and labels (B,).
        input_size: (C, H, W).

    Raises:
        UserError: Another shape, or values that are no numbers.
    """
    for index, item in enumerate(source):
        images, labels = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        images = np.ascontiguousarray(np.asarray(images), np.float32)
        if images.ndim != 4 or list(images.shape[1:]) != list(input_size):
            raise UserError(
                f'batch {index} has the shape {tuple(images.shape)}, the network takes (batch, '
                + f'{", ".join(map(str, input_size))})'
            )
        if not np.isfinite(images).all():
            raise UserError(f'batch {index} has values that are not finite')
        yield images, None if labels is None else _checked_labels(np.asarray(labels), len(images), index)


def _checked_labels(labels: np.ndarray, count: int, batch: int) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in 'iu':
        raise UserError(
            f'the labels of batch {batch} are {labels.dtype} of shape {labels.shape}, not {count} numbers of classes'
        )
    return labels
