"""What is wrong with images is told before hours of training."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset

from inference.errors import UserError
from inference.reproduce import dataset
from inference.reproduce.dataset import after_training, inspect_folder, named


@pytest.fixture
def images(tmp_path):
    for split, count in (('train', 3), ('val', 2)):
        for label in 'ab':
            folder = tmp_path / 'set' / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new('RGB', (8, 8), (index, 0, ord(label))).save(folder / f'{index}.png')
    return tmp_path / 'set'


def test_counts_and_names(images, monkeypatch):
    found = inspect_folder(images)
    assert (found.name, found.train, found.val, found.classes) == ('set', 6, 4, 2)
    assert inspect_folder(images, 'mine').name == 'mine'
    monkeypatch.setitem(dataset.KNOWN, found.checksum, 'known')
    renamed = images.rename(images.with_name('renamed'))
    assert inspect_folder(renamed).name == 'known'


def test_the_checksum_is_of_names_and_content(images):
    before = inspect_folder(images).checksum
    assert inspect_folder(images).checksum == before
    path = images / 'train' / 'a' / '0.png'
    path.rename(path.with_name('9.png'))
    renamed = inspect_folder(images).checksum
    path.with_name('9.png').rename(path)
    Image.new('RGB', (8, 8), (200, 0, 0)).save(path)
    assert len({before, renamed, inspect_folder(images).checksum}) == 3


def test_of_many_images_only_names_and_sizes(images, monkeypatch):
    monkeypatch.setattr(dataset, 'MAX_BYTES', 10)
    before = inspect_folder(images).checksum
    path = images / 'val' / 'b' / '1.png'
    path.write_bytes(bytes(path.stat().st_size))
    assert inspect_folder(images).checksum == before
    path.write_bytes(b'')
    with pytest.raises(UserError, match=r'1.png cannot be read as an image: timm would skip'):
        inspect_folder(images)


def test_grey_images_are_images(images):
    Image.new('L', (8, 8)).save(images / 'train' / 'a' / '0.png')
    assert inspect_folder(images).train == 6


@pytest.mark.parametrize('content', [b'', b'no image', None])
def test_corrupt_images(content, images):
    for split in ('train', 'val'):
        path = images / split / 'a' / '1.png'
        path.write_bytes(path.read_bytes()[:50] if content is None else content)
    with pytest.raises(UserError, match=r'train/a/1.png cannot be read as an image, nor can 1 more: timm would skip'):
        inspect_folder(images)


def test_missing_folders(images, tmp_path):
    with pytest.raises(UserError, match='has no folder train/, in which each class has a folder'):
        inspect_folder(tmp_path)
    (images / 'val').rename(images / 'test')
    with pytest.raises(UserError, match=r'has no folder val/, .*: name its test/ so'):
        inspect_folder(images)


def test_missing_classes(images):
    for name in ('0.png', '1.png'):
        (images / 'val' / 'b' / name).unlink()
    with pytest.raises(UserError, match='val/b is empty: a class without images'):
        inspect_folder(images)
    (images / 'val' / 'b').rmdir()
    with pytest.raises(UserError, match=r"val has no images of class 'b', which .*train has"):
        inspect_folder(images)
    (images / 'val' / 'a').rename(images / 'val' / 'c')
    with pytest.raises(UserError, match=r"val has no images of class 'a', which .*train has, nor of 1 more classes"):
        inspect_folder(images)


def test_images_that_stand_in_no_class(images):
    for path in (images / 'val').glob('*/*'):
        path.rename(images / 'val' / f'{path.parent.name}{path.name}')
    for folder in 'ab':
        (images / 'val' / folder).rmdir()
    with pytest.raises(UserError, match='val has no images in folders, one a class'):
        inspect_folder(images)


def what_timm_takes(images):
    """Images and classes of the two splits, by timm's own reader."""
    readers = [create_dataset('ImageFolder', str(images), split=split).reader for split in ('train', 'validation')]
    return [len(reader) for reader in readers], [len(reader.class_to_idx) for reader in readers]


