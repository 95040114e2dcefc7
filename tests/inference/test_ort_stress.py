"""ONNX Runtime with the CPU kernels under stress: what makes no sense, many callers for a while, other versions."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_networks import CONV, DOMAIN, images, in_a_process, model, network

from inference.engines.ort_cpu import make_session
from inference.kernels import cpu
from inference.kernels.reference import conv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
M = N = 8
PART = 2


def weights():
    random = np.random.default_rng(0)
    shapes = {'W': (N, M, 1, 1), 'W_kxk': (N, M // PART, 3, 3), 'B': (N,)}
    return {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


POOL = dict(kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
# What each operator takes when it makes sense: inputs and attributes.
OPERATORS = {
    'HetConv2d': (['x', 'W', 'W_kxk', 'B'], CONV | dict(part=PART)),
    'Conv': (['x', 'W_kxk', 'B'], CONV | dict(group=PART)),
    'MaxPool': (['x'], POOL),
    'AveragePool': (['x'], POOL | dict(count_include_pad=0)),
}


def one(op, *, residual=False, inputs=None, dtype=TensorProto.FLOAT, rank=4, tensors=None, **attributes):
    """A model of one operator, of which something is changed: an attribute of None is missing."""
    names, known = OPERATORS[op]
    names = inputs or [*names, *(['z'] if residual else [])]
    kept = {name: value for name, value in (known | attributes).items() if value is not None}
    constants = {name: value for name, value in (weights() | (tensors or {})).items() if name in names}
    return model([helper.make_node(op, names, ['y'], domain=DOMAIN, **kept)], constants, dtype, rank)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


TAMPERED = {
    # Attributes. In 32 bits most of the large ones would have become something else.
    'part of 0': ('HetConv2d', dict(part=0), 'part must be at least 1'),
    'part that does not divide N': ('HetConv2d', dict(part=3), 'W must be'),
    'negative part': ('HetConv2d', dict(part=-4), 'part of -4 makes no sense'),
    'huge part': ('HetConv2d', dict(part=2**40), 'makes no sense'),
    'part that is a float': ('HetConv2d', dict(part=2.0), 'part must be an int'),
    'part that is missing': ('HetConv2d', dict(part=None), 'part must be an int'),
    'group that is missing': ('Conv', dict(group=None), 'group must be an int'),
    'group of 0': ('Conv', dict(group=0), 'group must be at least 1'),
    'group that does not divide N': ('Conv', dict(group=3), 'must divide 12 input and 8 output channels'),
    'kernel of another shape': ('HetConv2d', dict(kernel_shape=[5, 5]), 'W_kxk must be'),
    'kernel of one number': ('Conv', dict(kernel_shape=[3]), 'kernel_shape must be 2 ints'),
    'kernel of three numbers': ('Conv', dict(kernel_shape=[3, 3, 3]), 'kernel_shape must be 2 ints'),
    'kernel of floats': ('Conv', dict(kernel_shape=[3.0, 3.0]), 'kernel_shape must be 2 ints'),
    'no kernel': ('Conv', dict(kernel_shape=None), 'kernel_shape must be 2 ints'),
    'stride of 0': ('Conv', dict(strides=[0, 1]), 'at least 1'),
    'negative stride': ('Conv', dict(strides=[1, -1]), 'strides of -1 makes no sense'),
    'huge strides': ('Conv', dict(strides=[2**24, 2**24]), 'at most 32768'),
    'no strides': ('Conv', dict(strides=None), 'strides must be 2 ints'),
    'negative dilation': ('Conv', dict(dilations=[-1, 1]), 'dilations of -1 makes no sense'),
    'huge dilation': ('HetConv2d', dict(dilations=[2**24, 1]), 'at most 32768'),
    'no dilations': ('HetConv2d', dict(dilations=None), 'dilations must be 2 ints'),
    'negative pad': ('Conv', dict(pads=[-1, 1, 1, 1]), 'pads of -1 makes no sense'),
    'huge pad': ('Conv', dict(pads=[2**24, 0, 0, 0]), 'at most 32768'),
    'two pads': ('Conv', dict(pads=[1, 1]), 'pads must be 4 ints'),
    "no 'same' padding": ('HetConv2d', dict(pads=[0, 0, 0, 0]), "'same' padding"),
    'min above max': ('Conv', dict(min=1.0, max=0.0), 'min must be at most max'),
    'min that is not a number': ('Conv', dict(min=float('nan')), 'min must be at most max'),
    'min that is an integer': ('Conv', dict(min=0), 'min must be a float'),
    'an algorithm that there is not': ('Conv', dict(algorithm=5), 'algorithm of 5 makes no sense'),
    'an algorithm that is a float': ('Conv', dict(algorithm=1.0), 'algorithm must be an int'),
    'Winograd with a stride': ('Conv', dict(algorithm=2, strides=[2, 2]), 'Winograd needs a 3x3 kernel'),
    'pool pads of the kernel': ('MaxPool', dict(pads=[2, 0, 0, 0]), 'pads must be less than the kernel'),
    'negative pool pad': ('AveragePool', dict(pads=[0, 0, 0, -1]), 'pads of -1 makes no sense'),
    'pool stride of 0': ('MaxPool', dict(strides=[0, 1]), 'at least 1'),
    'huge pool kernel': ('MaxPool', dict(kernel_shape=[2**40, 2]), 'makes no sense'),
    'no count_include_pad': ('AveragePool', dict(count_include_pad=None), 'count_include_pad must be an int'),
    # Weights.
    'W of another shape': ('HetConv2d', dict(tensors={'W': zeros(N, M)}), r'W must be \(N, M, 1, 1\)'),
    'W of other channels': ('HetConv2d', dict(tensors={'W': zeros(N, M + 1, 1, 1)}), 'W must be'),
    'W_kxk of three axes': ('HetConv2d', dict(tensors={'W_kxk': zeros(N, M // PART, 9)}), 'W_kxk must be'),
    'W_kxk of no filters': ('Conv', dict(tensors={'W_kxk': zeros(0, M // PART, 3, 3), 'B': zeros(0)}), 'at least 1'),
    'W_kxk of endless channels': (
        'Conv', dict(tensors={'W_kxk': zeros(0, 2**50, 3, 3), 'B': zeros(0)}), 'makes no sense',
    ),
    'B of another length': ('Conv', dict(tensors={'B': zeros(N + 1)}), r'B must be \(N\)'),
    'B of two axes': ('HetConv2d', dict(tensors={'B': zeros(1, N)}), r'B must be \(N\)'),
    'weights that are not constant': ('Conv', dict(inputs=['x', 'z', 'B']), 'W must be a constant'),
    'weights of doubles': ('Conv', dict(tensors={'B': zeros(N, dtype=np.float64)}), 'double'),
    # Types and inputs of the operator.
    'double': ('Conv', dict(dtype=TensorProto.DOUBLE), 'double'),
    'half': ('MaxPool', dict(dtype=TensorProto.FLOAT16), 'float16'),
    'too few inputs': ('Conv', dict(inputs=['x', 'W_kxk']), 'input'),
    'too many inputs': ('MaxPool', dict(inputs=['x', 'B']), 'input'),
}  # fmt: skip


@pytest.mark.parametrize('case', TAMPERED)
def test_a_file_that_makes_no_sense_ends_in_words(case):
    op, changes, words = TAMPERED[case]
    with pytest.raises(Exception, match=words):
        make_session(one(op, **changes), 1)


@pytest.mark.parametrize('op', OPERATORS)
def test_what_the_table_tampers_with_is_right_before(op):
    assert make_session(one(op), 1).run(None, {'x': zeros(1, 4, 4, M)})[0].size


INPUTS = {
    'other channels': ('Conv', {}, dict(x=zeros(1, 4, 4, M + 1)), 'X must be'),
    'no channels': ('Conv', {}, dict(x=zeros(1, 4, 4, 0)), 'X must be'),
    'three axes': ('HetConv2d', dict(rank=3), dict(x=zeros(4, 4, M)), 'X must be'),
    'five axes': ('HetConv2d', dict(rank=5), dict(x=zeros(1, 1, 4, 4, M)), 'X must be'),
    'a pool of three axes': ('MaxPool', dict(rank=3), dict(x=zeros(4, 4, M)), 'X must be'),
    'no rows': ('Conv', {}, dict(x=zeros(1, 0, 4, M)), 'an input of 0x4 makes no sense'),
    'no columns': ('AveragePool', {}, dict(x=zeros(1, 4, 0, M)), 'an input of 4x0 makes no sense'),
    'rows without end': ('Conv', {}, dict(x=zeros(0, 2**50, 1, M)), 'makes no sense'),
    'smaller than the kernel': ('Conv', dict(pads=[0, 0, 0, 0]), dict(x=zeros(1, 2, 9, M)), 'smaller than the kernel'),
    'smaller than the pool': ('MaxPool', {}, dict(x=zeros(1, 1, 9, M)), 'smaller than the kernel'),
    'another residual': ('Conv', dict(residual=True), dict(x=zeros(1, 4, 4, M), z=zeros(1, 4, 5, N)), 'Z must have'),
    'a residual to broadcast': (
        'HetConv2d', dict(residual=True), dict(x=zeros(2, 4, 4, M), z=zeros(1, 1, 1, N)), 'Z must have',
    ),
    'a double input': ('Conv', {}, dict(x=zeros(1, 4, 4, M, dtype=np.float64)), 'double'),
    'a half input': ('Conv', {}, dict(x=zeros(1, 4, 4, M, dtype=np.float16)), 'float16'),
    'an output larger than memory': (
        'Conv', dict(pads=[2**15] * 4, dilations=[1, 1], tensors={
            'W_kxk': zeros(2**16, 1, 1, 1), 'B': zeros(2**16)}, kernel_shape=[1, 1], group=1),
        dict(x=zeros(1, 4, 4, 1)), '[Aa]lloc|memory|too large',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', INPUTS)
def test_an_input_that_makes_no_sense_ends_in_words(case):
    op, changes, inputs, words = INPUTS[case]
    session = make_session(one(op, **changes), 1)
    with pytest.raises(Exception, match=words):
        session.run(None, inputs)


@pytest.mark.parametrize('op', OPERATORS)
def test_an_empty_batch_is_empty(op):
    session = make_session(one(op), 2)
    size = 2 if 'Pool' in op else 4
    assert session.run(None, {'x': zeros(0, 4, 4, M)})[0].shape == (0, size, size, M)


@pytest.mark.parametrize('op', ['MaxPool', 'AveragePool'])
def test_rows_without_channels_are_not_counted_one_by_one(op):
    y = make_session(one(op), 2).run(None, {'x': zeros(2**20, 2**20, 4, 0)})[0]
    assert y.shape == (2**20, 2**19, 2, 0)


def test_a_session_without_the_library_says_so():
    import onnxruntime

    words = r'hetconv.nhwc:Conv\(-1\) is not a registered function/op'
    with pytest.raises(Exception, match=words):
        onnxruntime.InferenceSession(one('Conv'), providers=['CPUExecutionProvider'])


@pytest.mark.parametrize('flush', ['0', '1'])
@pytest.mark.parametrize('algorithm', ['direct', 'winograd4'])
def test_denormals(flush, algorithm):
    """Sums too small for a normal number: as the oracle has them, or zero where the user asks ONNX Runtime for it."""
    import onnxruntime

    x = np.abs(np.random.default_rng(1).standard_normal((2, 24, 24, M))).astype(np.float32) * np.float32(1e-40)
    assert 0 < x.max() < np.finfo(np.float32).tiny
    outputs = []

    def run():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.add_session_config_entry('hetconv.algorithm', algorithm)
        options.add_session_config_entry('session.set_denormal_as_zero', flush)
        options.register_custom_ops_library(str(cpu.library()))
        proto = one('Conv', tensors={'B': zeros(N)})
        session = onnxruntime.InferenceSession(proto, options, providers=['CPUExecutionProvider'])
        outputs.append(session.run(None, {'x': x})[0])

    # A thread of its own: ONNX Runtime sets the processor's flag in the thread that makes the session, and leaves it.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    expected = conv2d(x, weights()['W_kxk'], part=PART, pads=(1, 1, 1, 1))
    assert 1e-40 < np.abs(expected).max() < np.finfo(np.float32).tiny
    # Multiples of the smallest denormal, 1.4e-45, and each step of Winograd's rounds to one.
    right = np.abs(outputs[0] - expected) < (1e-41 if algorithm == 'winograd4' else 1e-42)
    assert (right | (outputs[0] == 0) if flush == '1' else right).all()


def resident():
    """Bytes of this process in memory."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is read from /proc')
