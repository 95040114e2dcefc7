"""Fashion-MNIST as Debian's package `dataset-fashion-mnist` ships it: gzipped IDX files of 28x28 grey images."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(os.environ.get('FASHION_MNIST', '/usr/share/datasets/fashion-mnist'))
MEAN, STD = (0.2860,), (0.3530,)


def _read_idx(name, dims):
    with gzip.open(FOLDER / name) as file:
        data = file.read()
    assert data[:4] == bytes([0, 0, 8, dims]), f'{name} is not an IDX file of bytes in {dims} dimensions'
    shape = np.frombuffer(data, '>u4', dims, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


class FashionMnist:
    """The first `count` images of a split, 'train' or 't10k', as (PIL image, class): what timm's loaders take."""

    def __init__(self, split, count):
        if not FOLDER.is_dir():
            pytest.skip(
                f'no Fashion-MNIST in {FOLDER}: install the Debian package dataset-fashion-mnist, '
                'or name the folder of the IDX files in FASHION_MNIST'
            )
        self.images = _read_idx(f'{split}-images-idx3-ubyte.gz', 3)[:count]
        self.labels = _read_idx(f'{split}-labels-idx1-ubyte.gz', 1)[:count]
        self.transform = None  # set by timm.data.create_loader

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])
