"""What is wrong with images is told before hours of training."""

import pytest
from PIL import Image

from inference.errors import UserError
from inference.reproduce import dataset
from inference.reproduce.dataset import inspect_folder


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
