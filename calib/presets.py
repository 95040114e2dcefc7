"""What an engine wants of an INT8 graph."""

from dataclasses import dataclass

from inference.errors import unknown

__all__ = ['PRESETS', 'Preset', 'preset_of']


@dataclass(frozen=True)
class Preset:
    """Types and places of an INT8 graph; weights are S8, symmetric, with a scale an output channel.

    Attributes:
        name: For whom.
        signed: Activations are S8 instead of U8.
        symmetric: Their zero point is 0, in the middle of S8.
    """

    name: str
    signed: bool = False
    symmetric: bool = False


PRESETS = {
    # A rectified tensor has the zero point 0, and all of its 256 steps above it.
    'cpu': Preset('cpu'),
    'openvino': Preset('openvino'),  # the same types
    # TensorRT's INT8 is symmetric: it takes no zero point.
    'tensorrt': Preset('tensorrt', signed=True, symmetric=True),
}


def preset_of(name: str) -> Preset:
    """A preset by its name.

    Raises:
        UserError: There is none of that name.
    """
    if name not in PRESETS:
        raise unknown('preset', name, PRESETS)
    return PRESETS[name]
