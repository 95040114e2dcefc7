"""Inputs and outputs of an engine: names, types, and the shapes that its profiles take."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cuda import Resource
from ..errors import UserError

__all__ = ['Shape', 'Signature', 'Tensor', 'read_signature']

Shape = tuple[int, ...]

# trt.DataType's member -> numpy's type; the others are in no engine of `hetconv build`
_TYPES = {
    'FLOAT': np.float32, 'HALF': np.float16, 'INT8': np.int8, 'UINT8': np.uint8, 'INT32': np.int32, 'INT64': np.int64,
    'BOOL': np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: As in the ONNX file.
        type: Of an element.
        profiles: Of an input: smallest and largest shape in each profile. Of an output: empty.
    """

    name: str
    type: np.dtype
    profiles: tuple[tuple[Shape, Shape], ...] = ()

    def bytes(self, shape: Shape) -> int:
        """What a tensor of a shape takes."""
        return math.prod(shape) * self.type.itemsize


@dataclass(frozen=True)
class Signature:
    """What goes in and comes out of an engine, and in what shapes."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: int

    def largest(self, profile: int) -> dict[str, Shape]:
        """Shapes of the inputs at the upper end of a profile."""
        return {tensor.name: tensor.profiles[profile][1] for tensor in self.inputs}

    def at_batch(self, batch: int) -> dict[str, Shape]:
        """Shapes of the inputs at a batch, with all else as large as it can be."""
        return {tensor.name: (batch, *tensor.profiles[0][1][1:]) for tensor in self.inputs}

    def profile(self, shapes: dict[str, Shape]) -> int:
        """The profile for shapes of inputs: of those that take them, the one made for the smallest batches.

        Raises:
            UserError: Other inputs, or none of the profiles takes these.
        """
        if set(shapes) != {tensor.name for tensor in self.inputs}:
            raise UserError(
                f'the engine has the inputs {", ".join(tensor.name for tensor in self.inputs)}, not '
                f'{", ".join(shapes) or "none"}'
            )
        fitting = [profile for profile in range(self.profiles) if self._takes(shapes, profile)]
        if not fitting:
            raise UserError(self._refusal(shapes))
        return min(fitting, key=lambda profile: [tensor.profiles[profile][1] for tensor in self.inputs])

    def _takes(self, shapes: dict[str, Shape], profile: int) -> bool:
        for tensor in self.inputs:
            (low, high), shape = tensor.profiles[profile], shapes[tensor.name]
            if len(shape) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high)):
                return False
        return True

    def _refusal(self, shapes: dict[str, Shape]) -> str:
        given = ', '.join(f'{name} {_text(shape)}' for name, shape in shapes.items())
        ranges = [
            f'{tensor.name} {_text(low)}' + (f' to {_text(high)}' if low != high else '')
            for profile in range(self.profiles)
            for tensor in self.inputs
            for low, high in [tensor.profiles[profile]]
        ]
        return f'the engine does not take {given}; it takes {", ".join(ranges)}: build with --batch that has it'


def read_signature(trt: Any, engine: Resource) -> Signature:
    """What an engine says of its inputs and outputs.

    Raises:
        UserError: A type that this program has no use for.
    """
    inputs, outputs = [], []
    profiles = engine.it.num_optimization_profiles
    for name in (engine.it.get_tensor_name(index) for index in range(engine.it.num_io_tensors)):
        kind = engine.it.get_tensor_dtype(name).name
        if kind not in _TYPES:
            raise UserError(f'tensor {name} of the engine has the type {kind}; engines of `hetconv build` have FLOAT')
        if engine.it.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            ranges = [engine.it.get_tensor_profile_shape(name, profile) for profile in range(profiles)]
            limits = tuple((tuple(low), tuple(high)) for low, _, high in ranges)
            inputs.append(Tensor(name, np.dtype(_TYPES[kind]), limits))
        else:
            outputs.append(Tensor(name, np.dtype(_TYPES[kind])))
    return Signature(tuple(inputs), tuple(outputs), profiles)


def _text(shape: Shape) -> str:
    return '×'.join(map(str, shape))
