"""The images that a run trains on: looked at before hours of work, and known by a checksum after it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

__all__ = ['Dataset', 'after_training', 'inspect_folder', 'named']

# What may be an image: timm reads some of these, and of the others a user should hear.
SUFFIXES = {
    '.avif', '.bmp', '.gif', '.heic', '.jfif', '.jp2', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff',
    '.webp',
}  # fmt: skip
# Above this the checksum is of names and sizes, and images are not opened.
MAX_BYTES = 2 << 30
CHUNK = 1 << 20
# A name in a report is the data's own, whatever its folder is called.
KNOWN = {'ba6a091cb6e724d7d40bdf8f4d69408e56bc7c4557aeb16c52360ea859b5cf17': 'CIFAR-10 (JPEG)'}
# What timm has a reader for; any other name it takes for a folder of images.
READERS = ('torch', 'hfds', 'hfids', 'tfds', 'wds')
# Where torchvision keeps its data sets, so that others beside them do not change their checksum.
HOMES = {
    'cifar10': 'cifar-10-batches-py',
    'cifar100': 'cifar-100-python',
    'mnist': 'MNIST/raw',
    'kmnist': 'KMNIST/raw',
    'fashion_mnist': 'FashionMNIST/raw',
    'qmnist': 'QMNIST/raw',
}
Report = Callable[[str, int, int], None]


def _silent(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Dataset:
    """What a run was trained and validated on.

    Attributes:
        name: 'CIFAR-10 (JPEG)' and others that are known by their checksum; else the folder's, or what was asked for.
        folder: Where it is.
        checksum: SHA-256 over sorted files, the images or whatever a reader of timm's has: name and content, or name
            and size of more than 2 GiB; '' of what is yet to be downloaded.
        train, val: Images; 0 where that is not known.
        classes: Of the images; 0 where that is not known.
        dataset: What train.py's `--dataset` gets.
    """

    name: str
    folder: Path
    checksum: str
    train: int
    val: int
    classes: int
    dataset: str = 'ImageFolder'

    @property
    def downloads(self) -> bool:
        """Is it one that timm downloads where it is not there yet?"""
        return self.dataset != 'ImageFolder'


def named(dataset: str, folder: Path, name: str | None = None, report: Report = _silent) -> Dataset:
    """A data set that timm reads, or downloads to `folder`, by its name: 'torch/cifar10'.

    What is not there yet has no checksum and no counts; `after_training` looks for it again.

    Args:
        dataset: For train.py's `--dataset`.
        folder: Where it is, or will be.
        name: For the report; None for that of the data set.
        report: As of `inspect_folder`.

    Raises:
        UserError: timm would take the name for a folder of images; a file cannot be read.
    """
    reader, _, rest = dataset.lower().partition('/')
    if reader == 'imagefolder':
        return inspect_folder(folder, name, report)
    if reader not in READERS or not rest:
        raise UserError(
            f'timm would take the data set {dataset!r} for a folder of images: a name begins with '
            f'{"/, ".join(READERS)}/, as torch/cifar10 does'
        )
    counts, home = (0, 0, 0), folder
    if reader == 'torch':
        counts, home = _torchvision_counts(dataset, folder), folder / HOMES.get(rest, '')
    files = _data_files(home) if any(counts) or reader != 'torch' else []
    checksum = _checksum(folder, files, 'looking at the data', report) if files else ''
    return Dataset(name or dataset, folder, checksum, *counts, dataset)


def after_training(data: Dataset) -> Dataset:
    """What a run was trained on, with what could not be known of it before train.py downloaded it."""
    if not data.downloads:
        return data
    try:
        found = named(data.dataset, data.folder, data.name)
    except UserError:  # a result without a checksum is better than hours for nothing
        return data
    return found if found.checksum else data


def inspect_folder(folder: Path, name: str | None = None, report: Report = _silent) -> Dataset:
    """Look at every image of `folder/train/CLASS/` and `folder/val/CLASS/`: all that timm would take, and no other.

    Args:
        folder: With the two folders.
        name: For the report; None for the known name, or the folder's.
        report: Called with what is being done, how much is done, and of how much.

    Raises:
        UserError: A folder or a class is missing or empty, images cannot be read, or timm would leave them out or take
            them for another class: which, and how many.
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
    broken: list[Path] = []

    def look(path: Path, size: int, opened: bool) -> None:
        if not (_is_image(path) if opened else size and os.access(path, os.R_OK)):
            broken.append(path)

    paths = [path for split in files for path in files[split]]
    checksum = _checksum(folder, paths, 'looking at the images', report, look)
    if broken:
        raise UserError(
            f'{broken[0]} cannot be read as an image' + (f', nor can {len(broken) - 1} more' if broken[1:] else '')
            + ': timm would skip such images without a word, so copy them again or remove them'
        )  # fmt: skip
    return Dataset(
        name=name or KNOWN.get(checksum) or folder.resolve().name,
        folder=folder,
        checksum=checksum,
        train=len(files['train']),
        val=len(files['val']),
        classes=len(classes['train']),
    )


