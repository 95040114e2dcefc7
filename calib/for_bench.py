"""INT8 networks to be timed beside each other: ours, and what onnxruntime.quantization makes of the same one by itself.

Ranges are those of the few images that the rows are compared on: time does not depend on them, and the comparison finds
a wrong network, not a loss of accuracy.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.export import INPUT, metadata

from .layers import find_layers, tensors_of
from .presets import preset_of
from .quantize import quantize, without_hints
from .ranges import collect_ranges

if TYPE_CHECKING:
    import onnx

__all__ = ['quantize_for_bench']


def quantize_for_bench(
    proto: 'onnx.ModelProto', portable: 'onnx.ModelProto', images: np.ndarray
) -> 'tuple[onnx.ModelProto, onnx.ModelProto]':
    """Both INT8 forms of a network.

    Args:
        proto: Of `hetconv export`.
        portable: The same of standard operators, with the batch of the images.
        images: (B, C, H, W), float32, prepared.

    Returns:
        With Q/DQ around HetConv2d as one unit, preset cpu; and with Q/DQ where onnxruntime.quantization places them, on
        both sides of every operator, of which ONNX Runtime makes integer convolutions.
    """
    layers, preset = find_layers(proto), preset_of('cpu')
    ranges = collect_ranges(proto, tensors_of(proto, layers), [(images, None)], metadata(proto)['input_size'])
    return quantize(proto, layers, ranges, preset), _by_onnxruntime(portable, images)


def _by_onnxruntime(portable: 'onnx.ModelProto', images: np.ndarray) -> 'onnx.ModelProto':
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Once(CalibrationDataReader):
        """One batch."""

        batches = iter([{INPUT: images}])

        def get_next(self) -> 'dict[str, np.ndarray] | None':
            return next(self.batches, None)

    with tempfile.TemporaryDirectory(prefix='hetconv-', ignore_cleanup_errors=True) as folder, without_hints():
        path = Path(folder) / 'model.onnx'
        quantize_static(
            portable, path, Once(), per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(path)
