"""The images that a run trains on: looked at before hours of work, and known by a checksum after it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

__all__ = ['Dataset', 'inspect_folder', 'named']

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff'}
# Above this the checksum is of names and sizes, and images are not opened.
MAX_BYTES = 2 << 30
# A name in a report is the data's own, whatever its folder is called.
KNOWN = {'ba6a091cb6e724d7d40bdf8f4d69408e56bc7c4557aeb16c52360ea859b5cf17': 'CIFAR-10 (JPEG)'}


@dataclass(frozen=True)
class Dataset:
    """What a run was trained and validated on.

    Attributes:
        name: 'CIFAR-10 (JPEG)' and others that are known by their checksum; else the folder's, or what was asked for.
        folder: Where it is.
        checksum: SHA-256 over the sorted files of train/ and val/: name and content, or name and size of more than
            2 GiB; '' of a data set that timm downloads.
        train, val: Images.
        classes: Folders in each.
        dataset: What train.py's `--dataset` gets.
    """

    name: str
    folder: Path
    checksum: str
    train: int
    val: int
    classes: int
    dataset: str = 'ImageFolder'


def named(dataset: str, folder: Path) -> Dataset:
    """A data set that timm reads, or downloads, by its name: 'torch/cifar10'. Nothing is looked at."""
    return Dataset(dataset, folder, '', 0, 0, 0, dataset)


def inspect_folder(
    folder: Path, name: str | None = None, report: Callable[[str, int, int], None] = lambda what, done, total: None
) -> Dataset:
    """Look at every image of `folder/train/CLASS/` and `folder/val/CLASS/`.

    Args:
        folder: With the two folders.
        name: For the report; None for the known name, or the folder's.
        report: Called with what is being done, how much is done, and of how much.

    Raises:
        UserError: A folder or a class is missing or empty, or images cannot be read: which, and how many.
    """
    files = {split: _files(folder, split) for split in ('train', 'val')}
    classes = {split: {path.relative_to(folder / split).parts[0] for path in files[split]} for split in files}
    for one, other in (('train', 'val'), ('val', 'train')):
        missing = sorted(classes[one] - classes[other])
        if missing:
            raise UserError(
                f'{folder / other} has no images of class {missing[0]!r}, which {folder / one} has'
                + (f', nor of {len(missing) - 1} more classes' if missing[1:] else '')
            )
    paths = [path for split in files for path in files[split]]
    sizes = [path.stat().st_size for path in paths]
    whole = sum(sizes) <= MAX_BYTES
    digest, broken = hashlib.sha256(), []
    for index, (path, size) in enumerate(zip(paths, sizes)):
        if index % 10000 == 0:
            report('looking at the images', index, len(paths))
        digest.update(f'{path.relative_to(folder).as_posix()}\0'.encode())
        if whole:
            data = path.read_bytes()
            digest.update(hashlib.sha256(data).digest())
            if not _is_image(data):
                broken.append(path)
        else:
            digest.update(f'{size}\0'.encode())
            if not size:
                broken.append(path)
    if broken:
        raise UserError(
            f'{broken[0]} cannot be read as an image' + (f', nor can {len(broken) - 1} more' if broken[1:] else '')
            + ': timm would skip such images without a word, so copy them again or remove them'
        )  # fmt: skip
    checksum = digest.hexdigest()
    return Dataset(
        name=name or KNOWN.get(checksum) or folder.resolve().name,
        folder=folder,
        checksum=checksum,
        train=len(files['train']),
        val=len(files['val']),
        classes=len(classes['train']),
    )


def _files(folder: Path, split: str) -> list[Path]:
    root = folder / split
    if not root.is_dir():
        instead = ': name its test/ so' if split == 'val' and (folder / 'test').is_dir() else ''
        raise UserError(f'{folder} has no folder {split}/, in which each class has a folder of images{instead}')
    empty = [path for path in sorted(root.iterdir()) if path.is_dir() and not any(path.iterdir())]
    if empty:
        raise UserError(f'{empty[0]} is empty: a class without images')
    files = sorted(path for path in root.glob('*/**/*') if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f'{root} has no images in folders, one a class')
    return files


def _is_image(data: bytes) -> bool:
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception:  # whatever a decoder says
        return False
    return True
