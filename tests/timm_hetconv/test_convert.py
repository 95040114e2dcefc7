"""Conversion of other people's models."""

import copy

import pytest
import timm
import torch
from torch import nn

from timm_hetconv import HetConv2d, convert, count


def reasons(entries):
    return {entry.name: entry.reason for entry in entries if not entry.changed}


def test_resnet34_becomes_our_resnet34():
    model, entries = convert(timm.create_model('resnet34', device='meta'), part=4)
    ours = timm.create_model('hetconv_resnet34_p4', device='meta')
    assert count(model).macs == count(ours).macs
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in ours.named_parameters()}
    assert reasons(entries) == {
        'conv1': 'stem',
        **{f'layer{i}.0.downsample.0': '1x1 kernels' for i in (2, 3, 4)},
    }


def test_from_dense_keeps_the_weights_that_stay_and_random_does_not():
    dense = timm.create_model('resnet18')
    expected = dense.layer1[0].conv1.weight[:, :, 1, 1].clone()
    model, _ = convert(copy.deepcopy(dense))
    torch.testing.assert_close(model.layer1[0].conv1.weight[:, :, 0, 0], expected)
    model, _ = convert(dense, init='random')
    assert not torch.allclose(model.layer1[0].conv1.weight[:, :, 0, 0], expected)


def test_a_stem_is_a_stem_whatever_its_channels():
    model, entries = convert(timm.create_model('resnet18', in_chans=4, device='meta'))
    assert reasons(entries)['conv1'] == 'stem'
    assert isinstance(model.conv1, nn.Conv2d)
    plain = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3))  # no config to say which is the stem: the first
    assert [entry.changed for entry in convert(plain)[1]] == [False, True]


@pytest.mark.filterwarnings('ignore:convert changed nothing')
@pytest.mark.parametrize(
    ('conv', 'reason'),
    [
        (nn.Conv2d(8, 8, 1), '1x1 kernels'),
        (nn.Conv2d(8, 8, 3, groups=8), '8 groups'),
        (nn.Conv2d(8, 8, 2), 'even kernel 2x2'),
        (nn.Conv2d(8, 8, 3, padding='same'), "padding 'same'"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode='circular'), "mode 'circular'"),
        (nn.Conv2d(7, 8, 3), 'no divisor of 4 divides 7 and 8 channels'),
        (timm.layers.StdConv2d(8, 8, 3), 'StdConv2d has a forward of its own'),
    ],
)
def test_what_is_left_and_why(conv, reason):
    model, entries = convert(nn.Sequential(nn.Conv2d(8, 8, 3), conv))
    assert model[1] is conv
    assert reason in reasons(entries)['1']


def test_head_and_shortcut_stay():
    _, entries = convert(timm.create_model('vgg11_bn', device='meta'))
    assert reasons(entries)['pre_logits.fc1'] == 'head'
    _, entries = convert(timm.create_model('senet154', device='meta'))
    assert reasons(entries)['layer2.0.downsample.0'] == 'shortcut'


def test_clamped_part_is_said():
    model, entries = convert(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 12, 3)), part=8)
    assert model[1].part == 4
    assert entries[1].reason == 'P=4, clamped from 8'


def test_a_lone_convolution_and_a_shared_one():
    layer, entries = convert(nn.Conv2d(8, 8, 3))
    assert isinstance(layer, HetConv2d)
    assert entries[0].changed
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model, entries = convert(nn.Sequential(nn.Conv2d(8, 8, 3), shared, shared))
    assert model[1] is model[2]
    assert isinstance(model[2], HetConv2d)
    assert len(entries) == 3


def test_training_goes_on_after_conversion():
    model, _ = convert(timm.create_model('resnet18', num_classes=3))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('kwargs', [dict(part=1), dict(init='zeros'), dict(projection='median')])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match=str(next(iter(kwargs.values())))):
        convert(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)), **kwargs)


def test_nothing_to_convert_is_said():
    with pytest.warns(UserWarning, match='convert changed nothing'):
        convert(timm.create_model('resnet18'), part=3)
    with pytest.raises(TypeError, match='convert takes a module'):
        convert('resnet18')
