"""BatchNorm into HetConv2d: when it folds, when it must not, and with what accuracy."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnxscript import rewriter
from torch import nn

from inference.export import export_model
from inference.hetconv_op import DOMAIN, OP_TYPE, function
from inference.lowering import fold_batchnorm
from timm_hetconv import HetConv2d


def graph(second_reader=False, dynamic_scale=False):
    """X -> HetConv2d -> BatchNormalization -> Y, optionally with what forbids folding."""
    rng = np.random.default_rng(0)
    arrays = {
        'W': rng.standard_normal((4, 4, 1, 1)),
        'K': rng.standard_normal((4, 2, 3, 3)),
        'mean': rng.standard_normal(4),
        'var': rng.uniform(0.5, 2, 4),
        'gamma': rng.standard_normal(4),
        'beta': rng.standard_normal(4),
    }
    if dynamic_scale:
        del arrays['gamma']
    square = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4, dilations=[1, 1], part=2)
    nodes = [
        helper.make_node(OP_TYPE, ['X', 'W', 'K'], ['h'], domain=DOMAIN, **square),
        helper.make_node('BatchNormalization', ['h', 'gamma', 'beta', 'mean', 'var'], ['Y'], epsilon=1e-3),
    ]
    inputs = [helper.make_tensor_value_info('X', TensorProto.FLOAT, [1, 4, 5, 5])]
    outputs = [helper.make_tensor_value_info('Y', TensorProto.FLOAT, [1, 4, 5, 5])]
    if dynamic_scale:
        inputs.append(helper.make_tensor_value_info('gamma', TensorProto.FLOAT, [4]))
    if second_reader:
        nodes.append(helper.make_node('Relu', ['h'], ['Z']))
        outputs.append(helper.make_tensor_value_info('Z', TensorProto.FLOAT, [1, 4, 5, 5]))
    initializers = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    opsets = [helper.make_opsetid('', 18), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(
        helper.make_graph(nodes, 'g', inputs, outputs, initializers),
        functions=[function()], opset_imports=opsets, ir_version=10,
    )  # fmt: skip


def fold(proto):
    model = ir.from_proto(proto)
    rewriter.rewrite(model, pattern_rewrite_rules=fold_batchnorm.rules)
    return ir.to_proto(model)


def run(proto):
    x = np.random.default_rng(1).standard_normal((1, 4, 5, 5), np.float32)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {'X': x})


def test_folds_to_the_same_function():
    folded = fold(graph())
    assert [node.op_type for node in folded.graph.node] == [OP_TYPE]
    np.testing.assert_allclose(run(folded)[0], run(graph())[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('obstacle', ['second_reader', 'dynamic_scale'])
def test_does_not_fold_what_it_must_not(obstacle):
    folded = fold(graph(**{obstacle: True}))
    assert 'BatchNormalization' in [node.op_type for node in folded.graph.node]


def test_norms_with_equal_values_do_not_share_what_is_folded():
    """The exporter gives equal initialisers one name; writing a folded weight under it would change the other layer."""
    layers = [m for _ in range(3) for m in (HetConv2d(8, 8, bias=True), nn.BatchNorm2d(8), nn.ReLU())]
    model = nn.Sequential(*layers).eval()
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(0.7)
            module.bias.data.fill_(0.3)
    proto = export_model(model, (8, 9, 9))
    names = [name for node in proto.graph.node if node.op_type == OP_TYPE for name in node.input[1:]]
    assert len(names) == len(set(names)) == 9
    x = torch.randn(2, 8, 9, 9)
    output = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {'input': x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), rtol=1e-4, atol=1e-5)