def test_all_that_timm_takes_is_inspected(images, tmp_path):
    """Capitals, hidden files, odd names, links to images and to a class; and what is no image is left alone."""
    train = images / 'train'
    (train / 'a' / '0.png').rename(train / 'a' / '0.PNG')
    Image.new('RGB', (8, 8)).save(train / 'a' / '1.JPeG', 'jpeg')
    (train / 'a' / '.hidden.jpg').symlink_to(train / 'a' / '1.JPeG')
    (train / 'a' / 'notes.txt').write_text('no image')
    (train / 'a' / '..png').write_text('no image, since this is no suffix')
    shutil.copy(train / 'a' / '2.png', train / 'a' / os.fsdecode(b'\xff.png'))
    shutil.move(train / 'b', tmp_path / 'elsewhere')
    (train / 'b').symlink_to(tmp_path / 'elsewhere')
    found = inspect_folder(images)
    assert ([found.train, found.val], [found.classes] * 2) == what_timm_takes(images) == ([9, 4], [2, 2])


@pytest.mark.parametrize('suffix', ['bmp', 'webp', 'ppm', 'TIF'])
def test_images_that_timm_leaves_out(suffix, images):
    for split in ('train', 'val'):
        Image.new('RGB', (8, 8)).save(images / split / 'a' / f'9.{suffix}')
    assert what_timm_takes(images)[0] == [6, 4]
    words = r'is an image of a form that timm leaves out without a word: it reads .jpeg, .jpg, .png, so convert'
    with pytest.raises(UserError, match=rf'train/a/9.{suffix} {words}'):
        inspect_folder(images)
    shutil.copy(images / 'train' / 'a' / f'9.{suffix}', images / 'train' / 'b')
    with pytest.raises(UserError, match='without a word, as are 1 more'):
        inspect_folder(images)


@pytest.mark.parametrize('folder', ['sub', '.ipynb_checkpoints', '0.png'])
def test_folders_within_a_class(folder, images):
    inner = images / 'train' / 'b' / folder / 'inner'
    shutil.rmtree(inner.parent, ignore_errors=True)
    inner.parent.with_name('0.png').unlink(missing_ok=True)
    inner.mkdir(parents=True)
    inspect_folder(images)
    Image.new('RGB', (8, 8)).save(inner / '7.png')
    assert what_timm_takes(images)[1] == [3, 2]
    with pytest.raises(UserError, match=rf"train/b/{folder}/inner/7.png .* timm would take for a class 'inner': keep"):
        inspect_folder(images)


def test_an_image_beside_the_classes(images):
    Image.new('RGB', (8, 8)).save(images / 'train' / '7.png')
    assert what_timm_takes(images)[1] == [3, 2]
    with pytest.raises(UserError, match=r'train/7.png is in no folder of a class, and timm would take it for a class'):
        inspect_folder(images)


def test_two_folders_to_validate_on(images):
    shutil.copytree(images / 'val', images / 'validation')
    (images / 'validation' / 'a' / '0.png').unlink()
    assert what_timm_takes(images)[0] == [6, 3]
    with pytest.raises(UserError, match='has validation/ besides val/, and timm would validate on that'):
        inspect_folder(images)
    shutil.rmtree(images / 'val')
    with pytest.raises(UserError, match=r'has no folder val/, .*: name its validation/ so'):
        inspect_folder(images)


@pytest.mark.parametrize('most', [0, 1 << 30])
def test_unreadable_images(most, images, monkeypatch):
    monkeypatch.setattr(dataset, 'MAX_BYTES', most)
    path = images / 'val' / 'a' / '0.png'
    path.unlink()
    path.symlink_to('moved.png')
    with pytest.raises(UserError, match=r'val/a/0.png, a link to moved.png, cannot be read: No such file') as raised:
        inspect_folder(images)
    assert '\n' not in str(raised.value)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(UserError, match=r'val/a/0.png, a link to 0.png, cannot be read: Too many levels'):
        inspect_folder(images)


def refuse(path, *args):
    raise PermissionError(13, 'Permission denied', str(path))


