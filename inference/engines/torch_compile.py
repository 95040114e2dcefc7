"""torch.compile with the inductor backend."""

from .torch_eager import TorchEager

__all__ = ['TorchCompile']


class TorchCompile(TorchEager):
    """torch.compile on the CPU with frozen weights, so that inductor folds batch norms and fuses what it can."""

    name = 'torch-compile'

    def activate(self) -> None:
        super().activate()
        import torch._inductor.config

        torch._inductor.config.freezing = True
        self._module = torch.compile(self._module, dynamic=False)
