"""The range of each activation over images, from where its scale comes.

* minmax: all that was seen.
* percentile: without the largest and the smallest 0.0005 % of the values.
* entropy: the Kullback-Leibler divergence to the quantised distribution is least.
* mse: the mean squared error of rounding and cutting off is least.

Histograms, percentile and entropy are onnxruntime.quantization's. All but minmax read the images twice, first for the
extremes: bins that were found on the way would grow without a bound where the first images are pale.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import UserError, unknown
from inference.export import INPUT

from .data import batches_of

if TYPE_CHECKING:
    import onnx

__all__ = ['METHODS', 'Ranges', 'check_ranges', 'collect_ranges', 'method_of', 'session_of', 'tapped_session']

Ranges = dict[str, tuple[float, float]]

PERCENTILE = 99.999
BINS = 2048
# The search for the entropy takes time by the square of these, in Python.
ENTROPY_BINS = 512


def method_of(name: str) -> Callable[[Any, bool], Ranges] | None:
    """The search for a range in a histogram; None for 'minmax', which needs none.

    Raises:
        UserError: There is none of that name.
    """
    if name not in METHODS:
        raise unknown('method', name, METHODS)
    return METHODS[name]


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
        source: Of batches, see `data.batches_of`. An iterator, which can be read once, is kept in memory.
        input_size: (C, H, W).
        method: One of `METHODS`.
        symmetric: The range is to have zero in its middle.
        report: Called with the number of images that are done, in each pass.

    Returns:
        Lowest and highest value of each tensor, with zero between them. Of one that was constant both are zero.

    Raises:
        UserError: No images, an unknown method, or a tensor that is not finite.
    """
    from onnxruntime.quantization.calibrate import HistogramCollector

    search = method_of(method)
    if search is not None and iter(source) is source:
        source = list(source)
    session = tapped_session(proto, [name for name in tensors if name != INPUT])
    extremes: Ranges = {}
    for values in _activations(session, tensors, source, input_size, report):
        for name, value in values.items():
            low, high = extremes.get(name, (np.inf, -np.inf))
            extremes[name] = min(low, float(value.min())), max(high, float(value.max()))
    if not extremes:
        raise UserError('no images to calibrate on')
    varying = {name: np.array(ends, np.float32) for name, ends in extremes.items() if ends[0] < ends[1]}
    found = {name: extremes[name] for name in varying}
    if search is not None and varying:
        bins = ENTROPY_BINS if method == 'entropy' else BINS
        kind = 'entropy' if method == 'entropy' else 'percentile'
        collector = HistogramCollector(kind, False, bins, 128, PERCENTILE, 'same')
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
            collector.collect(varying)  # two values more, which fix the bins
            for values in _activations(session, list(varying), source, input_size, report):
                collector.collect(values)
            found |= {name: ends for name, ends in search(collector, symmetric).items() if ends[0] < ends[1]}
    ranges: Ranges = {}
    for name in tensors:
        low, high = found.get(name, (0.0, 0.0))
        bound = max(-low, high)
        ranges[name] = (-bound, bound) if symmetric else (min(low, 0.0), max(high, 0.0))
    return ranges


def check_ranges(ranges: Ranges, tensors: Iterable[str]) -> None:
    """Raises UserError where one of these was constant: the network is broken, or the data."""
    for name in tensors:
        low, high = ranges[name]
        if not low < high:
            raise UserError(
                f'activation {name} is the same on all images, so it has no scale: the network is broken, or the data; '
                '--keep-float leaves the layer that reads it in float'
            )


def _activations(
    session: Any,
    tensors: Sequence[str],
    source: Iterable[Any],
    input_size: Sequence[int],
    report: Callable[[int], None],
) -> Iterator[dict[str, np.ndarray]]:
    """Of each batch, by name; looked at."""
    images = 0
    inside = [name for name in tensors if name != INPUT]
    for x, _ in batches_of(source, input_size):
        values = dict(zip(inside, session.run(inside, {INPUT: x}))) if inside else {}
        if INPUT in tensors:
            values[INPUT] = x
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise UserError(f'activation {name} is not finite on image {images} or one of the next {len(x)}')
        if len(x):
            yield values
        images += len(x)
        report(images)


def tapped_session(proto: 'onnx.ModelProto', tensors: Iterable[str]) -> Any:
    """A session that also gives these tensors, each node computed as it is written: no optimisation of the graph."""
    import onnx

    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    outputs = {value.name for value in proto.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs)
    return session_of(tapped, optimised=False)


def session_of(proto: 'onnx.ModelProto', optimised: bool) -> Any:
    """A session of ONNX Runtime whose threads do not wait in a loop: they would take the cores of the one beside it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])


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


METHODS: dict[str, Callable[[Any, bool], Ranges] | None] = {
    'minmax': None,
    'percentile': _of_library,
    'entropy': _of_library,
    'mse': _mse,
}
