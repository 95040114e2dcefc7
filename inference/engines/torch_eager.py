"""PyTorch's own operators as a user runs them without further ado."""

import numpy as np

from .base import Engine

__all__ = ['TorchEager']


class TorchEager(Engine):
    """PyTorch eager on the CPU, in channels_last, which is the faster layout there."""

    name = 'torch'
    lowering = 'native'
    packages = ('torch',)
    distributions = ('torch', 'timm')
    install = 'timm-hetconv'

    def activate(self) -> None:
        import torch

        import timm_hetconv  # the pickled module refers to its classes
        from timm_hetconv.cpu_kernel import use_cpu_kernel

        self._kernel = use_cpu_kernel()
        timm_hetconv.set_cpu_kernel(False)  # an engine to compare our kernels with
        torch.set_num_threads(self.threads)
        self._torch = torch
        module = torch.load(self.files.module, map_location='cpu', weights_only=False)  # a file that we wrote
        self._module = module.eval().to(memory_format=torch.channels_last)

    def infer(self, x: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(x).contiguous(memory_format=self._torch.channels_last)
            return self._module(batch).numpy()

    def deactivate(self) -> None:
        import timm_hetconv

        timm_hetconv.set_cpu_kernel(self._kernel)
        del self._module
