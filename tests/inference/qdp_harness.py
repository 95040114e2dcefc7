"""Drives the plugin through NVIDIA's `tensorrt.plugin` as TensorRT's builder would: `python qdp_harness.py CASES OUT`.

The Python code and the bindings are NVIDIA's, of the wheel tensorrt-cu13-bindings. What a machine without a GPU has not
is replaced: the three libraries by stubs without a function, the plugin registry by a dictionary, and expressions of
dimensions by integers. A process of its own, because TensorRT's modules are replaced in it.

CASES is JSON, a list of {plugin, attributes: {name: number or list}, inputs: [[shape], ...], types: [name, ...]}; OUT
gets a pickle, for each case what the builder learns.
"""

import ctypes
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

# Library -> what the bindings import of it.
STUBS = {
    'libnvinfer.so.11': [
        'createInferBuilder_INTERNAL', 'createInferRefitter_INTERNAL', 'createInferRuntime_INTERNAL',
        'getBuilderPluginRegistry', 'getPluginRegistry',
    ],
    'libnvinfer_plugin.so.11': ['initLibNvInferPlugins'],
    'libnvonnxparser.so.11': [
        'createNvOnnxParser_INTERNAL', 'createNvOnnxParserRefitter_INTERNAL', 'getNvOnnxParserVersion',
    ],
}  # fmt: skip


def load_bindings():
    """NVIDIA's bindings as the module `tensorrt`, on stubs."""
    with tempfile.TemporaryDirectory() as folder:
        for library, functions in STUBS.items():
            source, path = Path(folder, 'stub.c'), Path(folder, library)
            source.write_text(''.join(f'void *{name}(void) {{ return 0; }}\n' for name in functions))
            command = ['cc', '-shared', '-fPIC', f'-Wl,-soname,{library}', '-o', str(path), str(source)]
            subprocess.run(command, check=True)
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)  # the bindings ask for it by name, and find it loaded
    import tensorrt_bindings as trt

    sys.modules['tensorrt'] = trt
    return trt


class Registry:
    """Stands in for TensorRT's plugin registry."""

    def __init__(self):
        self.creators = {}

    def register_creator(self, creator, namespace):
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name, version, namespace):
        return self.creators.get((name, version, namespace))


class Dim:
    """Stands in for IDimensionExpr: a number, and whether it is known when the engine is built."""

    def __init__(self, value, constant):
        self.value, self.constant = value, constant

    def is_constant(self):
        return self.constant

    def get_constant_value(self):
        assert self.constant, 'a dimension that is dynamic has no value'
        return self.value

    def is_size_tensor(self):
        return False