def _files(folder: Path, split: str) -> list[Path]:
    """What timm's reader of folders takes of a split; each stands in `split/CLASS/`."""
    root = folder / split
    others = [other for other in ('validation', 'test') if split == 'val' and (folder / other).is_dir()]
    if not root.is_dir():
        instead = f': name its {others[0]}/ so' if others else ''
        raise UserError(f'{folder} has no folder {split}/, in which each class has a folder of images{instead}')
    if 'validation' in others:
        raise UserError(f'{folder} has validation/ besides val/, and timm would validate on that: rename it')

    from timm.data.readers.img_extensions import get_img_extensions

    suffixes = get_img_extensions(as_set=True)
    files: list[Path] = []
    loose: list[Path] = []
    left_out: list[Path] = []
    filled: set[str] = set()
    for path in _walk(root):
        parts = path.relative_to(root).parts
        filled.add(parts[0])
        suffix = os.path.splitext(path.name)[1].lower()
        if suffix not in suffixes:
            if suffix in SUFFIXES:
                left_out.append(path)
        elif len(parts) > 2:
            raise UserError(
                f'{path} is in a folder within a class, which timm would take for a class {path.parent.name!r}: '
                f'keep images in {root}/CLASS/'
            )
        else:
            (files if len(parts) == 2 else loose).append(path)
    if left_out:
        raise UserError(
            f'{min(left_out)} is an image of a form that timm leaves out without a word'
            + (f', as are {len(left_out) - 1} more' if left_out[1:] else '')
            + f': it reads {", ".join(sorted(suffixes))}, so convert or remove them'
        )  # fmt: skip
    empty = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in filled]
    if empty:
        raise UserError(f'{empty[0]} is empty: a class without images')
    if not files:
        raise UserError(f'{root} has no images in folders, one a class')
    if loose:
        raise UserError(f'{min(loose)} is in no folder of a class, and timm would take it for a class more: move it')
    return sorted(files)


def _data_files(folder: Path) -> list[Path]:
    """What a data set consists of, without archives that it was unpacked from, locks, and hidden files."""
    left_out = ('.gz', '.zip', '.tgz', '.lock')
    files = _walk(folder) if folder.is_dir() else ()
    return sorted(
        path for path in files if path.is_file() and not path.name.startswith('.') and path.suffix not in left_out
    )


def _walk(root: Path) -> Iterator[Path]:
    """All files below, behind links as well, as timm goes."""

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error)

    for parent, _, names in os.walk(root, onerror=refuse, followlinks=True):
        yield from (Path(parent, name) for name in names)


def _checksum(
    folder: Path,
    paths: list[Path],
    what: str,
    report: Report,
    look: Callable[[Path, int, bool], None] = lambda path, size, opened: None,
) -> str:
    """See `Dataset`. `look` is called with each path, its size, and whether its content counts."""
    sizes = [_size(path) for path in paths]
    whole = sum(sizes) <= MAX_BYTES
    digest = hashlib.sha256()
    for index, (path, size) in enumerate(zip(paths, sizes)):
        if index % 10000 == 0:
            report(what, index, len(paths))
        digest.update(path.relative_to(folder).as_posix().encode(errors='surrogateescape') + b'\0')
        digest.update(_sha256(path) if whole else f'{size}\0'.encode())
        look(path, size, whole)
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with path.open('rb') as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.digest()


def _unreadable(path: Path, error: OSError) -> UserError:
    link = f', a link to {os.readlink(path)},' if path.is_symlink() else ''
    return UserError(f'{path}{link} cannot be read: {error.strerror}')


def _torchvision_counts(dataset: str, folder: Path) -> tuple[int, int, int]:
    """Images of the two splits and their classes; none where the data set is not there, or not all of it."""
    from timm.data import create_dataset

    try:
        train, val = (create_dataset(dataset, str(folder), split=split) for split in ('train', 'validation'))
        return len(train), len(val), len(getattr(train, 'classes', ()))
    except Exception:  # whatever torchvision says of files that are not there, or of other ones
        return 0, 0, 0


def _is_image(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception:  # whatever a decoder says
        return False
    return True
