"""The registry, and what a model of each family must do beyond timm's own tests."""

import pickle

import pytest
import timm
import torch
from torch import nn

from timm_hetconv import HetConv2d, parse_variant
from timm_hetconv._family import swap_conv

NAMES = timm.list_models('hetconv_*')
# One of each family and kind that is small enough for every change.
SMALL = [
    'hetconv_resnet20_cifar_p4',
    'hetconv_resnet20_cifar_p64_se',
    'hetconv_resnet20_cifar_dwc',
    'hetconv_vgg16_cifar_p8_se',
    'hetconv_vgg16_cifar_pc',
    'hetconv_mobilenet_cifar_dwc',
    'hetconv_mobilenet_cifar_p32_se',
    'hetconv_resnet18_p4',
]


def small_input(model, batch=2, channels=None):
    c, h, w = model.pretrained_cfg['input_size']
    return torch.randn(batch, channels or c, min(h, 64), min(w, 64))


def test_every_name_of_the_design_is_registered():
    kinds = [f'p{p}' for p in (1, 2, 4, 8, 16, 32, 64)]
    cifar = {arch: [*kinds, 'gwc4', 'dwc', 'pc'] for arch in ('vgg16_cifar', 'resnet20_cifar', 'resnet56_cifar')}
    mobile = {arch: [*kinds, 'dwc'] for arch in ('mobilenet', 'mobilenet_cifar')}
    plain = dict.fromkeys(('vgg16', 'resnet18', 'resnet34', 'resnet50'), kinds)
    expected = {
        f'hetconv_{arch}_{kind}{se}'
        for arch, row in {**cifar, **mobile, **plain}.items()
        for kind in row
        for se in ('', '_se')
    }
    assert set(NAMES) == expected


@pytest.mark.parametrize('name', NAMES)
def test_every_model_can_be_created_and_says_what_it_is(name):
    model = timm.create_model(name, device='meta')
    assert all(p.device.type == 'meta' for p in model.parameters())
    variant = parse_variant(name)
    parts = {m.part for m in model.modules() if isinstance(m, HetConv2d)}
    if variant['conv'][0] == 'p' and variant['conv'][1:].isdigit() and variant['conv'] != 'p1':
        assert max(parts) <= int(variant['conv'][1:])
        assert all(int(variant['conv'][1:]) % part == 0 for part in parts)
    else:
        assert parts == set() or variant['conv'] == 'pc'
    assert timm.models.model_entrypoint(name).__doc__


@pytest.mark.parametrize('name', ['resnet18', 'resnet34', 'resnet50'])
def test_p1_is_timms_own_network(name):
    ours, theirs = timm.create_model(f'hetconv_{name}_p1').eval(), timm.create_model(name).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize('name', SMALL)
def test_in_chans_num_classes_and_stem(name):
    model = timm.create_model(name, in_chans=4, num_classes=7).eval()
    assert model(small_input(model, channels=4)).shape == (2, 7)
    # With four input channels a stem chosen by divisibility would turn into HetConv.
    assert isinstance(model.get_submodule(model.pretrained_cfg['first_conv']), nn.Conv2d)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('pool', ['max', 'avgmax', 'catavgmax'])
def test_global_pool(name, pool):
    model = timm.create_model(name, global_pool=pool).eval()
    assert model(small_input(model)).shape[1] == model.num_classes
    model.reset_classifier(5)
    assert model(small_input(model)).shape == (2, 5)
    model.reset_classifier(0)
    assert model(small_input(model)).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize('name', [n for n in SMALL if 'vgg' not in n])
def test_output_stride_trades_stride_for_dilation(name):
    smallest = {'hetconv_resnet18_p4': 8}.get(name, 2)
    full, dense = timm.create_model(name).eval(), timm.create_model(name, output_stride=smallest).eval()
    dense.load_state_dict(full.state_dict())
    x = small_input(dense)
    assert dense.forward_features(x).shape[-1] == x.shape[-1] // smallest
    features = timm.create_model(name, features_only=True, output_stride=smallest).eval()
    assert max(features.feature_info.reduction()) == smallest
    assert [f.shape[-1] for f in features(x)] == [x.shape[-1] // r for r in features.feature_info.reduction()]


@pytest.mark.parametrize('name', [n for n in SMALL if 'cifar' in n and 'vgg' not in n])
def test_bad_output_stride(name):
    with pytest.raises(ValueError, match='output_stride=3'):
        timm.create_model(name, output_stride=3)


@pytest.mark.parametrize('name', ['hetconv_resnet20_cifar_p4', 'hetconv_resnet18_p4'])
def test_drop_path(name):
    model = timm.create_model(name, drop_path_rate=0.3)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == 'DropPath']
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    model(small_input(model)).sum().backward()


@pytest.mark.parametrize('name', SMALL)
def test_gradient_checkpointing_changes_no_gradient(name):
    model = timm.create_model(name).train()
    model.set_grad_checkpointing(False)
    x = small_input(model)

    def gradients():
        torch.manual_seed(0)
        model.zero_grad()
        model(x).square().mean().backward()
        return {key: p.grad.clone() for key, p in model.named_parameters()}

    expected = gradients()
    model.set_grad_checkpointing()
    for key, grad in gradients().items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize('name', SMALL)
def test_weights_can_be_initialised_after_to_empty(name):
    model = timm.create_model(name, device='meta').to_empty(device='cpu')
    model.init_weights()
    assert model.eval()(small_input(model)).isfinite().all()


@pytest.mark.parametrize('name', SMALL)
def test_activations_keep_their_size_at_initialisation(name):
    """The HetConv initialisation counts the taps that a filter has, so a deep network neither fades nor explodes."""
    model = timm.create_model(name).train()
    with torch.no_grad():
        features = model.forward_features(small_input(model, batch=8))
    assert 0.05 < features.std() < 50


def test_pretrained_weights_that_do_not_exist():
    with pytest.raises(RuntimeError, match=r'[Nn]o pretrained weights exist'):
        timm.create_model('hetconv_resnet34_p4', pretrained=True)


def test_models_pickle():
    model = timm.create_model('hetconv_resnet20_cifar_p4').eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


@pytest.mark.parametrize('kind', ['p0', 'q4', 'p', 'gwc', 'dw', ''])
def test_unknown_kind(kind):
    with pytest.raises(ValueError, match='convolution kind'):
        swap_conv(nn.Conv2d(8, 8, 3), kind)


@pytest.mark.parametrize('name', ['resnet34', 'hetconv_resnet34', 'hetconv_resnet34_q4'])
def test_not_a_variant(name):
    with pytest.raises(ValueError, match='not the name of a HetConv model'):
        parse_variant(name)


@pytest.mark.parametrize('name', ['hetconv_vgg16_cifar_p4', 'hetconv_vgg16_cifar_p4_se', 'hetconv_resnet20_cifar_p4'])
def test_norm_and_activation_are_the_callers(name):
    import timm

    model = timm.create_model(name, norm_layer=nn.InstanceNorm2d, act_layer=nn.SiLU)
    kinds = {type(module) for module in model.features.modules()} if 'vgg' in name else set(map(type, model.modules()))
    assert nn.InstanceNorm2d in kinds
    assert nn.SiLU in kinds
    assert not kinds & {nn.BatchNorm2d, nn.ReLU} or 'se' in name
