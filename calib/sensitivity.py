"""Which layers INT8 hurts most, and which few to leave in float."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.export import OUTPUT

from .evaluate import Comparison, signal_to_noise
from .layers import Layer
from .presets import Preset
from .quantize import quantize
from .ranges import Ranges

if TYPE_CHECKING:
    import onnx

__all__ = ['Sensitivity', 'choose_float', 'measure_sensitivity']


@dataclass(frozen=True)
class Sensitivity:
    """What one layer alone does in INT8.

    Attributes:
        layer: The layer.
        decibel: Signal to noise at the logits when nothing else is quantised.
    """

    layer: Layer
    decibel: float

    @property
    def noise(self) -> float:
        """Share of the logits' power. Small noises of several layers add up."""
        return 10 ** (-self.decibel / 10)


def measure_sensitivity(
    proto: 'onnx.ModelProto',
    layers: Sequence[Layer],
    ranges: Ranges,
    preset: Preset,
    source: Sequence[Any],
    input_size: Sequence[int],
    reduce_range: bool = False,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Sensitivity]:
    """Quantize one layer at a time, and look at the logits; noisiest first.

    Args:
        proto: The float network.
        layers: Which are looked at.
        ranges: Of `tensors_of` those layers.
        preset: Whose types.
        source: Batches, read once a layer.
        input_size: (C, H, W).
        reduce_range: Weights of 7 bits.
        report: Called with the layer's name, how many are done, and of how many.
    """
    found = []
    for index, layer in enumerate(layers):
        report(f'sensitivity of {layer.name}', index, len(layers))
        alone = quantize(proto, [layer], ranges, preset, reduce_range)
        found.append(Sensitivity(layer, signal_to_noise(proto, alone, [OUTPUT], source, input_size)[OUTPUT]))
    return sorted(found, key=lambda sensitivity: sensitivity.decibel)


def choose_float(
    sensitivities: Sequence[Sensitivity],
    bound: float,
    comparison: Comparison,
    evaluate: Callable[[Sequence[Layer]], Comparison],
    report: Callable[[Layer, Comparison], None] = lambda layer, comparison: None,
) -> tuple[list[Layer], Comparison]:
    """Leave layers in float until INT8 costs at most so many points.

    Next is the layer with the most noise for the time that it costs in float; time goes with its multiplications. In
    the end each one that turns out to be unnecessary goes back to INT8, the dearest first.

    Args:
        sensitivities: Of `measure_sensitivity`.
        bound: Points of top-1.
        comparison: With all layers in INT8.
        evaluate: Quantises all layers but these, and compares.
        report: Called with each layer that stays in float, and what came of it.

    Returns:
        The layers that stay in float, and the comparison without them: where no choice was good enough, the best one.
    """
    kept: list[Layer] = []
    best: tuple[list[Layer], Comparison] = [], comparison
    by_gain = sorted(sensitivities, key=lambda s: s.noise / max(s.layer.macs, 1), reverse=True)
    for sensitivity in by_gain:
        if comparison.drop <= bound:
            break
        kept.append(sensitivity.layer)
        if len(kept) == len(by_gain):
            break
        comparison = evaluate(kept)
        report(sensitivity.layer, comparison)
        if comparison.drop < best[1].drop:
            best = list(kept), comparison
    if comparison.drop > bound:
        return best
    for layer in sorted(kept[:-1], key=lambda layer: layer.macs, reverse=True):
        without = [other for other in kept if other is not layer]
        again = evaluate(without)
        if again.drop <= bound:
            kept, comparison = without, again
    return kept, comparison
