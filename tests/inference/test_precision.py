"""A graph in half precision: what is cast and what is not, and that it computes what PyTorch computes in that type."""

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from inference.build import MAX_PRECISION_ERROR
from inference.errors import UserError
from inference.lowering.portable import to_portable
from inference.lowering.precision import rounded_to_float32, to_precision

QUICK = ['hetconv_resnet20_cifar_p4', 'hetconv_vgg16_cifar_p8_se']
HALF = {'fp16': TensorProto.FLOAT16, 'bf16': TensorProto.BFLOAT16}
EPSILON = {'fp16': 2.0**-11, 'bf16': 2.0**-8}  # half the distance of 1 to the next number


def run(proto, *inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return session.run(None, {value.name: array for value, array in zip(session.get_inputs(), inputs)})[0]


def runnable(proto, precision):
    """ONNX Runtime has no bf16 on a CPU."""
    return rounded_to_float32(proto) if precision == 'bf16' else proto


def difference(output, expected):
    return np.abs(output - expected).max() / np.abs(expected).max()


def graph(nodes, initializers=None, x=('b', 2, 4, 4), y=('b', 'c', 'h', 'w'), outputs=('y',)):
    """A float32 model from x to y."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            'small',
            [helper.make_tensor_value_info('x', TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, y) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (initializers or {}).items()],
        ),
        opset_imports=[helper.make_opsetid('', 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def types(proto):
    """Type of every value, as ONNX infers them, which fails where a node gets what it does not take."""
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {value.name: value.data_type for value in inferred.graph.initializer}


@pytest.mark.parametrize('form', [to_portable, lambda proto: proto], ids=['portable', 'hetconv'])
@pytest.mark.parametrize('precision', HALF)
@pytest.mark.parametrize('name', QUICK)
def test_models_compute_what_pytorch_computes(name, precision, form, exported):
    model, proto = exported(name)
    half = to_precision(form(proto), precision)
    x = torch.randn(4, *model.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(x).numpy()
    error = difference(run(rounded_to_float32(half), x.numpy()), expected)
    if precision == 'fp16':  # stock ONNX Runtime takes the file itself too
        assert difference(run(half, x.numpy()), expected) < 1.5 * error
    assert error < MAX_PRECISION_ERROR[precision]
    # One rounding of the result alone is up to EPSILON; less than a tenth of it would be no half precision at all.
    assert error > EPSILON[precision] / 10


@pytest.mark.parametrize('name', QUICK)
def test_bf16_is_as_exact_as_pytorchs(name, exported):
    """PyTorch's own bf16 says what the type costs on this network; the graph costs no more than twice that."""
    model, proto = exported(name)
    x = torch.randn(8, *model.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(4))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        theirs = model(x).float().numpy()
    with torch.no_grad():
        expected = model(x).numpy()
    ours = run(rounded_to_float32(to_precision(to_portable(proto), 'bf16')), x.numpy())
    assert difference(ours, expected) < 2 * difference(theirs, expected)


@pytest.mark.parametrize('form', [to_portable, lambda proto: proto], ids=['portable', 'hetconv'])
@pytest.mark.parametrize('precision', HALF)
def test_every_weight_is_cast_and_both_ends_are_not(precision, form, exported):
    proto = form(exported('hetconv_resnet20_cifar_p4')[1])
    half = to_precision(proto, precision)
    before = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    after = {i.name: i for i in half.graph.initializer}
    assert after.keys() == before.keys(), 'weights keep their names'
    for name, array in before.items():
        if array.dtype == np.float32:
            assert after[name].data_type == HALF[precision], name
            target = np.float16 if precision == 'fp16' else ml_dtypes.bfloat16
            raw = np.frombuffer(after[name].raw_data, target).reshape(array.shape)
            np.testing.assert_array_equal(raw.view(np.uint16), array.astype(target).view(np.uint16))
        else:
            np.testing.assert_array_equal(numpy_helper.to_array(after[name]), array)
    nodes = Counter(node.op_type for node in half.graph.node)
    assert nodes == Counter(node.op_type for node in proto.graph.node) + Counter(Cast=2)
    (x,), (y,) = half.graph.input, half.graph.output
    assert (x.name, y.name) == ('input', 'logits')
    assert x.type == proto.graph.input[0].type
    assert y.type.tensor_type.elem_type == TensorProto.FLOAT
    assert half.metadata_props == proto.metadata_props
    assert half.functions == proto.functions
    if precision == 'fp16':  # ONNX knows no bf16 Conv at this opset
        found = types(half)
        floats = {name for name, kind in found.items() if kind == TensorProto.FLOAT}
        assert floats == {'input', 'logits'}


def test_fp32_changes_nothing(exported):
    proto = to_portable(exported('hetconv_resnet20_cifar_p4')[1])
    same = to_precision(proto, 'fp32')
    assert same.graph.node == proto.graph.node
    assert same.graph.initializer == proto.graph.initializer


@pytest.mark.parametrize('precision', HALF)
def test_scales_of_a_resize_stay_float32(precision):
    proto = graph(
        [
            helper.make_node('Relu', ['x'], ['r'], name='relu'),
            helper.make_node('Resize', ['r', '', 'scales'], ['y'], name='resize', mode='nearest'),
        ],
        {'scales': np.float32([1, 1, 1.5, 2.5])},
    )
    half = to_precision(proto, precision)
    assert [i.data_type for i in half.graph.initializer] == [TensorProto.FLOAT]
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 4), np.float32)
    assert difference(run(runnable(half, precision), x), run(proto, x)) <= EPSILON[precision]


