"""The range of each activation over images, from where its scale comes: onnxruntime.quantization's histograms.

* minmax: all that was seen.
* percentile: without the largest and smallest thousandth of a per cent.
* entropy: the Kullback-Leibler divergence to the quantised distribution is least.
* mse: the mean squared error of rounding and cutting off is least.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import UserError, unknown
from inference.export import INPUT

from .data import batches_of

if TYPE_CHECKING:
    import onnx

__all__ = ['METHODS', 'Ranges', 'collect_ranges', 'tapped_session']

Ranges = dict[str, tuple[float, float]]

PERCENTILE = 99.999
BINS = 2048
# The search for the entropy takes time by the square of these, in Python.
ENTROPY_BINS = 512


def collect_ranges(
    proto: 'onnx.ModelProto',
    tensors: Sequence[str],
    source: Iterable[Any],
    input_size: Sequence[int],
    method: str = 'minmax',
    symmetric: bool = False,
    report: Callable[[int], None] = lambda images: None,
) -> Ranges:
    """Run a float network on images and find the range of each tensor.

    Args:
        proto: The network.
        tensors: Names of activations.
        source: Of batches, see `data.batches_of`; read once.
        input_size: (C, H, W).
        method: One of `METHODS`.
        symmetric: The range is to have zero in its middle.
        report: Called with the number of images that are done.

    Returns:
        Lowest and highest value of each tensor.

    Raises:
        UserError: No images, an unknown method, or a tensor that is constant or not finite.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    if method not in METHODS:
        raise unknown('method', method, METHODS)
    inside = [name for name in tensors if name != INPUT]
    session = tapped_session(proto, inside)
    kind = 'entropy' if method == 'entropy' else 'percentile'
    bins = ENTROPY_BINS if method == 'entropy' else BINS
    collector = HistogramCollector(kind, False, bins, 128, PERCENTILE, 'same')
    images = 0
    for x, _ in batches_of(source, input_size):
        values = dict(zip(inside, session.run(inside, {INPUT: x})))
        if INPUT in tensors:
            values[INPUT] = x
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise UserError(f'activation {name} is not finite on image {images} or one of the next {len(x)}')
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
            collector.collect(values)
        images += len(x)
        report(images)
    if not images:
        raise UserError('no images to calibrate on')
    ranges: Ranges = {}
    for name, (low, high) in METHODS[method](collector, symmetric).items():
        if not low < high:
            raise UserError(f'activation {name} is {low:g} on all {images} images: the network is broken, or the data')
        bound = max(-low, high)
        ranges[name] = (-bound, bound) if symmetric else (min(low, 0.0), max(high, 0.0))
    return ranges


def tapped_session(proto: 'onnx.ModelProto', tensors: Iterable[str]) -> Any:
    """A session that also gives these tensors, each node computed as it is written: no optimisation of the graph."""
    import onnx
    import onnxruntime

    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    outputs = {value.name for value in proto.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=['CPUExecutionProvider'])


def _minmax(collector: Any, symmetric: bool) -> Ranges:
    return {name: (float(found[2]), float(found[3])) for name, found in collector.histogram_dict.items()}


def _of_library(collector: Any, symmetric: bool) -> Ranges:
    with contextlib.redirect_stdout(io.StringIO()):
        found = collector.compute_collection_result()
    return {name: (float(low), float(high)) for name, (low, high, *_) in found.items()}


def _mse(collector: Any, symmetric: bool) -> Ranges:
    return {
        name: _least_error(counts, edges, low, high, symmetric)
        for name, (counts, edges, low, high, *_) in collector.histogram_dict.items()
    }


def _least_error(counts: np.ndarray, edges: np.ndarray, low: Any, high: Any, symmetric: bool) -> tuple[float, float]:
    """Of a histogram: the range with the least squared error in 255 steps, one end after the other.

    Values stand in the middle of their bins, and rounding costs step^2 / 12 each.
    """
    middles, total = (edges[:-1] + edges[1:]) / 2, counts.sum()
    low, high = min(float(low), 0.0), max(float(high), 0.0)

    def error(a: float, b: float) -> float:
        beyond = np.maximum(a - middles, 0) + np.maximum(middles - b, 0)
        return float((counts * beyond**2).sum() / total + ((b - a) / 255) ** 2 / 12)

    shares = np.geomspace(1, 1e-3, 400).tolist()  # of equally good ones the widest
    if symmetric:
        bound = max(-low, high)
        bound *= min(shares, key=lambda share: error(-share * bound, share * bound))
        return -bound, bound
    a, b = low, high
    for _ in range(2):
        b = high * min(shares, key=lambda share: error(a, share * high))
        a = low * min(shares, key=lambda share: error(share * low, b))
    return a, b


METHODS: dict[str, Callable[[Any, bool], Ranges]] = {
    'minmax': _minmax,
    'percentile': _of_library,
    'entropy': _of_library,
    'mse': _mse,
}
