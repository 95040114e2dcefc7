"""Networks made by hand on the operators of the CPU kernels, for images of any size; one runs in a process alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

DOMAIN = 'hetconv.nhwc'
CONV = dict(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])


def model(nodes, initializers, x=TensorProto.FLOAT, rank=4):
    """Nodes from x to y, with any sizes."""
    values = [
        helper.make_tensor_value_info(name, x, [f'{name}{axis}' for axis in range(rank)]) for name in ('x', 'z', 'y')
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, 'stress', [value for value in values[:2] if value.name in used], values[2:],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def network():
    """A network of all operators, residual sum and clamp, for images of any size."""
    random = np.random.default_rng(2)
    shapes = {
        'w_stem': (32, 3, 3, 3), 'b_stem': (32,), 'w': (32, 32, 1, 1), 'w_kxk': (32, 8, 3, 3), 'b': (32,),
        'w_last': (10, 32, 1, 1), 'b_last': (10,),
    }  # fmt: skip
    tensors = {name: random.standard_normal(shape, np.float32) / 8 for name, shape in shapes.items()}
    pool = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    last = CONV | dict(kernel_shape=[1, 1], pads=[0, 0, 0, 0], group=1)

    def node(op, inputs, output, **attributes):
        return helper.make_node(op, inputs, [output], domain=DOMAIN, **attributes)

    nodes = [
        node('Conv', ['x', 'w_stem', 'b_stem'], 'stem', **CONV | dict(strides=[2, 2], group=1, min=0.0)),
        node('HetConv2d', ['stem', 'w', 'w_kxk', 'b', 'stem'], 'sum', **CONV, part=4, min=0.0, max=6.0),
        node('MaxPool', ['sum'], 'smaller', **pool),
        node('Conv', ['smaller', 'w_last', 'b_last'], 'classes', **last),
        node('AveragePool', ['classes'], 'y', **pool, count_include_pad=0),
    ]
    return model(nodes, tensors)


def images(sizes=(9, 17, 32, 49, 64), batches=(1, 2, 5)):
    random = np.random.default_rng(3)
    return [random.standard_normal((batch, size, size + batch, 3), np.float32) for size in sizes for batch in batches]


def in_a_process(folder, *, packages=None, preload='', library=None, intra=1, spinning=1, callers=1):
    """`network` in a fresh Python with nothing of this project but the library.

    Args:
        folder: For files.
        packages: A folder of Python packages that come first.
        preload: A library for the dynamic linker, such as a sanitizer's.
        library: The kernels, by default those of the package.
        intra, spinning: Options of the session.
        callers: Threads that run it at once.

    Returns:
        ONNX Runtime's version, how many threads there were more while it ran, the results of `images`, and what was
        written to stderr.
    """
    from inference.kernels import cpu

    (folder / 'network.onnx').write_bytes(network())
    np.savez(folder / 'inputs.npz', *images(sizes=(9, 33, 64)))
    environment = os.environ | {'PYTHONPATH': str(packages or ''), 'LD_PRELOAD': str(preload)}
    script = Path(__file__).parent / 'ort_alone.py'
    command = [sys.executable, script, folder, library or cpu.library(), intra, spinning, callers]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    version, threads = result.stdout.split()
    return version, int(threads), list(np.load(folder / 'outputs.npz').values()), result.stderr