def test_what_scales_are_computed_from_stays_float32_too():
    """The factor is exact in float32 only: in fp16 the result would have another shape."""
    nodes = [
        helper.make_node('Relu', ['x'], ['r'], name='relu'),
        helper.make_node('Shape', ['r'], ['shape'], name='shape', start=2),
        helper.make_node('Cast', ['shape'], ['size'], name='size', to=TensorProto.FLOAT),
        helper.make_node('Div', ['wanted', 'size'], ['factor'], name='div'),
        helper.make_node('Concat', ['ones', 'factor'], ['scales'], name='concat', axis=0),
        helper.make_node('Resize', ['r', '', 'scales'], ['y'], name='resize', mode='nearest'),
    ]
    proto = graph(nodes, {'wanted': np.float32([4099, 5]), 'ones': np.float32([1, 1])}, x=(1, 1, 7, 3))
    half = to_precision(proto, 'fp16')
    found = types(half)
    assert {found[name] for name in ('wanted', 'ones', 'size', 'factor', 'scales')} == {TensorProto.FLOAT}
    assert found['r'] == TensorProto.FLOAT16
    x = np.random.default_rng(0).standard_normal((1, 1, 7, 3), np.float32)
    assert run(half, x).shape == run(proto, x).shape == (1, 1, 4099, 5)


def test_what_the_plugin_reads_in_float32_stays(exported):
    to_tensorrt = pytest.importorskip('inference.lowering.tensorrt').to_tensorrt
    half = to_tensorrt(exported('hetconv_resnet20_cifar_p4')[1], 'fp16', 86)
    kinds = {i.name: i.data_type for i in half.graph.initializer}
    plugins = [node for node in half.graph.node if node.domain]
    assert len(plugins) == 18
    assert {kinds[node.input[1]] for node in plugins} == {TensorProto.FLOAT16}
    assert {kinds[node.input[2]] for node in plugins} == {TensorProto.FLOAT}
    assert sum(node.op_type == 'Cast' for node in half.graph.node) == 2


def test_a_weight_that_is_needed_in_both_types_is_there_twice():
    nodes = [
        helper.make_node('Resize', ['x', '', 'both'], ['r'], name='resize', mode='nearest'),
        helper.make_node('Mul', ['r', 'both'], ['m'], name='mul'),
        helper.make_node('Add', ['m', 'both'], ['y'], name='add'),
    ]
    proto = graph(nodes, {'both': np.float32([1, 1, 1, 2])}, x=(1, 2, 4, 2))
    half = to_precision(proto, 'fp16')
    assert Counter(i.data_type for i in half.graph.initializer) == {TensorProto.FLOAT: 1, TensorProto.FLOAT16: 1}
    x = np.ones((1, 2, 4, 2), np.float32)
    np.testing.assert_array_equal(run(half, x), run(proto, x))


def test_types_that_nodes_carry_themselves():
    nodes = [
        helper.make_node('Constant', [], ['c'], name='c', value_float=0.5),
        helper.make_node('Constant', [], ['t'], name='t', value=numpy_helper.from_array(np.float32([2.0]))),
        helper.make_node('Shape', ['x'], ['shape'], name='shape'),
        helper.make_node(
            'ConstantOfShape', ['shape'], ['filled'], name='f', value=numpy_helper.from_array(np.float32([3.0]))
        ),
        helper.make_node('Range', ['start', 'limit', 'delta'], ['range'], name='range'),  # knows no half precision
        helper.make_node('Cast', ['whole'], ['cast'], name='cast', to=TensorProto.FLOAT),
        helper.make_node('Sum', ['x', 'c', 't', 'filled', 'range', 'cast'], ['y'], name='sum'),
    ]
    scalars = {'start': np.float32(0), 'limit': np.float32(4), 'delta': np.float32(1), 'whole': np.int64([7])}
    proto = graph(nodes, scalars)
    half = to_precision(proto, 'fp16')
    found = types(half)
    assert {found[name] for name in ('c', 't', 'filled', 'cast')} == {TensorProto.FLOAT16}
    assert {found[name] for name in ('start', 'limit', 'range')} == {TensorProto.FLOAT}
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    np.testing.assert_array_equal(run(half, x), run(proto, x))


