"""Shipped weights: whole, small, loaded offline, and as good on real images as their entry says."""

import hashlib
import os
from pathlib import Path

import pytest
import timm
import torch
from fashion_mnist import FashionMnist
from timm.data import create_dataset, create_transform, resolve_data_config

import timm_hetconv  # noqa: F401  registers the models
from timm_hetconv._pretrained import WEIGHTS, index, tagged_cfgs
from timm_hetconv._timm import generate_default_cfgs

CIFAR10_JPEG = os.environ.get('CIFAR10_JPEG')
PLAIN = {'input_size': (3, 32, 32), 'num_classes': 10}


def entry(**settings):
    return {
        'file': 'x.safetensors', 'top1': 90.0, 'data': 'd', 'recipe': 'r', 'epochs': 1, 'seed': 0, 'num_classes': 10,
        'input_size': [3, 32, 32], 'mean': [0.5], 'std': [0.5], 'license': 'apache-2.0', 'license_note': 'n',
        'label_names': list('abcdefghij'),
    } | settings  # fmt: skip


def images(name, config):
    if name.endswith('.fashion_mnist'):
        dataset = FashionMnist('val', None)
    elif CIFAR10_JPEG is None:
        pytest.skip('CIFAR10_JPEG names no folder with val/ of CIFAR-10 (JPEG)')
    else:
        dataset = create_dataset('ImageFolder', CIFAR10_JPEG, split='val')
    dataset.transform = create_transform(**config, is_training=False)
    return torch.utils.data.DataLoader(dataset, batch_size=250)


@pytest.mark.parametrize('name', index())
def test_files(name):
    path = WEIGHTS / index()[name]['file']
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == index()[name]['sha256']
    assert timm.is_model_pretrained(name.partition('.')[0])


def test_all_of_them_are_a_few_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 3_000_000


def test_every_file_has_an_entry():
    assert {path.name for path in WEIGHTS.glob('*.safetensors')} == {entry['file'] for entry in index().values()}


@pytest.mark.parametrize('name', index())
def test_accuracy_on_real_images(name, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    model = timm.create_model(name, pretrained=True).eval().to(memory_format=torch.channels_last)
    config = resolve_data_config(model=model)
    assert config['input_size'] == tuple(index()[name]['input_size'])
    correct = total = 0
    with torch.inference_mode():
        for x, target in images(name, config):
            x = x.contiguous(memory_format=torch.channels_last)
            correct += int((model(x).argmax(1) == target).sum())
            total += len(target)
    assert total == 10_000
    # A few images in ten thousand may fall to the other side on another processor.
    assert 100 * correct / total == pytest.approx(index()[name]['top1'], abs=0.05)


@pytest.mark.parametrize('name', index())
def test_what_a_user_should_know_of_it(name):
    cfg = timm.create_model(name, pretrained=True).pretrained_cfg
    facts = index()[name]
    for word in (facts['data'], facts['recipe'], f'{facts["top1"]:.2f}%', facts['license_note']):
        assert word in cfg['description']
    assert cfg['license'] == 'apache-2.0'


def tags(monkeypatch, entries):
    monkeypatch.setattr('timm_hetconv._pretrained.index', lambda: entries)
    cfg = generate_default_cfgs(tagged_cfgs('hetconv_x_p4', PLAIN))['hetconv_x_p4']
    return list(cfg.tags), cfg.default.input_size, cfg.is_pretrained


def test_the_default_is_of_the_models_own_size(monkeypatch):
    grey, colour = entry(input_size=[1, 28, 28]), entry()
    assert tags(monkeypatch, {}) == ([''], (3, 32, 32), False)
    assert tags(monkeypatch, {'hetconv_x_p4.grey': grey}) == (['', 'grey'], (3, 32, 32), True)
    both = {'hetconv_x_p4.a_grey': grey, 'hetconv_x_p4.colour': colour}
    assert tags(monkeypatch, both) == (['colour', 'a_grey'], (3, 32, 32), True)
    assert tags(monkeypatch, {'hetconv_x_p8.colour': colour}) == ([''], (3, 32, 32), False)
    cfg = tagged_cfgs('hetconv_x_p4', PLAIN)
    assert cfg == {'hetconv_x_p4': PLAIN}
    assert Path(tagged_cfgs('hetconv_x_p8', PLAIN)['hetconv_x_p8.colour']['file']).parent == WEIGHTS
