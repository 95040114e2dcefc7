"""INT8 engines of TensorRT-RTX, really built, without a GPU."""

import importlib.util

import pytest

from calib.layers import find_layers, tensors_of
from calib.presets import PRESETS
from calib.quantize import quantize
from calib.ranges import Ranges
from inference.build import build_tensorrt
from inference.errors import UserError
from inference.export import export_model, save_model
from inference.models import create_model
from inference.tensorrt.options import BuildOptions

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('tensorrt_rtx') is None, reason='TensorRT-RTX is not installed'
)


@pytest.fixture(scope='module')
def quantised():
    """`quantised(preset)`: a network with made-up ranges, which no engine asks about."""
    proto = export_model(create_model('hetconv_resnet20_cifar_p4'))

    def get(preset):
        layers = find_layers(proto)
        ranges: Ranges = dict.fromkeys(tensors_of(proto, layers), (-4.0, 4.0))
        return quantize(proto, layers, ranges, PRESETS[preset], facts={'preset': preset})

    return get


@pytest.mark.parametrize('sm', [80, 86, 89])
def test_an_int8_engine(sm, quantised, tmp_path):
    save_model(quantised('tensorrt'), tmp_path / 'int8.onnx')
    built, facts, error = build_tensorrt(str(tmp_path / 'int8.onnx'), BuildOptions('tensorrt-rtx', sms=(sm,)))
    assert facts['int8'] == {'preset': 'tensorrt'}
    assert error < 0.05
    # Both halves of 18 HetConvs, and the stem; weights and inputs of those and of the last layer, and the mean's input.
    assert built.network['CONVOLUTION'] == 37
    assert built.network['QUANTIZE'] == 21
    assert built.network['DEQUANTIZE'] == 21 + 2 * 18 + 2
    done = {node for layer in built.layers for node in layer.nodes}
    kernels = [layer for layer in built.layers if layer.type == 'correlation']
    # Convolutions have taken their weights in INT8: no layer of the engine makes floats of them before.
    assert len(kernels) >= 37
    assert all(any('DequantizeLinear' in node for node in layer.nodes) for layer in kernels)
    assert any('grouped' in node for node in done)


def test_int8_of_another_engine_is_refused_with_the_mend(quantised, tmp_path):
    save_model(quantised('cpu'), tmp_path / 'int8.onnx')
    with pytest.raises(UserError, match=r'is INT8 for cpu, .* --preset tensorrt` makes one'):
        build_tensorrt(str(tmp_path / 'int8.onnx'), BuildOptions('tensorrt-rtx', sms=(86,)))