@pytest.mark.parametrize('precision', HALF)
def test_an_input_that_is_an_output(precision):
    proto = graph([helper.make_node('Relu', ['x'], ['y'], name='relu')], outputs=('y', 'x'))
    half = to_precision(proto, precision)
    x = np.float32([[-1.0, 1 / 3]]).reshape(1, 2, 1, 1).repeat(4, 2).repeat(4, 3)
    assert [value.name for value in half.graph.output] == ['y', 'x']
    assert difference(run(runnable(half, precision), x), np.maximum(x, 0)) <= EPSILON[precision]


def test_a_weight_beyond_fp16_is_refused_and_bf16_takes_it(exported):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported('hetconv_resnet20_cifar_p4')[1])
    weight = next(i for i in proto.graph.initializer if i.name == 'fc.bias')
    weight.CopyFrom(numpy_helper.from_array(np.float32([1] * 9 + [-70000]), 'fc.bias'))
    with pytest.raises(UserError, match=r'^fc.bias has values up to 7e\+04, beyond the 6.55e\+04 of fp16: .*bf16'):
        to_precision(proto, 'fp16')
    to_precision(proto, 'bf16')


def test_bounds_beyond_fp16_bound_nothing_and_infinities_stay():
    nodes = [
        helper.make_node('Clip', ['x', 'low', 'high'], ['c'], name='clip'),
        helper.make_node('Max', ['c', 'infinite'], ['y'], name='max'),
    ]
    bounds = {'low': np.float32(0.25), 'high': np.float32(3.4e38), 'infinite': np.float32(-np.inf)}
    proto = graph(nodes, bounds)
    x = np.float32([-1, 0.5, 60000, 2]).reshape(1, 1, 1, 4).repeat(2, 1).repeat(4, 2)
    np.testing.assert_array_equal(run(to_precision(proto, 'fp16'), x), run(proto, x))


@pytest.mark.parametrize(('precision', 'target'), [('fp16', np.float16), ('bf16', ml_dtypes.bfloat16)])
def test_every_node_is_rounded_as_numpy_does(precision, target):
    """The tool that comparisons rest on: exactly the values of numpy in that type, one operation at a time."""
    nodes = [
        helper.make_node('Mul', ['x', 'w'], ['m'], name='mul'),
        helper.make_node('Add', ['m', 'x'], ['a'], name='add'),
        helper.make_node('Sub', ['a', 'w'], ['y'], name='sub'),
    ]
    random = np.random.default_rng(5)
    x, w = random.standard_normal((1, 2, 4, 4), np.float32), random.standard_normal((1, 2, 4, 4), np.float32)
    w[0, 0, 0, 0], x[0, 0, 0, 0] = 300, -300  # beyond fp16
    output = run(rounded_to_float32(to_precision(graph(nodes, {'w': w}), precision)), x)
    half_x, half_w = x.astype(target), w.astype(target)
    assert np.isinf(output).any() == (precision == 'fp16')
    with np.errstate(over='ignore'):
        np.testing.assert_array_equal(output, (half_x * half_w + half_x - half_w).astype(np.float32))


@pytest.mark.parametrize('precision', ['int8', 'FP16', ''])
def test_unknown_precision(precision, exported):
    with pytest.raises(UserError, match='there are fp32, fp16, bf16'):
        to_precision(exported('hetconv_resnet20_cifar_p4')[1], precision)


def test_a_graph_in_a_node_is_refused():
    branch = helper.make_graph(
        [helper.make_node('Identity', ['x'], ['z'], name='same')],
        'branch',
        [],
        [helper.make_tensor_value_info('z', TensorProto.FLOAT, ['b', 'c', 'h', 'w'])],
    )
    nodes = [helper.make_node('If', ['always'], ['y'], name='choose', then_branch=branch, else_branch=branch)]
    proto = graph(nodes, {'always': np.array(True)})
    with pytest.raises(UserError, match="If 'choose' has a graph inside"):
        to_precision(proto, 'fp16')
    to_precision(proto, 'fp32')
