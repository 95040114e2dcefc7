"""Fashion-MNIST as Debian's package `dataset-fashion-mnist` ships it: files of 28x28 grey images."""

import os
from pathlib import Path

import pytest
from PIL import Image

from calib.idx import find_idx, read_idx

FOLDER = Path(os.environ.get('FASHION_MNIST', '/usr/share/datasets/fashion-mnist'))
MEAN, STD = (0.2860,), (0.3530,)


class FashionMnist:
    """The first `count` images of a split, 'train' or 'val', as (PIL image, class): what timm's loaders take."""

    def __init__(self, split, count):
        files = find_idx(FOLDER, split)
        if files is None:
            pytest.skip(
                f'no Fashion-MNIST in {FOLDER}: install the Debian package dataset-fashion-mnist, '
                'or name the folder of the IDX files in FASHION_MNIST'
            )
        self.images, self.labels = (read_idx(file)[:count] for file in files)
        self.transform = None  # set by timm.data.create_loader

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])
