"""Models by name, with weights from a checkpoint or random ones: inference/models.py."""

import pytest
import torch
from torch import nn

from inference.errors import UserError
from inference.models import create_model, dense_twin, weights_text

MODEL = 'hetconv_resnet20_cifar_p4'


def test_checkpoints(tmp_path):
    model = create_model(MODEL)
    good, other, cut = tmp_path / 'good.pth', tmp_path / 'other.pth', tmp_path / 'cut.pth'
    torch.save({'state_dict': model.state_dict()}, good)
    torch.save(create_model('hetconv_resnet20_cifar_p8').state_dict(), other)
    cut.write_bytes(good.read_bytes()[:5000])
    loaded = create_model(MODEL, good)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    with pytest.raises(UserError, match=f'not a checkpoint of {MODEL}: 0 weights missing, 0 unknown, 18 of another'):
        create_model(MODEL, other)
    with pytest.raises(UserError, match='damaged'):
        create_model(MODEL, cut)
    dense = tmp_path / 'dense.pth'
    torch.save(create_model('hetconv_resnet20_cifar_p1').state_dict(), dense)
    with pytest.raises(UserError, match='a dense network becomes HetConv'):
        create_model(MODEL, dense)


def test_a_checkpoint_brings_its_own_classes_and_channels(tmp_path):
    import timm

    from inference.export import export_model, metadata, verify

    trained = timm.create_model(MODEL, num_classes=7, in_chans=1)
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'grey.pth')
    model = create_model(MODEL, tmp_path / 'grey.pth')
    proto = export_model(model)
    assert metadata(proto)['num_classes'] == 7
    assert metadata(proto)['input_size'] == [1, 32, 32]
    assert verify(proto, model) < 1e-4


def test_a_checkpoint_brings_what_its_images_were_prepared_with(tmp_path):
    import argparse

    import timm

    from inference.export import export_model, metadata

    arguments = argparse.Namespace(
        model=MODEL, mean=[0.25], std=[0.5, 0.6, 0.7], interpolation='bilinear', img_size=40, gp='max',
        model_kwargs={'act_layer': 'silu'},
    )  # fmt: skip
    trained = timm.create_model(MODEL, global_pool='max', act_layer='silu', num_classes=3).eval()
    worse = timm.create_model(MODEL, num_classes=3).state_dict()
    torch.save(
        {'state_dict': worse, 'state_dict_ema': trained.state_dict(), 'args': arguments}, tmp_path / 'trained.pth.tar'
    )
    x = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(create_model(MODEL, tmp_path / 'trained.pth.tar')(x), trained(x))
    info = metadata(
        export_model(
            create_model(MODEL, tmp_path / 'trained.pth.tar'), weights=weights_text(MODEL, tmp_path / 'trained.pth.tar')
        )
    )
    assert info['mean'] == [0.25] * 3
    assert info['std'] == [0.5, 0.6, 0.7]
    assert info['interpolation'] == 'bilinear'
    assert info['input_size'] == [3, 40, 40]
    assert info['weights'] == 'trained.pth.tar (EMA)'
    assert info['part'] == [4]
    assert info['hetconv_layers'] == 18


def test_a_checkpoint_of_a_model_with_the_same_weights_is_refused(tmp_path):
    """The ImageNet and the CIFAR MobileNet have equal shapes and differ in the stride of their first convolution."""
    import argparse

    state = create_model('hetconv_mobilenet_cifar_p32').state_dict()
    arguments = argparse.Namespace(model='hetconv_mobilenet_cifar_p32')
    torch.save({'state_dict': state, 'args': arguments}, tmp_path / 'cifar.pth.tar')
    create_model('hetconv_mobilenet_cifar_p32', tmp_path / 'cifar.pth.tar')
    with pytest.raises(UserError, match='is a checkpoint of hetconv_mobilenet_cifar_p32, not of hetconv_mobilenet_p32'):
        create_model('hetconv_mobilenet_p32', tmp_path / 'cifar.pth.tar')


@pytest.mark.parametrize(
    ('name', 'twin'),
    [
        ('hetconv_resnet34_p4', 'hetconv_resnet34_p1'),
        ('hetconv_vgg16_cifar_gwc4_se', 'hetconv_vgg16_cifar_p1_se'),
        ('hetconv_mobilenet_dwc', 'hetconv_mobilenet_p1'),
        ('resnet34', 'resnet34'),
    ],
)
def test_dense_twin(name, twin):
    assert dense_twin(name) == twin


def test_random_weights_are_the_same_every_time_and_no_identity():
    a, b = create_model(MODEL), create_model(MODEL)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    norms = [m for m in a.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.weight.min() > 0 and m.running_mean.abs().max() > 0 for m in norms)