def test_forbidden_images(images, monkeypatch):
    """Stand-ins for the system's refusals, which root does not get."""
    path = images / 'val' / 'a' / '0.png'
    with monkeypatch.context() as patched:
        patched.setattr(type(path), 'open', refuse)
        with pytest.raises(UserError, match=r'train/a/0.png cannot be read: Permission denied'):
            inspect_folder(images)
    with monkeypatch.context() as patched:
        patched.setattr(os, 'scandir', refuse)
        with pytest.raises(UserError, match=r'train cannot be read: Permission denied'):
            inspect_folder(images)
    monkeypatch.setattr(dataset, 'MAX_BYTES', 0)
    monkeypatch.setattr(os, 'access', lambda other, mode: other != path)
    with pytest.raises(UserError, match=r'val/a/0.png cannot be read'):
        inspect_folder(images)


def download(folder, seed=0):
    """What torchvision leaves of Fashion-MNIST, in small."""
    raw, generator = folder / 'FashionMNIST' / 'raw', np.random.default_rng(seed)
    raw.mkdir(parents=True, exist_ok=True)
    for split, count in (('train', 6), ('t10k', 4)):
        for what, shape in (('images-idx3', (count, 28, 28)), ('labels-idx1', (count,))):
            head = bytes([0, 0, 8, len(shape)]) + np.array(shape, '>i4').tobytes()
            content = generator.integers(0, 10, shape).astype(np.uint8).tobytes()
            (raw / f'{split}-{what}-ubyte').write_bytes(head + content)
    return raw


def test_a_data_set_that_timm_downloads(tmp_path):
    before = named('torch/fashion_mnist', tmp_path)
    assert (before.checksum, before.train, before.val, before.classes) == ('', 0, 0, 0)
    raw = download(tmp_path)
    (raw / 't10k-labels-idx1-ubyte').rename(tmp_path / 'kept')
    assert named('torch/fashion_mnist', tmp_path) == before, 'half a download'
    (tmp_path / 'kept').rename(raw / 't10k-labels-idx1-ubyte')
    after = after_training(before)
    assert (after.train, after.val, after.classes) == (6, 4, 10)
    assert (after.name, after.dataset, len(after.checksum)) == ('torch/fashion_mnist', 'torch/fashion_mnist', 64)
    assert after == named('torch/fashion_mnist', tmp_path) == after_training(after)
    assert before.downloads
    assert after.downloads
    # What stands beside it, and the archives that it came in, are not it.
    (tmp_path / 'others').mkdir()
    (tmp_path / 'others' / 'x').write_text('x')
    (raw / 'train-images-idx3-ubyte.gz').write_text('x')
    assert named('torch/fashion_mnist', tmp_path) == after
    download(tmp_path, seed=1)
    assert named('torch/fashion_mnist', tmp_path, 'mine').checksum not in ('', after.checksum)
    assert named('torch/fashion_mnist', tmp_path, 'mine').name == 'mine'
    shutil.rmtree(raw)
    assert after_training(after) == after, 'what is known is not forgotten'


def test_a_data_set_in_files(tmp_path, monkeypatch):
    """Of which only timm knows how many images it has."""
    assert named('wds/mine', tmp_path / 'none').checksum == ''
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / '0.tar').write_bytes(bytes(3))
    before = named('wds/mine', tmp_path)
    assert (before.train, before.val, before.classes) == (0, 0, 0)
    (tmp_path / '.lock').touch()
    (tmp_path / 'train' / 'x.lock').touch()
    assert named('wds/mine', tmp_path) == before
    monkeypatch.setattr(dataset, 'CHUNK', 2)
    assert named('wds/mine', tmp_path) == before
    (tmp_path / 'train' / '0.tar').write_bytes(b'001')
    changed = named('wds/mine', tmp_path)
    (tmp_path / 'train' / '0.tar').rename(tmp_path / 'train' / '1.tar')
    assert len({'', before.checksum, changed.checksum, named('wds/mine', tmp_path).checksum}) == 4
    monkeypatch.setattr(type(tmp_path), 'open', refuse)
    with pytest.raises(UserError, match=r'train/1.tar cannot be read: Permission denied'):
        named('wds/mine', tmp_path)
    assert after_training(changed) == changed, 'hours of training are not lost for the want of a checksum'


def test_names_that_timm_takes_for_folders(images):
    found = named('ImageFolder', images)
    assert found == inspect_folder(images)
    assert not found.downloads
    assert after_training(found) is found
    for name in ('cifar10', 'torchvision/cifar10', 'torch/'):
        with pytest.raises(UserError, match=f'timm would take the data set {name!r} for a folder of images: a name'):
            named(name, images)
