"""ONNX files: what is in them, and that they compute what PyTorch computes."""

import json
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from inference.errors import UserError
from inference.export import export_model, metadata, save_model, verify
from inference.hetconv_op import DOMAIN, OP_TYPE
from inference.lowering.portable import fix_batch, to_portable
from inference.models import create_model
from timm_hetconv import HetConv2d, convert, count

# One of each family, kind and option that the exporter must know; the whole registry is in the long suite.
QUICK = [
    'hetconv_resnet20_cifar_p4',
    'hetconv_resnet20_cifar_dwc_se',
    'hetconv_vgg16_cifar_p8_se',
    'hetconv_vgg16_cifar_gwc4',
    'hetconv_vgg16_cifar_pc',
    'hetconv_mobilenet_cifar_p32_se',
    'hetconv_mobilenet_cifar_dwc',
    'hetconv_resnet18_p4',
]


def run(proto, x):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {'input': x})[0]


def difference(output, expected):
    return np.abs(output - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize('name', QUICK)
def test_one_file_runs_in_stock_onnxruntime(name, exported):
    model, proto = exported(name)
    layers = Counter(type(m) for m in model.modules())
    nodes = Counter(node.op_type for node in proto.graph.node)
    assert nodes[OP_TYPE] == sum(n for layer, n in layers.items() if issubclass(layer, HetConv2d))
    assert nodes['BatchNormalization'] == 0
    assert {(f.domain, f.name) for f in proto.functions} == ({(DOMAIN, OP_TYPE)} if nodes[OP_TYPE] else set())
    for batch in (1, 3):
        x = torch.randn(batch, *model.pretrained_cfg['input_size'])
        with torch.no_grad():
            expected = model(x).numpy()
        assert difference(run(proto, x.numpy()), expected) < 1e-4
        assert difference(run(to_portable(proto), x.numpy()), expected) < 1e-4


def _small(name):
    """The registered model with the smallest input it takes, so that all of them can be tried."""
    model = create_model(name)
    size = 32 if 'cifar' in name or 'vgg' not in name else 224
    return model, (3, size, size)


@pytest.mark.long
@pytest.mark.parametrize('name', timm.list_models('hetconv_*'))
def test_every_registered_model_exports(name):
    model, size = _small(name)
    proto = export_model(model, size)
    assert verify(proto, model, batch=1) < 1e-4
    assert verify(to_portable(proto), model, batch=1) < 1e-4


def test_portable_form_has_standard_operators_only(exported):
    portable = to_portable(exported('hetconv_resnet20_cifar_p4')[1])
    assert {node.domain for node in portable.graph.node} == {''}
    assert [entry.domain for entry in portable.opset_import] == ['']
    assert not portable.functions
    fixed = fix_batch(portable, 5)
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5
    x = np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32)
    assert difference(run(fixed, x), run(portable, x)) < 1e-5


def test_weights_are_constants_of_the_papers_count(exported):
    model, proto = exported('hetconv_resnet20_cifar_p4')
    initializers = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    nodes = [node for node in proto.graph.node if node.op_type == OP_TYPE]
    layers = [m for m in model.modules() if isinstance(m, HetConv2d)]
    for node, layer in zip(nodes, layers):
        weight, weight_kxk = (initializers[name] for name in node.input[1:3])
        assert weight.shape == layer.weight.shape
        assert weight_kxk.shape == (layer.out_channels, layer.in_channels // layer.part, 3, 3)
        assert not weight_kxk[:, :, 1, 1].any(), 'the centre is in W, not twice'
        assert np.count_nonzero(weight) + np.count_nonzero(weight_kxk) == layer.fan_in * layer.out_channels


def test_metadata_says_what_the_file_is(exported):
    model, proto = exported('hetconv_resnet20_cifar_p4')
    info = metadata(proto)
    assert info['architecture'] == 'hetconv_resnet20_cifar_p4'
    assert info['macs'] == count(model).macs
    assert info['num_classes'] == 10
    assert info['mean'] == list(model.pretrained_cfg['mean'])
    assert info['input_size'] == [3, 32, 32]
    assert proto.opset_import[0].version == 18


def test_a_file_holds_nothing_of_the_machine_that_wrote_it(exported):
    proto = exported('hetconv_resnet20_cifar_p4')[1]
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert proto.ByteSize() - weights < 30_000
    assert b'.py' not in b''.join(node.SerializeToString() for node in proto.graph.node)


def test_hetconv_nodes_are_called_after_their_modules(exported):
    proto = exported('hetconv_resnet20_cifar_p4')[1]
    names = [node.name for node in proto.graph.node if node.op_type == OP_TYPE]
    assert names[:2] == ['stages.0.0.conv1', 'stages.0.0.conv2']
    assert len(set(names)) == 18


def test_export_is_deterministic():
    model = create_model('hetconv_resnet20_cifar_p4')
    assert export_model(model).SerializeToString() == export_model(model).SerializeToString()


@pytest.mark.parametrize('padding', [0, 1, 3, (0, 2), (2, 0)])
@pytest.mark.parametrize('kernel_size', [3, (3, 5)])
@pytest.mark.parametrize('bias', [True, False])
def test_any_padding(padding, kernel_size, bias):
    """Padding other than 'same' has no HetConv2d node, but the same result."""
    layer = HetConv2d(8, 8, kernel_size, stride=2, padding=padding, bias=bias)
    model = nn.Sequential(layer, nn.BatchNorm2d(8)).eval()
    model[1].running_mean.normal_()
    proto = export_model(model, (8, 13, 13))
    same = layer.padding == (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
    assert any(node.op_type == OP_TYPE for node in proto.graph.node) == same
    x = torch.randn(2, 8, 13, 13)
    torch.testing.assert_close(torch.from_numpy(run(proto, x.numpy())), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_converted_model_exports():
    model, _ = convert(timm.create_model('resnet10t').eval())
    assert verify(export_model(model, (3, 64, 64)), model) < 1e-4


def test_a_broken_model_is_refused():
    model = create_model('hetconv_resnet20_cifar_p4')
    model.fc.weight.data[0, 0] = float('nan')
    with pytest.raises(UserError, match='not finite'):
        export_model(model)


def test_verify_finds_a_wrong_weight(exported):
    model, proto = exported('hetconv_resnet20_cifar_p4')
    wrong = onnx.ModelProto()
    wrong.CopyFrom(proto)
    weight = next(i for i in wrong.graph.initializer if i.name.endswith('.weight_kxk'))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(UserError, match='differs from PyTorch'):
        verify(wrong, model)


def test_an_onnx_file_of_others_has_no_metadata():
    with pytest.raises(UserError, match='not made by `hetconv export`'):
        metadata(onnx.ModelProto())


def test_save_leaves_nothing_half_written(exported, tmp_path, monkeypatch):
    _, proto = exported('hetconv_resnet20_cifar_p4')
    path = save_model(proto, tmp_path / 'model.onnx')
    before = path.read_bytes()
    assert json.loads(onnx.load(path).metadata_props[0].value)

    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', full_disk)
    with pytest.raises(UserError, match='No space left'):
        save_model(onnx.ModelProto(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
