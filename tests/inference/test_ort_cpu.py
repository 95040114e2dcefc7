"""The lowering to ONNX Runtime with the CPU kernels: what becomes of a graph, and that it computes the same."""

from collections import Counter

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

import timm_hetconv
from inference.build import build
from inference.engines.ort_cpu import make_session
from inference.errors import UserError
from inference.export import export_model, kernels_of, save_model
from inference.kernels import cpu
from inference.lowering.ort_cpu import join_layers, to_ort_cpu
from inference.models import create_model
from timm_hetconv import HetConv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
NAMES = timm.list_models('hetconv_*')
SMALL = [
    'hetconv_resnet20_cifar_p4', 'hetconv_resnet20_cifar_p64_se', 'hetconv_resnet20_cifar_gwc4',
    'hetconv_vgg16_cifar_p8_se',
    'hetconv_vgg16_cifar_pc', 'hetconv_mobilenet_cifar_p32', 'hetconv_mobilenet_cifar_dwc', 'hetconv_resnet50_p4_se',
]  # fmt: skip


def operators(proto):
    return Counter(f'{node.domain}::{node.op_type}' if node.domain else node.op_type for node in proto.graph.node)


def compare(module, size, batches=(2, 1, 3), tolerance=1e-4, **config):
    """Export, lower, run in ONNX Runtime, at batches that change from call to call, a node a layer and joined."""
    module = module.eval()
    lowered = to_ort_cpu(export_model(module, size), joined=False)
    joined = join_layers(lowered)
    onnx.checker.check_model(joined)
    session, apart = (make_session(proto.SerializeToString(), 2, **config) for proto in (joined, lowered))
    for batch in batches:
        x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = module(x).numpy()
        (output,) = session.run(None, {'input': x.numpy()})
        assert output.shape == expected.shape
        assert np.abs(output - expected).max() <= tolerance * np.abs(expected).max()
        np.testing.assert_array_equal(output, apart.run(None, {'input': x.numpy()})[0])
    return lowered


@pytest.mark.parametrize('name', SMALL)
def test_models(name):
    compare(create_model(name), (3, 64, 64) if 'cifar' not in name else (3, 32, 32))


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
def test_every_model(name):
    compare(create_model(name), (3, 64, 64) if 'cifar' not in name else (3, 32, 32), batches=(2,))