def expressions(trt):
    """Stands in for IExprBuilder."""
    operation = trt.DimensionOperation
    functions = {
        operation.SUM: lambda a, b: a + b,
        operation.SUB: lambda a, b: a - b,
        operation.PROD: lambda a, b: a * b,
        operation.FLOOR_DIV: lambda a, b: a // b,
        operation.CEIL_DIV: lambda a, b: -(-a // b),
        operation.MAX: max,
        operation.MIN: min,
        operation.EQUAL: lambda a, b: int(a == b),
        operation.LESS: lambda a, b: int(a < b),
    }
    return SimpleNamespace(
        constant=lambda value: Dim(value, True),
        operation=lambda op, a, b: Dim(functions[op](a.value, b.value), a.constant and b.constant),
    )


class Integers(list):
    """Stands in for ISymExprs: the kernel's integers."""

    @property
    def nbSymExprs(self):
        return len(self)

    @nbSymExprs.setter
    def nbSymExprs(self, count):
        self[:] = [None] * count


class DimsExprs(list):
    """Stands in for DimsExprs."""

    def __init__(self, count):
        super().__init__([None] * count)


def stand_in(trt):
    """Replace what is native, before NVIDIA's Python code binds it."""
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    trt.IDimensionExpr, trt.DimsExprs = Dim, DimsExprs
    import tensorrt.plugin  # noqa: F401
    from tensorrt_bindings.plugin import _tensor

    class SymExprImpl:
        def __init__(self, expression):
            self.value = expression._expr.value

    _tensor.SymExprImpl = SymExprImpl
    return registry


def description(trt, shape, kind, layout):
    tensor, dynamic = trt.PluginTensorDesc(), trt.DynamicPluginTensorDesc()
    tensor.dims, tensor.type, tensor.format, tensor.scale = trt.Dims(shape), kind, layout, 1.0
    dynamic.desc, dynamic.min, dynamic.max = tensor, trt.Dims(shape), trt.Dims(shape)
    return dynamic


def arrays(attributes):
    """What TensorRT's ONNX parser makes of attributes: INT and INTS are int32, FLOAT is float32."""
    import numpy as np

    return {
        name: np.atleast_1d(np.array(value, np.float32 if isinstance(value, float) else np.int32))
        for name, value in attributes.items()
    }


def fields(trt, values):
    """Plugin fields; they point to the arrays and don't keep them."""
    kinds = {'f': trt.PluginFieldType.FLOAT32, 'i': trt.PluginFieldType.INT32}
    return trt.PluginFieldCollection([trt.PluginField(n, a, kinds[a.dtype.kind]) for n, a in values.items()])


def drive(trt, registry, case):
    """What the builder calls, in its order."""
    creator = registry.get_creator(case['plugin'], '1', 'hetconv')
    request = trt.QuickPluginCreationRequest.STRICT_AOT
    values = arrays(case['attributes'])
    plugin = creator.create_plugin(case['plugin'], 'hetconv', fields(trt, values), trt.TensorRTPhase.BUILD, request)
    shapes, types = case['inputs'], [getattr(trt.DataType, name) for name in case['types']]
    out_types = plugin.get_output_data_types(types, [len(shape) for shape in shapes])
    builder = expressions(trt)
    # Batch, height and width of images are dynamic; channels and weights are known.
    dims = [[Dim(size, len(shape) != 4 or axis == 1) for axis, size in enumerate(shape)] for shape in shapes]
    outputs = [[dim.value for dim in output] for output in plugin.get_output_shapes(dims, [], builder)]

    def described(kinds, layouts):
        return [description(trt, *tensor) for tensor in zip([*shapes, *outputs], kinds, layouts)]

    count = len(shapes) + len(outputs)
    linear = described([*types, *out_types], [trt.TensorFormat.LINEAR] * count)
    supported = plugin.get_supported_format_combinations(linear, len(shapes))
    kernels = []
    for first in range(0, len(supported), count):
        row = supported[first : first + count]
        tensors = described([tensor.type for tensor in row], [tensor.format for tensor in row])
        plugin.configure_plugin(tensors[: len(shapes)], tensors[len(shapes) :])
        for tactic in plugin.get_valid_tactics():
            plugin.set_tactic(tactic)
            launch, integers = SimpleNamespace(), Integers()
            plugin.get_launch_params(dims, tensors, len(shapes), launch, integers, builder)
            name, ptx = plugin.get_kernel(
                [tensor.desc for tensor in tensors[: len(shapes)]], [tensor.desc for tensor in tensors[len(shapes) :]]
            )
            kernels.append(
                dict(
                    tactic=tactic,
                    types=[tensor.type.name for tensor in row],
                    formats=[tensor.format.name for tensor in row],
                    name=name,
                    ptx=ptx.decode(),
                    grid=[getattr(launch, f'grid_{axis}').value for axis in 'xyz'],
                    block=[getattr(launch, f'block_{axis}').value for axis in 'xyz'],
                    shared=launch.shared_mem.value,
                    integers=[integer.value for integer in integers],
                )
            )
    return dict(
        outputs=outputs,
        output_types=[kind.name for kind in out_types],
        attributes={
            name: getattr(value, 'tolist', lambda value=value: value)() for name, value in plugin.attrs.items()
        },
        kernels=kernels,
    )


def main(cases, out):
    trt = load_bindings()
    registry = stand_in(trt)
    from inference.tensorrt.plugin import register

    register()
    register()  # again: nothing happens
    results = []
    for case in json.loads(Path(cases).read_text()):
        try:
            results.append(drive(trt, registry, case))
        except Exception as error:  # a test may want to see it
            results.append(dict(error=f'{type(error).__name__}: {error}'))
    creators = {
        name: [field.name for field in creator.field_names] for (name, *_), creator in registry.creators.items()
    }
    Path(out).write_bytes(pickle.dumps(dict(version=trt.__version__, creators=creators, results=results)))


if __name__ == '__main__':
    main(*sys.argv[1:])
