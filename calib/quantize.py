"""Ranges into the graph: QuantizeLinear and DequantizeLinear before every quantised layer, by onnxruntime.quantization.

HetConv2d is one unit: no Q/DQ stands between its halves, and both of its weights have the same scale, so that a kernel
sums the products of both in one integer accumulator. What a layer gives is not rounded before a residual is added and
the activation applied: it is rounded once, before the next layer.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.export import METADATA_KEY, metadata
from inference.hetconv_op import OP_TYPE

from .layers import Layer, means, pools, residuals
from .presets import Preset
from .ranges import Ranges

if TYPE_CHECKING:
    import onnx

__all__ = ['quantize', 'weight_scales', 'without_hints']

# Half of the range of S8, as TensorRT has it: -128 is not used.
LARGEST = 127
# onnxruntime's registry is one for all threads.
_LOCK = threading.Lock()
# Of 7 bits: two products of U8 and S8 that stay within 16 bits, see docs/int8.md.
LARGEST_REDUCED = 63


def weight_scales(weights: Sequence[np.ndarray], reduce_range: bool = False) -> np.ndarray:
    """One scale an output channel for all the weights (N, ...) of a layer: the largest magnitude, over 127.

    A channel of zeros has the scale 1.

    Returns:
        (N,), float32.
    """
    largest = np.max([np.abs(weight.reshape(len(weight), -1)).max(1) for weight in weights], 0)
    scale = largest / (LARGEST_REDUCED if reduce_range else LARGEST)
    return np.where(largest > 0, scale, 1).astype(np.float32)


def quantize(
    proto: 'onnx.ModelProto',
    layers: Sequence[Layer],
    ranges: Ranges,
    preset: Preset,
    reduce_range: bool = False,
    facts: dict[str, Any] | None = None,
) -> 'onnx.ModelProto':
    """The INT8 network.

    Args:
        proto: A network of `hetconv export`; it is left as it was.
        layers: Which are quantised.
        ranges: Of the activations of `tensors_of`.
        preset: Whose types.
        reduce_range: Weights of 7 bits, for processors whose 8-bit products saturate in 16 bits.
        facts: For the metadata, under 'int8'.

    Returns:
        With explicit Q/DQ, the same inputs, outputs and metadata.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    overrides = {}
    for layer in layers:
        scales = weight_scales([constants[name] for name in layer.weights], reduce_range)
        for name in layer.weights:
            overrides[name] = [
                dict(axis=0, quant_type=QuantType.QInt8, scale=scale, zero_point=np.int8(0)) for scale in scales
            ]
    data = TensorsData(
        CalibrationMethod.Distribution,
        {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()},
    )
    others = [*pools(proto, list(layers)).values(), *means(proto, list(layers))]
    with _LOCK, _one_unit(residuals(proto, list(layers))):
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,  # the scales are ours
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if preset.signed else QuantType.QUInt8,
            tensors_range=data,
            nodes_to_quantize=[*(layer.node for layer in layers), *(node.name for node in others)],
            nodes_to_exclude=[],
            op_types_to_quantize=list({layer.op_type for layer in layers} | {node.op_type for node in others}),
            extra_options=dict(
                ActivationSymmetric=preset.symmetric,
                WeightSymmetric=True,
                QuantizeBias=False,
                TensorQuantOverrides=overrides,
            ),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized = quantizer.model.model
    _describe(quantized, metadata(proto), facts or {})
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


@contextlib.contextmanager
def _one_unit(shortcuts: Sequence[str]) -> Iterator[None]:
    """onnxruntime's registry with our rules for the time of a quantisation, and without its hints."""
    from onnxruntime.quantization.operators.qdq_base_operator import QDQOperatorBase
    from onnxruntime.quantization.registry import QDQRegistry

    class Weighted(QDQOperatorBase):
        """The input and the weights of a layer; its output only where it is the shortcut of another layer's."""

        weights = 1

        def quantize(self) -> None:
            self.quantizer.quantize_activation_tensor(self.node.input[0])
            for name in self.node.input[1 : 1 + self.weights]:
                self.quantizer.quantize_weight_tensor_per_channel(name, 0)
            if self.node.output[0] in shortcuts:
                self.quantizer.quantize_activation_tensor(self.node.output[0])

    class HetConv(Weighted):
        weights = 2

    class MaxPool(QDQOperatorBase):
        """The same scale before and after it."""

        def quantize(self) -> None:
            node = self.node
            self.quantizer.quantize_activation_tensor(node.input[0])
            self.quantizer.quantize_output_same_as_input(node.output[0], node.input[0], node.name)

    class Mean(QDQOperatorBase):
        """What it reads; what it gives is a layer's input."""

        def quantize(self) -> None:
            self.quantizer.quantize_activation_tensor(self.node.input[0])

    rules = {'Conv': Weighted, 'Gemm': Weighted, OP_TYPE: HetConv, 'MaxPool': MaxPool}
    rules.update(ReduceMean=Mean, GlobalAveragePool=Mean)
    before = {name: QDQRegistry.get(name) for name in rules}
    QDQRegistry.update(rules)
    try:
        with without_hints():
            yield
    finally:
        for name, operator in before.items():
            if operator is None:
                del QDQRegistry[name]
            else:
                QDQRegistry[name] = operator


@contextlib.contextmanager
def without_hints() -> Iterator[None]:
    """Without onnxruntime's advice to optimise the graph first, which the exporter has done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _describe(proto: 'onnx.ModelProto', info: dict[str, Any], facts: dict[str, Any]) -> None:
    import onnx

    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps({**info, 'int8': facts}, sort_keys=True)})