@pytest.mark.parametrize(
    'name',
    [
        'resnet18', 'resnet26d', 'regnety_002',
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ('densenet121', 'efficientnet_b0', 'convnext_atto', 'vgg11', 'mobilenetv3_small_050', 'dla34')
        ),
    ],
)  # fmt: skip
def test_a_network_that_was_converted_and_never_seen(name):
    model = timm.create_model(name, num_classes=10)
    if name not in ('efficientnet_b0', 'convnext_atto', 'mobilenetv3_small_050'):
        timm_hetconv.convert(model, part=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    compare(model, (3, 64, 64))


def test_a_residual_network_has_nothing_left_but_convolutions():
    lowered = to_ort_cpu(export_model(create_model('hetconv_resnet18_p4'), (3, 64, 64)), joined=False)
    found = operators(lowered)
    assert found == {
        'Transpose': 1, 'hetconv.nhwc::Conv': 4, 'hetconv.nhwc::HetConv2d': 16, 'hetconv.nhwc::MaxPool': 1,
        'ReduceMean': 1, 'Reshape': 1, 'Gemm': 1,
    }  # fmt: skip
    others = {'Transpose': 1, 'ReduceMean': 1, 'Reshape': 1, 'Gemm': 1}
    joined = join_layers(lowered)
    assert operators(joined) == {'hetconv.nhwc::Sequence': 1, **others}
    assert Counter(kernels_of(joined)) == {'Conv': 4, 'HetConv2d': 16, 'MaxPool': 1}


class Net(nn.Module):
    """Two layers, and what a test puts behind the first."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = HetConv2d(8, 8, part=2), nn.Conv2d(8, 8, 1), between

    def forward(self, x):
        return self.second(self.between(self.first(x), x))


FUSED = {
    'relu': (lambda y, x: y.relu(), {}),
    'relu6': (lambda y, x: nn.functional.relu6(y), {}),
    'clamp of bounds the wrong way round': (lambda y, x: y.clamp(1.0, 0.0), {'Clip': 1}),
    'residual': (lambda y, x: y + x.relu(), {'Relu': 1}),
    'residual first': (lambda y, x: (x.relu() + y).relu(), {'Relu': 1}),
    # The convolution is read twice.
    'read twice': (lambda y, x: y.relu() + y, {'Relu': 1, 'Add': 1}),
    # An activation before the sum.
    'sum last': (lambda y, x: y.relu() + x.relu(), {'Relu': 1, 'Add': 1}),
    'batch norm behind an activation': (
        lambda y, x: nn.functional.batch_norm(
            y.relu(), *(torch.linspace(low, 1.0, 8, device=y.device) for low in (-1.0, 0.1, -2.0, 0.5))
        ),
        {'Mul': 1, 'Add': 1},
    ),
    'slopes': (lambda y, x: nn.functional.prelu(y, torch.linspace(-1.0, 1.0, 8, device=y.device)), {'PRelu': 1}),
    'where': (lambda y, x: torch.where(x > 0, y, x), {'Where': 1, 'Greater': 1}),
    'broadcast': (lambda y, x: y + y.mean((2, 3), keepdim=True), {'ReduceMean': 1, 'Add': 1}),
    'constant': (lambda y, x: y + 1.0, {'Add': 1}),
    'channels': (lambda y, x: y * torch.arange(8.0, device=y.device).reshape(8, 1, 1), {'Mul': 1}),
    'row of pixels': (lambda y, x: y * torch.arange(6.0, device=y.device), {'Mul': 1}),
    'concat': (lambda y, x: torch.cat([y, x], 1)[:, :8], {'Concat': 1, 'Slice': 1}),
    'pad': (lambda y, x: nn.functional.pad(y, (1, 0, 2, 0), value=1.0), {'Pad': 1}),
    'pool': (lambda y, x: nn.functional.max_pool2d(y, 3, 2, 1), {'hetconv.nhwc::MaxPool': 1}),
    'ceil pool': (lambda y, x: nn.functional.max_pool2d(y, 2, 2, ceil_mode=True), {'MaxPool': 1}),
    'average': (lambda y, x: nn.functional.avg_pool2d(y, 2), {'hetconv.nhwc::AveragePool': 1}),
    'average with pads': (
        lambda y, x: nn.functional.avg_pool2d(y, 3, 2, 1, count_include_pad=True),
        {'hetconv.nhwc::AveragePool': 1},
    ),
    'average without pads': (
        lambda y, x: nn.functional.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
        {'hetconv.nhwc::AveragePool': 1},
    ),
    'sigmoid': (lambda y, x: y * y.sigmoid(), {'Sigmoid': 1, 'Mul': 1}),
}


@pytest.mark.parametrize('case', FUSED)
def test_what_is_fused_and_what_is_not(case):
    between, left = FUSED[case]
    found = operators(compare(Net(between), (8, 7, 6)))
    assert found.pop('hetconv.nhwc::HetConv2d') == 1
    assert found.pop('hetconv.nhwc::Conv') == 1
    transposes = found.pop('Transpose')
    assert found == left
    assert transposes == {'concat': 4, 'ceil pool': 4}.get(case, 2)


def test_winograd_can_be_forbidden():
    name = 'hetconv_resnet20_cifar_p1'
    model = create_model(name)
    lowered = to_ort_cpu(export_model(model)).SerializeToString()
    x = torch.randn(1, 3, 32, 32)
    with_it, without, wrong = (
        make_session(lowered, 1, **config).run(None, {'input': x.numpy()})[0]
        for config in ({}, {'algorithm': 'direct'}, {'isa': cpu.instruction_sets()[-1]})
    )
    with torch.no_grad():
        expected = model.double()(x.double()).numpy()
    errors = [np.abs(y - expected).max() / np.abs(expected).max() for y in (with_it, without, wrong)]
    assert errors[1] < 2e-6
    assert errors[0] < 1e-4
    assert errors[2] < 1e-4
    assert not np.array_equal(with_it, without)


@pytest.mark.parametrize('config', [{'algorithm': 'no'}, {'isa': 'mmx'}])
def test_options_that_make_no_sense(config):
    lowered = to_ort_cpu(export_model(create_model('hetconv_resnet20_cifar_p4'))).SerializeToString()
    with pytest.raises(Exception, match=r'unknown algorithm no|unknown instruction set mmx'):
        make_session(lowered, 1, **config)


def test_an_input_of_another_shape_ends_in_an_error():
    lowered = to_ort_cpu(export_model(create_model('hetconv_resnet20_cifar_p4')))
    session = make_session(lowered.SerializeToString(), 1)
    for shape in ((1, 4, 32, 32), (3, 32, 32)):
        with pytest.raises(Exception, match=r'X must be|[Ii]nvalid|[Uu]nexpected'):
            session.run(None, {'input': np.zeros(shape, np.float32)})
    assert session.run(None, {'input': np.zeros((0, 3, 32, 32), np.float32)})[0].shape == (0, 10)


def test_build(tmp_path):
    name = 'hetconv_resnet20_cifar_p4'
    lowered, error = build(name, 'ort-cpu')
    assert error < 1e-5
    save_model(export_model(create_model(name)), tmp_path / 'exported.onnx')
    again, _ = build(str(tmp_path / 'exported.onnx'), 'ort-cpu')
    assert operators(again) == operators(lowered)
    assert {entry.key for entry in lowered.metadata_props} >= {'hetconv', 'plugin'}
    with pytest.raises(UserError, match='unknown engine to build for'):
        build(name, 'tflite')
    with pytest.raises(UserError, match='has its weights already'):
        build(str(tmp_path / 'exported.onnx'), 'ort-cpu', tmp_path / 'x.pth')
    save_model(lowered, tmp_path / 'built.onnx')
    with pytest.raises(UserError, match='is built already'):
        build(str(tmp_path / 'built.onnx'), 'ort-cpu')