@pytest.mark.parametrize('seconds', [2, pytest.param(30, marks=pytest.mark.long)])
def test_many_callers_of_many_sessions_for_a_while(seconds):
    """Every size from every thread, in turn and at once: the bits of one thread alone, and no memory kept."""
    proto, inputs = network(), images()
    alone = make_session(proto, 1)
    expected = [alone.run(None, {'x': x})[0] for x in inputs]
    sessions = [make_session(proto, threads) for threads in (1, 2, 2)]
    wrong, calls = [], [0] * 4

    def caller(i, until, done):
        try:
            turn = 0
            while turn < done or time.monotonic() < until:
                k = (turn * 7 + i) % len(inputs)
                # Two turns in three all callers are in the same session.
                session = sessions[0 if turn % 3 else 1 + i % 2]
                if not np.array_equal(session.run(None, {'x': inputs[k]})[0], expected[k]):
                    wrong.append((i, k))
                turn += 1
            calls[i] += turn
        except Exception as error:
            wrong.append(error)

    def together(seconds, done):
        until = time.monotonic() + seconds
        callers = [threading.Thread(target=caller, args=(i, until, done)) for i in range(4)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()

    together(seconds / 3, 3 * len(inputs))
    before = resident()
    calls[:] = [0] * 4
    together(seconds, len(inputs))
    grown = resident() - before
    assert not wrong, wrong[:3]
    # A call takes some 100 KiB of scratch. ONNX Runtime's arena may still grow by a piece or two.
    assert grown < 24 << 20, f'{grown} bytes more after {sum(calls)} calls'


@pytest.mark.skipif(sys.platform != 'linux', reason='threads are counted in /proc')
@pytest.mark.parametrize('intra', [1, 3])
@pytest.mark.parametrize('spinning', [0, 1])
def test_no_thread_but_those_of_onnx_runtime(tmp_path, intra, spinning):
    """`intra_op_num_threads` is all there is: the caller, and the rest in ONNX Runtime's pool."""
    assert in_a_process(tmp_path, intra=intra, spinning=spinning)[1] == intra - 1


OLDEST = '1.20.1'  # ONNX Runtime 1.20 is the floor of docs/build.md


@pytest.mark.long
def test_one_library_and_one_file_for_the_oldest_version_and_this_one(tmp_path):
    import onnxruntime

    folder = tmp_path / 'oldest'
    install = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary', ':all:', '--target']
    result = subprocess.run([*install, folder, f'onnxruntime=={OLDEST}'], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f'onnxruntime {OLDEST} cannot be installed here: {result.stderr.strip().splitlines()[-1:]}')
    (tmp_path / 'a').mkdir()
    old, _, outputs, _ = in_a_process(tmp_path / 'a', packages=folder)
    (tmp_path / 'b').mkdir()
    new, _, expected, _ = in_a_process(tmp_path / 'b')
    assert (old, new) == (OLDEST, onnxruntime.__version__)
    for output, wanted in zip(outputs, expected):
        assert np.abs(output - wanted).max() <= 1e-5 * np.abs(wanted).max()
