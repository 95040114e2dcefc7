"""Counts: known totals of known networks, and each layer against arithmetic."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from timm_hetconv import HetConv2d, count

PARTS = (1, 2, 4, 8, 16, 32, 64)
MACS = {
    'vgg16_cifar': (313463808, 175051776, 105845760, 71242752, 53941248, 45290496, 40965120),
    'vgg16': (15470264320, 8688074752, 5296979968),
    'resnet56_cifar': (125485696, 69911168, 42123904),
    'resnet34': (3663761408, 2096664576, 1313116160),
    'resnet50': (4089184256, 3267100672, 2856058880),
}
PARAMS = {'vgg16_cifar': (14987722, 8450506, 5181898, 3547594, 2730442, 2321866, 2117578)}
KNOWN = {
    **{f'hetconv_{arch}_p{p}': macs for arch, row in MACS.items() for p, macs in zip(PARTS, row)},
    'hetconv_mobilenet_cifar_dwc': 46354432,
    'hetconv_mobilenet_cifar_p32': 55945216,
}


@pytest.mark.parametrize('name', KNOWN)
def test_macs_of_known_networks(name):
    assert count(timm.create_model(name, device='meta')).macs == KNOWN[name]


@pytest.mark.parametrize('part', PARTS)
def test_parameters_of_vgg16_cifar(part):
    cost = count(timm.create_model(f'hetconv_vgg16_cifar_p{part}', device='meta'))
    assert cost.params == PARAMS['vgg16_cifar'][PARTS.index(part)]


@pytest.mark.parametrize(
    'name', ['hetconv_resnet20_cifar_p4_se', 'hetconv_vgg16_cifar_gwc4', 'hetconv_mobilenet_cifar_dwc']
)
def test_macs_equal_torchs_flop_counter(name):
    model = timm.create_model(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * count(model).macs


def test_layers_add_up_and_have_names():
    model = timm.create_model('hetconv_resnet18_p4', device='meta')
    cost = count(model)
    assert sum(layer.macs for layer in cost.layers) == cost.macs
    assert {type(model.get_submodule(layer.name)) for layer in cost.layers if layer.kind == 'hetconv'} == {HetConv2d}
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(layer.params for layer in cost.layers) + norms == cost.params


@pytest.mark.parametrize(
    ('module', 'per_pixel'),
    [
        (nn.Conv2d(8, 8, 3, padding=1), 8 * 8 * 2.25),
        (nn.Conv2d(8, 8, 3, padding=1, stride=2), 8 * 8 * 9),  # no Winograd with a stride
        (nn.Conv2d(8, 8, 1), 8 * 8),
        (HetConv2d(8, 8, part=4), 8 * 8 * (2.25 / 4 + 3 / 4)),  # 1.31 a weight pair at P=4
        (HetConv2d(8, 8, part=4, stride=2), 8 * 8 * (9 / 4 + 3 / 4)),
        (HetConv2d(8, 8, 5, part=4), 8 * 8 * (25 / 4 + 3 / 4)),
        (HetConv2d(8, 8, part=4, dilation=2), 8 * 8 * (9 / 4 + 3 / 4)),
    ],
)
def test_minimal_multiplies(module, per_pixel):
    cost = count(module, (8, 12, 12))
    pixels = cost.layers[0].shape['output']
    assert cost.minimal_multiplies == pytest.approx(per_pixel * pixels[0] * pixels[1])


def test_counting_leaves_the_model_as_it_was():
    model = timm.create_model('hetconv_resnet20_cifar_p4').train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_linear_over_tokens_counts_every_token():
    assert count(nn.Sequential(nn.Flatten(2), nn.Linear(16, 5)), (7, 4, 4)).macs == 7 * 16 * 5


def test_a_model_without_a_size_needs_one():
    with pytest.raises(ValueError, match='input_size'):
        count(nn.Conv2d(3, 8, 3))


def test_the_size_is_the_models_own_not_its_configs():
    colour, grey = (timm.create_model('hetconv_resnet20_cifar_p4', in_chans=c, device='meta') for c in (3, 1))
    stem = 9 * 16 * 32 * 32  # a channel
    assert count(grey).macs == count(colour).macs - 2 * stem
