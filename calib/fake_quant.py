"""A network that rounds as its INT8 form will, to be fine-tuned: weights move to where rounding hurts less.

Every HetConv2d, Conv2d and Linear sees its input and its weights rounded to 8 bits and back (torch.ao's fake
quantisation: gradients pass straight through), HetConv2d as one unit, with one scale an output channel for both of its
weights. A batch norm behind it needs no care: its factor scales a channel's largest weight, and so the steps, like all
the others of that channel, and the exported weights round to the same.

What a residual adds and what the mean over the image reads are not rounded here, and are in the exported form; ranges
are those of unsigned bytes.

Ranges are a moving average while the network trains, and stand still while it is validated. They are no part of a
checkpoint, which so has the same keys as any other: `hetconv export` and `hetconv calibrate` take it as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_hetconv import HetConv2d
from timm_hetconv.ops import compose

__all__ = ['prepare']

LARGEST = 127


class _Rounded:
    """What the rounding layers share; neither a parameter nor a buffer."""

    training: bool

    def _input(self, x: Tensor) -> Tensor:
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

        fake = self.__dict__.get('_fake')
        if fake is None:
            if not self.training:  # nothing is known of its range yet
                return x
            fake = FakeQuantize(MovingAverageMinMaxObserver, 0, 255, dtype=torch.quint8).to(x.device)
            self.__dict__['_fake'] = fake  # past nn.Module, which would register it
        fake.enable_observer(self.training)
        return fake(x.float())

    @staticmethod
    def _weights(*weights: Tensor) -> list[Tensor]:
        """(N, ...) each, of one layer."""
        with torch.no_grad():
            largest = torch.stack([weight.flatten(1).abs().amax(1) for weight in weights]).amax(0)
            scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest)).float()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return [torch.fake_quantize_per_channel_affine(w.float(), scale, zero, 0, -LARGEST, LARGEST) for w in weights]


class _HetConv2d(_Rounded, HetConv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight, kxk = self._weights(self.weight, self.weight_kxk)
        return compose(
            self._input(x), weight, kxk, self.bias, self.kernel_size, self.stride, self.padding, self.dilation
        )


class _Conv2d(_Rounded, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self._input(x), self._weights(self.weight)[0], self.bias)


class _Linear(_Rounded, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self._input(x), self._weights(self.weight)[0], self.bias)


_ROUNDED: dict[type, type] = {HetConv2d: _HetConv2d, nn.Conv2d: _Conv2d, nn.Linear: _Linear}


def prepare(model: nn.Module) -> nn.Module:
    """Let a network round as its INT8 form will, in place.

    Args:
        model: With HetConv2d, Conv2d and Linear layers. Those of squeeze-and-excitation stay as they are, and so do
            layers of other classes.

    Returns:
        The model itself; its keys, parameters and buffers are what they were.
    """
    gates = {layer for module in model.modules() if _is_gate(module) for layer in module.modules()}
    for module in model.modules():
        kind = next((kind for kind in _ROUNDED if isinstance(module, kind)), None)
        if kind is not None and module not in gates and type(module).forward is kind.forward:  # type: ignore[attr-defined]
            module.__class__ = _ROUNDED[kind]
    return model


def _is_gate(module: nn.Module) -> bool:
    """timm's squeeze-and-excitation, by the names of its classes."""
    name = type(module).__name__
    return name.endswith('SEModule') or name.startswith('SqueezeExcite')
