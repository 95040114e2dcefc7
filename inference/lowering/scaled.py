"""What the QuantizeLinear and DequantizeLinear of a graph say about a value: its scale and its zero point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .walk import array_of

__all__ = [
    'Scaled',
    'activation_of',
    'bias_of',
    'describe',
    'fits',
    'floats_of',
    'is_activation',
    'scaled_of',
    'weight_of',
]


def describe(graph: ir.Graph) -> None:
    """Types and shapes of quantised values, where the file does not say."""
    for node in graph:
        if node.op_type not in ('QuantizeLinear', 'DequantizeLinear'):
            continue
        x, y = node.inputs[0], node.outputs[0]
        if y.dtype is None:
            zero_point: Any = node.inputs[2] if len(node.inputs) > 2 else None
            asked = ir.DataType(node.attributes.get_int('output_dtype', 0) or ir.DataType.UINT8)
            quantized = asked if zero_point is None else zero_point.dtype
            scale: Any = node.inputs[1]
            y.dtype = quantized if node.op_type == 'QuantizeLinear' else scale.dtype
        if y.shape is None:
            y.shape = x.shape


@dataclass(frozen=True)
class Scaled:
    """A quantised value: what it is of, its scale and its zero point, each one number or one an axis."""

    value: Any  # an ir.Value
    scale: np.ndarray
    zero_point: np.ndarray

    @property
    def numbers(self) -> tuple[float, int]:
        return float(self.scale), int(self.zero_point)


def scaled_of(node: Any, value: Any) -> Scaled | None:
    """By the inputs of a QuantizeLinear or DequantizeLinear."""
    scale = array_of(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = np.uint8(0) if given is None else array_of(given)
    if scale is None or zero_point is None or scale.dtype != np.float32:
        return None
    return Scaled(value, scale.squeeze() if scale.size == 1 else scale, np.asarray(zero_point).squeeze())


def is_activation(scaled: Scaled | None, kind: ir.DataType = ir.DataType.UINT8) -> bool:
    """Bytes of this kind with one scale; signed ones are symmetric, as a GPU wants them."""
    return (
        scaled is not None
        and scaled.scale.ndim == 0
        and scaled.zero_point.ndim == 0
        and scaled.value.dtype == kind
        and (kind == ir.DataType.UINT8 or not scaled.zero_point)
        and bool(np.isfinite(scaled.scale) and scaled.scale > 0)
    )


def _dequantized(value: ir.Value | None) -> Scaled | None:
    """What a value is the DequantizeLinear of."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != 'DequantizeLinear' or node.domain != '':
        return None
    return scaled_of(node, node.inputs[0])


def activation_of(value: ir.Value | None, kind: ir.DataType = ir.DataType.UINT8) -> Scaled | None:
    """The same of an activation in bytes of this kind, with one scale."""
    scaled = _dequantized(value)
    return scaled if is_activation(scaled, kind) and array_of(scaled.value) is None else None


def weight_of(value: ir.Value | None) -> Scaled | None:
    """The same of constant signed bytes, with one scale for each of the first axis."""
    scaled = _dequantized(value)
    array = None if scaled is None else array_of(scaled.value)
    if scaled is None or array is None or array.dtype != np.int8 or np.any(scaled.zero_point):
        return None
    if scaled.scale.ndim and (value.producer().attributes.get_int('axis', 1) != 0 or scaled.scale.ndim != 1):
        return None
    scale = np.broadcast_to(scaled.scale, array.shape[:1])
    return Scaled(scaled.value, scale, scaled.zero_point) if np.isfinite(scale).all() else None


def bias_of(value: ir.Value | None, channels: int) -> np.ndarray | None:
    """A constant bias as floats, zeros where there is none; None where it is not constant, or not finite."""
    if value is None:
        return np.zeros(channels, np.float32)
    bias = array_of(value)
    if bias is None and (scaled := _dequantized(value)) is not None:
        bias = floats_of(scaled, 0)
    usable = bias is not None and bias.shape == (channels,) and np.isfinite(bias).all()
    return bias.astype(np.float32) if usable else None


def floats_of(scaled: Scaled, axis: int) -> np.ndarray | None:
    """A constant's real values."""
    array = array_of(scaled.value)
    if array is None:
        return None
    along = [-1 if i == axis else 1 for i in range(array.ndim)]
    scale, zero_point = (part.reshape(along) if part.ndim else part for part in (scaled.scale, scaled.zero_point))
    return (array.astype(np.float64) - zero_point.astype(np.float64)).astype(np.float32) * scale  # float8 too


def fits(x: Scaled, weights: list[Scaled], bias: np.ndarray, epilogue: dict[str, Any]) -> bool:
    """Whether the kernels can: sums of products with bytes within 32 bits; and all that is computed within float32.

    Args:
        x, weights, bias: Of a layer.
        epilogue: The attributes of what follows it, see chain.py.
    """
    steps = 1 / np.float64(np.float32(epilogue.get('y_scale', 1)))
    scale = np.float64(x.scale) * weights[0].scale.astype(np.float64)
    largest = [scale * 2.0**31, bias.astype(np.float64), np.float64(epilogue.get('z_scale', 1)) * 255]
    if not all((np.abs(values * steps) < np.finfo(np.float32).max / 4).all() for values in largest):
        return False
    arrays = [array_of(weight.value) for weight in weights]
    sums = sum(np.abs(a.astype(np.int64)).reshape(len(a), -1).sum(1) for a in arrays if a is not None)
    return bool(np.max(sums, initial=0) * 255 < 2**31)
