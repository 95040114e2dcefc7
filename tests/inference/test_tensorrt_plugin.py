"""The plugin through NVIDIA's own plugin code, and the PTX it gives run by an emulator; and the graph that has it."""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('triton', reason='Triton compiles the plugin')
if importlib.util.find_spec('tensorrt_bindings') is None:  # they cannot be imported without their libraries
    pytest.skip("NVIDIA's bindings are not installed: tensorrt-cu13-bindings", allow_module_level=True)

from ptx_emulator import launch

from inference.kernels.gpu.tiles import ITEM, MAX_SHARED, TILES, Layer, Tile, multiplies, pack
from inference.kernels.reference import conv2d
from inference.tensorrt.plugin import combinations, tactics

INF = float('inf')
TYPE = {'fp32': 'FLOAT', 'fp16': 'HALF', 'bf16': 'BF16', 'int8': 'INT8'}
POISON = {'fp32': np.nan, 'fp16': np.nan, 'bf16': 0xFFFF, 'int8': 77}  # bf16's NaN by its bits


def case(precision, layer, size, residual=False, low=0.0, high=INF, sm=80):
    """What the harness is given for a layer and an image of (batch, height, width)."""
    batch, height, width = size
    rows, columns = pack_shape(layer, precision)
    kind = TYPE[precision]
    inputs = [[batch, layer.in_channels, height, width], [rows, columns]]
    inputs.append([3 if precision == 'int8' else 1, layer.out_channels])
    types = [kind, kind, 'FLOAT']
    if residual:
        inputs.append([batch, layer.out_channels, *layer.output_size(height, width)])
        types.append(kind)
    attributes = dict(
        part=layer.part, kernel_shape=layer.kernel_size, strides=layer.stride, dilations=layer.dilation,
        low=low, high=high, sm=sm,
    )  # fmt: skip
    plugin = 'HetConv2dResidual' if residual else 'HetConv2d'
    return dict(plugin=plugin, attributes=attributes, inputs=inputs, types=types)


def pack_shape(layer, precision):
    w = np.zeros((layer.out_channels, layer.in_channels), np.float32)
    w_kxk = np.zeros((layer.out_channels, layer.group_in, layer.taps), np.float32)
    return pack(layer, w, w_kxk, ITEM[precision]).shape


LAYERS = {
    'stride 2': ('fp16', Layer(64, 128, 4, stride=(2, 2)), (2, 9, 7)),
    'residual': ('fp16', Layer(64, 64, 2), (1, 5, 6), True),
    'few channels a group': ('fp16', Layer(64, 64, 16), (1, 4, 5)),
    'odd channels': ('fp16', Layer(48, 24, 2, (5, 3), dilation=(2, 1)), (1, 6, 5), False, -INF),
    'bf16': ('bf16', Layer(32, 32, 1), (1, 4, 4), True),
    'fp32': ('fp32', Layer(32, 48, 2), (1, 4, 4), True),
    'int8': ('int8', Layer(64, 64, 2), (1, 4, 4), True),
    'int8 without blocks of 32': ('int8', Layer(48, 48, 3), (1, 4, 4)),
    'clip': ('fp16', Layer(32, 32, 2), (1, 4, 4), False, -1.0, 6.0),
    'Orin': ('fp16', Layer(32, 32, 2), (1, 4, 4), False, 0.0, INF, 87),
    'Turing': ('fp16', Layer(32, 32, 2), (1, 4, 4), False, 0.0, INF, 75),
    'part that does not divide': ('fp16', Layer(32, 32, 2), (1, 4, 4)),
}


@pytest.fixture(scope='module')
def driven(tmp_path_factory):
    """What TensorRT learns of each of `LAYERS`."""
    folder = tmp_path_factory.mktemp('plugin')
    cases = [case(*arguments) for arguments in LAYERS.values()]
    cases[-1]['attributes']['part'] = 3
    (folder / 'cases.json').write_text(json.dumps(cases))
    script = Path(__file__).parent / 'qdp_harness.py'
    command = [sys.executable, str(script), str(folder / 'cases.json'), str(folder / 'out')]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    found = pickle.loads((folder / 'out').read_bytes())
    assert set(found['creators']) == {'HetConv2d', 'HetConv2dResidual'}
    for fields in found['creators'].values():
        assert fields == ['part', 'kernel_shape', 'strides', 'dilations', 'low', 'high', 'sm']
    return {name: (given, result) for name, given, result in zip(LAYERS, cases, found['results'])}


WORKING = [name for name in LAYERS if name not in ('Turing', 'part that does not divide')]


@pytest.mark.parametrize('name', WORKING)
def test_shapes_types_and_attributes(driven, name):
    given, result = driven[name]
    precision, layer, (batch, height, width), *_ = LAYERS[name]
    assert result['outputs'] == [[batch, layer.out_channels, *layer.output_size(height, width)]]
    assert result['output_types'] == [TYPE[precision]]
    assert result['attributes'] == {
        key: list(value) if isinstance(value, tuple) else [value] for key, value in given['attributes'].items()
    }


