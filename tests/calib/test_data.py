"""Images from wherever they are: the same ones for the same seed, prepared as timm prepares them, and looked at."""

import numpy as np
import pytest
import torch
from PIL import Image

from calib.data import Arrays, Folder, batches_of, has_parts, open_source
from inference.errors import UserError

FACTS = {
    'input_size': [3, 16, 16], 'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.4], 'interpolation': 'bicubic',
    'crop_pct': 0.875, 'num_classes': 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """train/ and val/ with two classes of ten pictures each, every one of another colour and size."""
    random = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = random.integers(0, 256, (18 + i, 20 + i, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f'{i}.png')
    return tmp_path


def whole(source):
    found = list(source)
    images = np.concatenate([x for x, _ in found])
    return images, None if found[0][1] is None else np.concatenate([labels for _, labels in found])


def test_a_folder_is_prepared_as_timm_does(folder):
    from timm.data import create_dataset, create_transform

    source = Folder(folder / 'val', FACTS, batch_size=7)
    images, labels = whole(source)
    assert images.shape == (20, 3, 16, 16)
    assert images.dtype == np.float32
    dataset = create_dataset('ImageFolder', str(folder), split='val')
    arguments = {key: value for key, value in FACTS.items() if key != 'num_classes'}
    dataset.transform = create_transform(**arguments | {'input_size': (3, 16, 16)}, is_training=False)
    theirs = dict(zip(dataset.filenames(absolute=True), dataset))
    for (path, _), image, label in zip(source.files, images, labels):
        np.testing.assert_allclose(image, theirs[path][0].numpy(), atol=1e-5)
        assert label == theirs[path][1]


def test_the_choice_depends_on_the_seed_alone(folder):
    def chosen(seed, count=8, skip=0):
        return [path for path, _ in Folder(folder / 'val', FACTS, count, seed, skip).files]

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
    assert len(set(chosen(0)) | set(chosen(0, skip=8))) == 16  # none twice
    assert Folder(folder / 'val', FACTS, 8).digest() != Folder(folder / 'val', FACTS, 8, 1).digest()


def test_parts_of_a_folder(folder):
    assert has_parts(folder)
    for split in ('train', 'val'):
        assert all(f'/{split}/' in path for path, _ in open_source(folder, FACTS, split).files)
    assert len(open_source(folder, FACTS, 'val', 5000, fewer=True)) == 20
    assert not has_parts(folder / 'val')
    assert len(open_source(folder / 'val', FACTS, 'train', 5)) == 5


def test_without_classes_there_are_no_labels(folder):
    assert whole(open_source(folder / 'val' / 'cat', FACTS, 'val'))[1] is None
    assert whole(open_source(folder / 'val', FACTS | {'num_classes': 10}, 'val'))[1] is None


def test_grey_images_for_one_channel(folder):
    facts = FACTS | {'input_size': [1, 16, 16], 'mean': [0.5], 'std': [0.2]}
    assert whole(open_source(folder, facts, 'val'))[0].shape == (20, 1, 16, 16)


def test_files_of_numpy(tmp_path):
    x, y = np.random.default_rng(0).random((9, 3, 16, 16)), np.arange(9)
    np.savez(tmp_path / 'a.npz', images=x, labels=y)
    np.save(tmp_path / 'a.npy', x)
    images, labels = whole(open_source(tmp_path / 'a.npz', FACTS, 'train', 4))
    np.testing.assert_allclose(images, x[labels], rtol=1e-6)
    assert whole(open_source(tmp_path / 'a.npy', FACTS, 'train'))[1] is None
    assert len(open_source(tmp_path / 'a.npz', FACTS, 'val', 4, skip=4)) == 4


@pytest.mark.parametrize(
    'source',
    [
        [torch.zeros(2, 3, 16, 16)],
        [np.zeros((2, 3, 16, 16))],
        [(torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]))],
        torch.utils.data.DataLoader([(torch.zeros(3, 16, 16), i) for i in range(2)], batch_size=2),
        (x for x in [torch.zeros(2, 3, 16, 16)]),
        Arrays(np.zeros((2, 3, 16, 16), np.float32), np.arange(2)),
    ],
    ids=['tensors', 'arrays', 'pairs', 'DataLoader', 'generator', 'Arrays'],
)
def test_any_iterable(source):
    ((images, labels),) = batches_of(source, (3, 16, 16))
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == np.float32
    assert labels is None or labels.tolist() == [0, 1]


def test_what_is_refused(folder, tmp_path):
    def refused(match, *arguments, **options):
        with pytest.raises(UserError, match=match):
            whole(open_source(*arguments, **options))

    refused('no such folder', folder / 'nothing', FACTS, 'val')
    (folder / 'file.png').write_bytes(b'')
    refused('a file, no folder of images and no .npz', folder / 'file.png', FACTS, 'val')
    refused('has 20 images, and 21 are asked for', folder, FACTS, 'val', 21)
    refused('has 20 images, and 5 are asked for besides the 16', folder / 'val', FACTS, 'val', 5, skip=16)
    (folder / 'empty').mkdir()
    refused('holds no images', folder / 'empty', FACTS, 'val')
    (folder / 'val' / 'cat' / '3.png').write_bytes(b'no picture')
    refused('3.png cannot be read as an image', folder, FACTS, 'val')
    (folder / 'only' / 'train' / 'cat').mkdir(parents=True)
    refused('has no folder val/', folder / 'only', FACTS, 'val')
    (folder / 'a.npz').write_bytes(b'PK')
    refused('is damaged', folder / 'a.npz', FACTS, 'val')
    np.savez(folder / 'b.npz', pictures=np.zeros((2, 3, 16, 16)))
    refused('no file of NumPy with `images`', folder / 'b.npz', FACTS, 'val')
    np.savez(folder / 'c.npz', images=np.zeros((2, 3, 16, 16)), labels=np.zeros(3))
    refused('as many labels or none', folder / 'c.npz', FACTS, 'val')
    refused('No such file', folder / 'd.npz', FACTS, 'val')
    np.savez_compressed(folder / 'e.npz', images=np.random.default_rng(0).random((4, 3, 16, 16)))
    whole_file = (folder / 'e.npz').read_bytes()
    for damaged in (whole_file[:-100], whole_file[:500] + b'#' * 20 + whole_file[520:]):
        (folder / 'e.npz').write_bytes(damaged)
        refused('is damaged, or no file', folder / 'e.npz', FACTS, 'val')
    np.savez(folder / 'f.npz', images=np.zeros((2, 3, 16, 16), np.uint8))
    refused('has images of uint8: they should be prepared', folder / 'f.npz', FACTS, 'val')
    np.savez(folder / 'g.npz', images=np.zeros((2, 3, 16, 16)), labels=np.eye(2))
    refused('as many labels or none', folder / 'g.npz', FACTS, 'val')


def test_a_link_to_nothing(folder):
    (folder / 'val' / 'cat' / '3.png').unlink()
    (folder / 'val' / 'cat' / '3.png').symlink_to('nothing.png')
    source = open_source(folder, FACTS, 'val')
    with pytest.raises(UserError, match=r'3.png cannot be read as an image'):
        whole(source)
    with pytest.raises(UserError, match=r'3.png: No such file'):
        source.digest()


@pytest.mark.parametrize('labels', [np.eye(2), np.zeros((2, 1)), np.zeros(3, int), np.float32(1), np.zeros(2)])
def test_labels_are_numbers_of_classes(labels):
    with pytest.raises(UserError, match='the labels of batch 0 are'):
        list(batches_of([(np.zeros((2, 3, 16, 16)), labels)], (3, 16, 16)))
