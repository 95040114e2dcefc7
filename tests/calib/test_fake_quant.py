"""Training sees the numbers that the INT8 form will have, and a checkpoint is like any other."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import timm_hetconv
from calib.data import Arrays
from calib.fake_quant import prepare
from calib.layers import find_layers, tensors_of
from calib.presets import PRESETS
from calib.quantize import quantize
from calib.ranges import collect_ranges, tapped_session
from inference.export import export_model


def network(name='hetconv_resnet20_cifar_p4', seed=0):
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    return model


def images(count=16):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_network_keeps_its_keys_and_its_weights():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    prepared = prepare(model)
    prepared.train()(images())
    after = prepared.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before if 'running' not in key and 'num_' not in key)
    network().load_state_dict(after)


@pytest.mark.parametrize('kind', ['HetConv2d', 'Conv2d'])
def test_a_layer_and_its_norm_see_what_the_int8_form_gives(kind):
    """Of one layer, so that no rounding depends on another: the same ranges, and weights rounded in front of the norm
    or with its factor in them."""
    torch.manual_seed(0)
    layer = timm_hetconv.HetConv2d(8, 16, part=4) if kind == 'HetConv2d' else nn.Conv2d(8, 16, 3, padding=1)
    norm = nn.BatchNorm2d(16)
    norm.weight.data.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.running_mean.normal_()
    model, x = nn.Sequential(layer, norm).eval(), torch.randn(8, 8, 9, 9)
    proto = export_model(model, (8, 9, 9))
    layers = find_layers(proto)
    ranges = collect_ranges(proto, tensors_of(proto, layers), Arrays(x.numpy()), (8, 9, 9))
    quantised = quantize(proto, layers, ranges, PRESETS['cpu'])
    expected = tapped_session(quantised, []).run(None, {'input': x.numpy()})[0]
    with torch.no_grad():
        plain = model(x).numpy()
        prepare(model)
        model[0].train()(x)
        found = model.eval()(x).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(plain - expected).max() > 1e-3


def test_gradients_pass_the_rounding():
    model = prepare(network()).train()
    nn.functional.cross_entropy(model(images()), torch.arange(16) % 10).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_both_weights_of_a_hetconv_have_one_scale():
    layer = timm_hetconv.HetConv2d(8, 8, part=4)
    with torch.no_grad():
        layer.weight_kxk.mul_(50)
    model = prepare(nn.Sequential(layer))
    weight, kxk = model[0]._weights(layer.weight, layer.weight_kxk)
    steps = layer.weight_kxk.flatten(1).abs().amax(1) / 127
    for rounded, exact in ((weight, layer.weight), (kxk, layer.weight_kxk)):
        ratio = rounded / steps.reshape(-1, *[1] * (rounded.ndim - 1))
        torch.testing.assert_close(ratio, ratio.round(), atol=1e-3, rtol=0)
        assert ((rounded - exact).abs().flatten(1).amax(1) <= 0.501 * steps).all()


def test_squeeze_and_excitation_stays():
    model = prepare(network('hetconv_resnet20_cifar_p4_se'))
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert all((kind is nn.Conv2d) == ('.se.' in name) for name, kind in kinds.items())
    assert {kind.__name__ for kind in kinds.values()} == {'Conv2d', '_Conv2d'}


def test_ranges_stand_still_in_validation():
    model = prepare(network())
    x = images()
    with torch.no_grad():
        exact = model.eval()(x)
        model.train()(x)
        first = model.eval()(x)
        model(100 * x)
        again = model(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, exact)


@pytest.mark.parametrize('name', ['hetconv_vgg16_cifar_p4', 'hetconv_mobilenet_cifar_dwc'])
def test_families(name):
    model = prepare(network(name)).train()
    assert torch.isfinite(model(images(4))).all()