@pytest.mark.parametrize('name', WORKING)
def test_formats_and_tactics(driven, name):
    given, result = driven[name]
    precision, layer = LAYERS[name][:2]
    formats = {kernel['formats'][0] for kernel in result['kernels']}
    expected = {'fp32': {'HWC'}, 'fp16': {'HWC8'}, 'bf16': {'HWC8'}, 'int8': {'CHW32', 'HWC16'}}[precision]
    assert formats == (expected if name != 'int8 without blocks of 32' else {'HWC16'})
    for kernel in result['kernels']:
        image = kernel['formats'][0]
        residual = [image] if given['plugin'] == 'HetConv2dResidual' else []
        assert kernel['formats'] == [image, 'LINEAR', 'LINEAR', *residual, image]
        assert kernel['types'] == [*given['types'], TYPE[precision]]
        assert kernel['tactic'] in tactics(layer, precision, image)
        assert kernel['shared'] <= MAX_SHARED
        assert kernel['block'][1:] == [1, 1]
        assert kernel['grid'][1:] == [1, 1]
    offered = {(kernel['formats'][0], kernel['tactic']) for kernel in result['kernels']}
    assert offered == {(layout, number) for layout in formats for number in tactics(layer, precision, layout)}


def test_newer_and_older_gpus(driven):
    assert all('.target sm_86' in kernel['ptx'] for kernel in driven['Orin'][1]['kernels'])
    assert driven['Turing'][1]['error'] == 'ValueError: SM 75 is older than 80, for which the kernel is compiled'
    assert 'part 3 must divide' in driven['part that does not divide'][1]['error']


def values(random, shape, precision):
    """Random numbers as the kernel reads them, and what they mean."""
    if precision == 'int8':
        array = random.integers(-20, 21, shape, np.int8)
        return array, array.astype(np.float64)
    exact = (random.standard_normal(shape, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    if precision == 'bf16':  # the upper half of float32; fp16 and TF32 have these numbers too, or nearly
        return (exact.view(np.uint32) >> 16).astype(np.uint16), exact.astype(np.float64)
    array = exact.astype({'fp16': np.float16, 'fp32': np.float32}[precision])
    return array, array.astype(np.float64)


def blocked(x):
    """(B, H, W, C) -> CHW32."""
    b, h, w, c = x.shape
    return np.ascontiguousarray(x.reshape(b, h, w, c // 32, 32).transpose(0, 3, 1, 2, 4))


@pytest.mark.parametrize('name', [name for name in WORKING if name != 'Orin'])
def test_the_embedded_kernel_computes_the_layer(driven, name):
    """As TensorRT would launch it: the PTX, the grid and the integers that it was given, on buffers in its formats."""
    given, result = driven[name]
    precision, layer, (batch, height, width), *_ = LAYERS[name]
    residual = given['plugin'] == 'HetConv2dResidual'
    random = np.random.default_rng(0)
    size = (batch, *layer.output_size(height, width), layer.out_channels)
    x, x_value = values(random, (batch, height, width, layer.in_channels), precision)
    w, w_value = values(random, (layer.out_channels, layer.in_channels), precision)
    w_kxk, w_kxk_value = values(random, (layer.out_channels, layer.group_in, layer.taps), precision)
    z, z_value = values(random, size, precision)
    epilogue = random.standard_normal((3 if precision == 'int8' else 1, layer.out_channels), np.float32)
    kernel = np.insert(w_kxk_value, layer.taps // 2, 0, axis=2).reshape(*w_kxk.shape[:2], *layer.kernel_size)
    same = [d * (k // 2) for d, k in zip(layer.dilation, layer.kernel_size)]
    expected = conv2d(
        x_value, kernel, w_value, part=layer.part, stride=layer.stride, dilation=layer.dilation, pads=(*same, *same)
    )
    if precision == 'int8':
        epilogue[0] *= 0.02
        expected = expected * epilogue[0] + epilogue[1] + residual * z_value * epilogue[2]
    else:
        expected = expected + epilogue[0] + residual * z_value
    expected = np.clip(expected, given['attributes']['low'], given['attributes']['high'])
    packed = pack(layer, w, w_kxk, ITEM[precision])
    seen = set()
    for found in result['kernels']:
        layout = blocked if found['formats'][0] == 'CHW32' else lambda array: array
        y = layout(np.full(size, POISON[precision], x.dtype))
        inputs = [layout(x), packed, epilogue, *([layout(z)] if residual else [])]
        launch(found['ptx'], found['grid'][0], [*inputs, *found['integers'], y], shared=found['shared'])
        if found['formats'][0] == 'CHW32':
            y = y.transpose(0, 2, 3, 1, 4).reshape(size)
        if precision == 'bf16':
            y = (y.astype(np.uint32) << 16).view(np.float32)
        if precision == 'int8':
            difference = np.abs(y - np.clip(expected, -128, 127)).max()
            assert difference <= 0.5 + 1e-3
        else:
            difference = np.abs(y - expected).max() / np.abs(expected).max()
            assert difference <= {'fp32': 1e-5, 'fp16': 2**-11, 'bf16': 2**-8}[precision]
        seen.add(found['tactic'])
    assert seen


def test_a_layer_without_a_fitting_format_offers_none():
    known = ['HWC8', 'HWC', 'CHW32']
    assert combinations(Layer(24, 24, 3), 'int8', known, False) == []
    assert combinations(Layer(64, 64, 4), 'fp16', ['HWC'], False) == []
    types, layouts, numbers = combinations(Layer(64, 64, 4), 'fp16', known, True)[0]
    assert types == 'FP16, FP16, FP32, FP16, FP16'
    assert layouts == 'HWC8, LINEAR, LINEAR, HWC8, HWC8'
    assert all(number > 0 for number in numbers)


def test_the_first_tactic_of_wide_layers_multiplies_nothing_in_vain():
    layer = Layer(512, 512, 4)
    tile = next(iter(tactics(layer, 'fp16', 'HWC8').values()))
    assert isinstance(tile, Tile)
    assert tile in TILES[2]
    assert multiplies(layer, tile, 2) == 512 * (512 + 8 * 128)
