"""Files of MNIST's form: read whole or refused."""

import gzip
import struct

import numpy as np
import pytest

from calib.data import has_parts, open_source
from calib.idx import find_idx, read_idx
from inference.errors import UserError

FACTS = {'input_size': [1, 28, 28], 'mean': [0.5], 'std': [0.25], 'crop_pct': 1.0, 'num_classes': 10}
PIXELS = np.arange(3 * 28 * 28, dtype=np.uint32).reshape(3, 28, 28).astype(np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    for split in ('train', 't10k'):
        (tmp_path / f'{split}-images-idx3-ubyte.gz').write_bytes(gzip.compress(idx(PIXELS)))
        (tmp_path / f'{split}-labels-idx1-ubyte').write_bytes(idx(np.array([7, 0, 3], np.uint8)))
    return tmp_path


def test_found_in_one_form(folder):
    assert find_idx(folder, 'train') is None  # one is gzipped, the other not
    (folder / 't10k-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx(np.array([7, 0, 3], np.uint8))))
    found = find_idx(folder, 'val')
    np.testing.assert_array_equal(read_idx(found[0]), PIXELS)
    np.testing.assert_array_equal(read_idx(found[1]), [7, 0, 3])
    assert has_parts(folder)
    ((x, labels),) = open_source(folder, FACTS, 'val')
    order = [7, 0, 3].index(labels[0])
    np.testing.assert_allclose(x[0, 0], (PIXELS[order] / 255 - 0.5) / 0.25, atol=1e-5)


def test_colour_networks_see_grey_three_times(folder):
    (folder / 'train-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx(np.array([7, 0, 3], np.uint8))))
    facts = FACTS | {'input_size': [3, 28, 28], 'mean': [0.5] * 3, 'std': [0.25] * 3}
    ((x, _),) = open_source(folder, facts, 'train')
    np.testing.assert_array_equal(x[:, 0], x[:, 2])


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (b'', 'no IDX file'),
        (b'\0\0\x0d\1' + bytes(8), 'no IDX file'),
        (idx(PIXELS)[:-1], 'is cut off: 2351 bytes'),
        (idx(PIXELS) + b'x', 'is cut off: 2353 bytes'),
    ],
)
def test_what_is_refused(data, words, tmp_path):
    (tmp_path / 'x').write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_idx(tmp_path / 'x')
    (tmp_path / 'x.gz').write_bytes(gzip.compress(idx(PIXELS))[:-9])
    with pytest.raises(UserError, match='is damaged'):
        read_idx(tmp_path / 'x.gz')
