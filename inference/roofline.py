"""What a GPU's arithmetic and memory allow, layer by layer: a layer that waits for memory cannot follow its FLOPs.

The time of a layer is at least its multiply-accumulates over the tensor cores' peak, and at least its bytes over the
memory's bandwidth: input, output and weights once each, everything else from caches or fused. A network's bound is the
sum over its layers. What stays in the GPU's second cache from one layer, or one run, to the next is not counted: at
small batches, whose maps and weights fit there, an engine can be faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from timm_hetconv import LayerCost

from .kernels.gpu.tiles import ITEM

__all__ = ['Bound', 'Peak', 'bound_of', 'layer_bound']


@dataclass(frozen=True)
class Peak:
    """What a GPU could do at most.

    Attributes:
        macs: Multiply-accumulates a second on tensor cores, dense, at the clock it had.
        bytes: Bytes a second from and to its memory.
    """

    macs: float
    bytes: float


@dataclass(frozen=True)
class Bound:
    """The least time of a layer or a network.

    Attributes:
        seconds: For a batch.
        memory_share: The share of it in which memory is what is waited for.
    """

    seconds: float
    memory_share: float


def layer_bytes(layer: LayerCost, batch: int, item: int) -> int:
    """Bytes that a layer must read and write: its input, its output, its parameters."""
    shape = layer.shape
    if layer.kind == 'linear':
        values = batch * (shape['in_features'] + shape['out_features'])
    else:
        (height, width), (out_height, out_width) = shape['input'], shape['output']
        values = batch * (shape['in_channels'] * height * width + shape['out_channels'] * out_height * out_width)
    return (values + layer.params) * item


def layer_bound(layer: LayerCost, batch: int, precision: str, peak: Peak) -> Bound:
    """The least time of one layer.

    Args:
        layer: Of `timm_hetconv.count`.
        batch: Samples.
        precision: 'fp32', 'fp16', 'bf16' or 'int8'.
        peak: Of the GPU, in this precision.
    """
    arithmetic = layer.macs * batch / peak.macs
    memory = layer_bytes(layer, batch, ITEM[precision]) / peak.bytes
    return Bound(max(arithmetic, memory), float(memory > arithmetic))


def bound_of(layers: Sequence[LayerCost], batch: int, precision: str, peak: Peak) -> Bound:
    """The least time of a network: the sum of its layers'."""
    bounds = [layer_bound(layer, batch, precision, peak) for layer in layers]
    seconds = sum(bound.seconds for bound in bounds)
    waiting = sum(bound.seconds * bound.memory_share for bound in bounds)
    return Bound(seconds, waiting / seconds if seconds else 0.0)
