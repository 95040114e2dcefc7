"""Neighbouring layers as one node: the same numbers whatever the graph, and what makes no sense ends in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inference.engines.ort_cpu import make_session
from inference.export import kernels_of
from inference.kernels import cpu
from inference.lowering.ort_cpu import join_layers

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
DOMAIN = 'hetconv.nhwc'
CHANNELS = 8
CONV = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1], part=2, min=0.0)
POOL = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    'w': RANDOM.standard_normal((CHANNELS, CHANNELS, 1, 1), np.float32) / 4,
    'w_kxk': RANDOM.standard_normal((CHANNELS, CHANNELS // 2, 3, 3), np.float32) / 8,
    'b': RANDOM.standard_normal(CHANNELS, np.float32),
}


def model(nodes, outputs):
    shape = ['batch', 'height', 'width', 'channels']
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ('v0', *outputs)]
    tensors = [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()]
    graph = helper.make_graph(nodes, 'graph', values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def layer(i, op, x, z):
    """A node that gives value i."""
    name = f'v{i}'
    if op == 'Relu':
        return helper.make_node(op, [x], [name], name=f'node{i}')
    if op == 'MaxPool':
        return helper.make_node(op, [x], [name], domain=DOMAIN, name=f'node{i}', **POOL)
    inputs = [x, 'w', 'w_kxk', 'b', *([z] if z else [])]
    return helper.make_node('HetConv2d', inputs, [name], domain=DOMAIN, name=f'node{i}', **CONV)


def run(proto, x):
    return make_session(proto.SerializeToString(), 1).run(None, {'v0': x})


@st.composite
def graphs(draw):
    """Layers on any values before them, foreign nodes in between, some values given away."""
    nodes = []
    for i in range(1, draw(st.integers(1, 9)) + 1):
        earlier = st.sampled_from([f'v{j}' for j in range(i)])
        op = draw(st.sampled_from(['HetConv2d', 'HetConv2d', 'HetConv2d', 'MaxPool', 'Relu']))
        nodes.append(layer(i, op, draw(earlier), draw(st.none() | earlier)))
    names = [f'v{i}' for i in range(1, len(nodes) + 1)]
    return nodes, sorted({names[-1], *draw(st.lists(st.sampled_from(names), max_size=2))})


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_any_graph_gives_the_same_bits(graph):
    proto = model(*graph)
    joined = join_layers(proto)
    assert sorted(kernels_of(joined)) == sorted(kernels_of(proto))
    assert [value.name for value in joined.graph.output] == [value.name for value in proto.graph.output]
    for batch, size in ((1, 5), (2, 9)):
        x = np.random.default_rng(size).standard_normal((batch, size, size + 1, CHANNELS), np.float32)
        for y, wanted in zip(run(joined, x), run(proto, x)):
            np.testing.assert_array_equal(y, wanted)


def test_what_is_joined():
    """Up to what is read elsewhere, which ends a sequence; one layer alone stays as it is."""
    nodes = [
        layer(1, 'HetConv2d', 'v0', None),
        layer(2, 'HetConv2d', 'v1', 'v1'),
        layer(3, 'MaxPool', 'v2', None),
        layer(4, 'Relu', 'v3', None),
        layer(5, 'HetConv2d', 'v4', None),
        layer(6, 'Relu', 'v5', None),
        layer(7, 'HetConv2d', 'v6', 'v2'),
        layer(8, 'HetConv2d', 'v7', None),
    ]
    joined = join_layers(model(nodes, ['v8']))
    assert [node.op_type for node in joined.graph.node] == [
        'Sequence', 'MaxPool', 'Relu', 'HetConv2d', 'Relu', 'Sequence',
    ]  # fmt: skip
    assert [list(node.output) for node in joined.graph.node] == [['v2'], ['v3'], ['v4'], ['v5'], ['v6'], ['v8']]


def test_a_node_without_an_input_in_the_middle_is_left_as_it_is():
    """Which ONNX Runtime refuses: joined, what follows would take its place."""
    nodes = [layer(1, 'HetConv2d', 'v0', None), layer(2, 'HetConv2d', 'v1', 'v1')]
    nodes[1].input[3] = ''
    joined = join_layers(model(nodes, ['v2']))
    assert [node.op_type for node in joined.graph.node] == ['HetConv2d', 'HetConv2d']


def test_an_optional_input_that_is_left_out_at_the_end():
    nodes = [layer(1, 'HetConv2d', 'v0', None), layer(2, 'HetConv2d', 'v1', None)]
    nodes[1].input.append('')
    proto = model(nodes, ['v2'])
    joined = join_layers(proto)
    assert [node.op_type for node in joined.graph.node] == ['Sequence']
    x = np.ones((1, 4, 5, CHANNELS), np.float32)
    np.testing.assert_array_equal(run(joined, x)[0], run(proto, x)[0])


def sequence(**changes):
    """Two layers, of which something is changed: an attribute of None is missing."""
    proto = join_layers(model([layer(1, 'HetConv2d', 'v0', None), layer(2, 'HetConv2d', 'v1', 'v1')], ['v2']))
    (node,) = proto.graph.node
    for name, value in changes.items():
        name = name.replace('step', '').replace('_', '.', 1) if name.startswith('step') else name
        for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
            node.attribute.remove(attribute)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
    return proto


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(ops=''), 'ops is empty'),
        (dict(ops=None), 'ops must be a string'),
        (dict(ops='HetConv2d Nothing'), 'no operator is called Nothing'),
        (dict(ops='HetConv2d HetConv2d HetConv2d'), '2.inputs must be ints'),
        (dict(ops='HetConv2d QMean'), '1.inputs are too few or too many'),
        (dict(step0_inputs=[-1, 1, 2, 3]), '0.inputs are not those of a node before'),
        (dict(step1_inputs=[-2, 1, 2, 3, -1]), '1.inputs are not those of a node before'),
        (dict(step1_inputs=[-1, -1, 2, 3]), '1.inputs lacks a constant'),
        (dict(step1_inputs=[-1, 0, 2, 3]), '1.W must be a constant'),
        (dict(step1_inputs=[-1, 3, 2, 3]), r'W must be \(N, M, 1, 1\)'),
        (dict(step1_inputs=[-1, 1, 2]), '1.inputs are too few'),
        (dict(step1_slot=7), '1.slot makes no sense'),
        (dict(step1_slot=None), '1.slot must be an int'),
        (dict(step1_part=None), '1.part must be an int'),
        (dict(step0_strides=[1, 1, 1]), '0.strides must be 2 ints'),
        (dict(step0_name=None), '0.name must be a string'),
        (dict(step1_min=7.0, step1_max=6.0), r'node2 \(HetConv2d\): min must be'),
    ],
)
def test_a_sequence_that_makes_no_sense_ends_in_words(changes, words):
    with pytest.raises(Exception, match=words):
        make_session(sequence(**changes).SerializeToString(), 1)


def test_a_slot_that_is_still_read_is_refused():
    nodes = [layer(i, 'HetConv2d', f'v{i - 1}', 'v1' if i == 3 else None) for i in (1, 2, 3)]
    proto = join_layers(model(nodes, ['v3']))
    for attribute in proto.graph.node[0].attribute:
        if attribute.name == '1.slot':
            attribute.i = 0
    with pytest.raises(Exception, match=r'1\.slot holds what is still read'):
        make_session(proto.SerializeToString(), 1)


def test_activations_that_no_machine_has_room_for_end_in_words():
    """Of few numbers very many: 2^64 bytes, which are none in 64 bits."""
    pool = dict(kernel_shape=[1 << 24] * 2, strides=[1, 1], pads=[(1 << 24) - 1] * 4)
    nodes = [
        helper.make_node('MaxPool', [f'v{i}'], [f'v{i + 1}'], domain=DOMAIN, name=f'node{i + 1}', **kind)
        for i, kind in enumerate((pool, POOL))
    ]
    session = make_session(join_layers(model(nodes, ['v2'])).SerializeToString(), 1)
    for channels in (1 << 14, CHANNELS):
        with pytest.raises(Exception, match=r'too large|node1 \(MaxPool\)'):
            session.run(None, {'v0': np.zeros((1, 1, 1, channels), np.float32)})


def test_a_sequence_that_gives_another_type_is_refused():
    proto = sequence()
    proto.graph.node[0].op_type = 'QSequence'
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(Exception, match='the last op gives another type'):
        make_session(proto.SerializeToString(), 1)


@pytest.mark.parametrize('shape', [(1, 4, 4, 9), (4, 4, 8)])
def test_an_input_that_makes_no_sense_ends_in_words(shape):
    proto = sequence()
    for axis in proto.graph.input[0].type.tensor_type.shape.dim:
        axis.dim_param = 'any'
    while len(proto.graph.input[0].type.tensor_type.shape.dim) > len(shape):
        proto.graph.input[0].type.tensor_type.shape.dim.pop()
    session = make_session(proto.SerializeToString(), 1)
    with pytest.raises(Exception, match=r'node1 \(HetConv2d\): X must be \(batch, height, width, 8\)'):
        session.run(None, {'v0': np.zeros(shape, np.float32)})


def test_a_session_without_the_library_says_so():
    import onnxruntime

    words = r'hetconv.nhwc:Sequence\(-1\) is not a registered function/op'  # as in docs/build.md
    with pytest.raises(Exception, match=words):
        onnxruntime.InferenceSession(sequence().SerializeToString(), providers=['CPUExecutionProvider'])


def test_an_empty_batch():
    (y,) = run(sequence(), np.zeros((0, 5, 6, CHANNELS), np.float32))
    assert y.shape == (0, 5, 6, CHANNELS)
