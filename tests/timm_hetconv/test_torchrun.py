"""Two processes of torchrun train what one does at the same global batch, by timm's own train.py."""

import argparse
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

CLONE = os.environ.get('TIMM_DIR')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.clone,
    pytest.mark.skipif(not CLONE, reason="TIMM_DIR names no clone of timm's repository"),
]
IMAGES = 64
# Every epoch is one global batch of all images, unchanged, so that no order and no luck is in it; and each image is
# normed by itself, since BatchNorm sees the images of its own process only.
SETTINGS = [
    '--model', 'hetconv_resnet20_cifar_p4', '--model-kwargs', 'norm_layer=groupnorm1', '--num-classes', '4',
    '--img-size', '32', '--no-aug', '--opt', 'sgd', '--momentum', '0.9', '--lr', '0.05', '--sched', 'step', '--epochs',
    '4', '--warmup-epochs', '0', '--no-prefetcher', '--workers', '1', '--device', 'cpu', '--seed', '0', '--experiment',
    'run',
]  # fmt: skip


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    from PIL import Image

    root, generator = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for split in ('train', 'val'):
        for index in range(IMAGES):
            folder = root / split / str(index % 4)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 200, (32, 32, 3)) + 50 * (index % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{index}.png')
    return root


def train(images, output, batch, launcher=()):
    command = [
        sys.executable, *launcher, '-m', 'timm_hetconv', f'{CLONE}/train.py', '--data-dir', images, '--output', output,
        '--batch-size', str(batch), *SETTINGS,
    ]  # fmt: skip
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(output / 'run' / 'last.pth.tar', weights_only=True)['state_dict']


def test_two_processes_equal_one(images, tmp_path):
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    one = train(images, tmp_path / 'one', IMAGES)
    two = train(images, tmp_path / 'two', IMAGES // 2, torchrun)
    other = train(images, tmp_path / 'other', IMAGES // 2)
    assert one.keys() == two.keys()
    # What half the batch in one process comes to shows that the comparison can fail.
    apart = [max(float((one[key] - weights[key]).abs().max()) for key in one) for weights in (two, other)]
    assert apart[0] < 1e-4
    assert apart[1] > 1e-2
