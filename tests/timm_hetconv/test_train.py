"""Training: real images through timm's public pieces, and two processes against one."""

import os
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from fashion_mnist import MEAN, STD, FashionMnist
from timm import create_model
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy
from torch import nn

from timm_hetconv import HetConv2d

TRAIN_IMAGES, HELD_OUT_IMAGES, BATCH = 4096, 500, 32


def loader(split, count, training):
    return create_loader(
        FashionMnist(split, count),
        input_size=(1, 28, 28),
        batch_size=BATCH,
        is_training=training,
        no_aug=True,
        use_prefetcher=False,
        mean=MEAN,
        std=STD,
        crop_pct=1.0,
        num_workers=0,
        persistent_workers=False,
    )


@pytest.mark.slow
def test_one_epoch_on_fashion_mnist_learns():
    model = create_model('hetconv_resnet20_cifar_p4', in_chans=1, num_classes=10)
    train, held_out = loader('train', TRAIN_IMAGES, True), loader('val', HELD_OUT_IMAGES, False)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-2, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(
        optimizer, 'cosine', num_epochs=1, step_on_epochs=False, updates_per_epoch=len(train)
    )
    losses = []
    for step, (images, labels) in enumerate(train):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step_update(step + 1)
        losses.append(loss.item())

    model.eval()
    top1 = AverageMeter()
    with torch.inference_mode():
        for images, labels in held_out:
            top1.update(accuracy(model(images), labels)[0].item(), len(labels))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert top1.avg > 60  # chance is 10


def small_model():
    """HetConv2d alone decides: with batch norm two processes would see other statistics than one."""
    torch.manual_seed(0)
    layers = [HetConv2d(8, 16, part=4), nn.ReLU(), HetConv2d(16, 16, stride=2, part=8), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * 9, 5)).double()


def batch():
    torch.manual_seed(1)
    return torch.randn(8, 8, 6, 6, dtype=torch.float64), torch.arange(8) % 5


def gradients(model, images, labels):
    F.cross_entropy(model(images), labels).backward()
    return [p.grad.clone() for p in model.parameters()]


def half_batch(rank, folder):
    if sys.platform == 'linux':
        os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(small_model())
    images, labels = batch()
    half = slice(4 * rank, 4 * rank + 4)
    torch.save(gradients(model, images[half], labels[half]), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    expected = gradients(small_model(), *batch())
    mp.spawn(half_batch, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f'{rank}.pt'), expected)
