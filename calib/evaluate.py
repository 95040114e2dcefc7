"""A float network and its INT8 form on the same images: top-1, agreement, and how much noise each layer has.

ONNX Runtime computes the INT8 form here without optimising its graph: DequantizeLinear gives exact products of integers
and scales, and convolutions of those are in float32. Its integer kernels for processors without VNNI would add pairs of
products in 16 bits, which saturate, and show 2 to 3 points less than other engines reach; see docs/int8.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import UserError
from inference.export import INPUT, OUTPUT

from .data import batches_of
from .ranges import session_of, tapped_session

if TYPE_CHECKING:
    import onnx

__all__ = ['Comparison', 'compare', 'signal_to_noise']


@dataclass(frozen=True)
class Comparison:
    """What INT8 costs.

    Attributes:
        images: How many.
        labelled: They have labels.
        float_correct, int8_correct: Images whose largest logit is the label's; 0 without labels.
        agree: Images that both put into the same class.
        float_classes: Of each image, by the float network.
    """

    images: int
    labelled: bool
    float_correct: int
    int8_correct: int
    agree: int
    float_classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), compare=False, repr=False)

    @property
    def top1(self) -> tuple[float, float]:
        """Of the float network and the INT8 one, in per cent."""
        return 100 * self.float_correct / self.images, 100 * self.int8_correct / self.images

    @property
    def agreement(self) -> float:
        """In per cent."""
        return 100 * self.agree / self.images

    @property
    def drop(self) -> float:
        """Points of top-1 that INT8 costs; without labels what it may cost at most: all that changed their class."""
        return self.top1[0] - self.top1[1] if self.labelled else 100 - self.agreement


def compare(
    proto: 'onnx.ModelProto',
    quantized: 'onnx.ModelProto',
    source: Iterable[Any],
    input_size: Sequence[int],
    report: Callable[[int], None] = lambda images: None,
    before: Comparison | None = None,
) -> Comparison:
    """Classify images with both networks.

    Args:
        proto, quantized: The float network and its INT8 form.
        source: Of batches, see `data.batches_of`; labels are used where there are any.
        input_size: (C, H, W).
        report: Called with the number of images that are done.
        before: An earlier comparison on the same images, whose classes of the float network are taken again.

    Raises:
        UserError: No images.
    """
    float_session = None if before else session_of(proto, optimised=True)
    int8_session = session_of(quantized, optimised=False)
    classes: list[np.ndarray] = []
    images = float_correct = int8_correct = agree = 0
    labelled = True
    for x, labels in batches_of(source, input_size):
        if before is None:
            classes.append(float_session.run([OUTPUT], {INPUT: x})[0].argmax(1))
        else:
            classes.append(before.float_classes[images : images + len(x)])
        expected, found = classes[-1], int8_session.run([OUTPUT], {INPUT: x})[0].argmax(1)
        images += len(x)
        agree += int((expected == found).sum())
        labelled = labelled and labels is not None
        if labels is not None:
            float_correct += int((expected == labels).sum())
            int8_correct += int((found == labels).sum())
        report(images)
    if not images:
        raise UserError('no images to evaluate on')
    return Comparison(images, labelled, float_correct, int8_correct, agree, np.concatenate(classes))


def signal_to_noise(
    proto: 'onnx.ModelProto',
    quantized: 'onnx.ModelProto',
    tensors: Sequence[str],
    source: Iterable[Any],
    input_size: Sequence[int],
) -> dict[str, float]:
    """How far tensors of the INT8 form are from those of the float network: 10 log10(signal / noise), in dB.

    Returns:
        By tensor; infinite where there is no difference.
    """
    sessions = tapped_session(proto, tensors), tapped_session(quantized, tensors)
    signal, noise = np.zeros(len(tensors)), np.zeros(len(tensors))
    for x, _ in batches_of(source, input_size):
        pairs = zip(*(session.run(list(tensors), {INPUT: x}) for session in sessions))
        for index, (expected, found) in enumerate(pairs):
            signal[index] += np.square(expected, dtype=np.float64).sum()
            noise[index] += np.square(expected - found, dtype=np.float64).sum()
    with np.errstate(divide='ignore', invalid='ignore'):
        decibel = np.where(noise > 0, 10 * np.log10(signal / noise), np.inf)
    return dict(zip(tensors, decibel.tolist()))
