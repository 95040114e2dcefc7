"""PyTorch on a GPU: eager, compiled, and compiled with our kernel."""

from itertools import pairwise
from typing import Any

import numpy as np

from .base import Engine

__all__ = ['TorchCompileCuda', 'TorchCuda', 'TorchFusedCuda']


class TorchCuda(Engine):
    """PyTorch eager in channels_last, the input on the GPU; fp32 in TF32, as TensorRT has it; timed by CUDA events."""

    name = 'torch-cuda'
    device = 'cuda'
    precisions = ('fp32', 'fp16', 'bf16')
    lowering = 'native'
    packages = ('torch',)
    distributions = ('torch', 'timm')
    install = 'timm-hetconv'

    def activate(self) -> None:
        import torch

        import timm_hetconv  # noqa: F401  the pickled module refers to its classes

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        self._torch = torch
        self._type = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}[self.precision]
        module = torch.load(self.files.module, map_location='cpu', weights_only=False)  # a file that we wrote
        module = module.eval().to(self.device, self._type)
        self._module = self._prepare(module.to(memory_format=torch.channels_last))

    def _prepare(self, module: Any) -> Any:
        return module

    def _to_gpu(self, x: np.ndarray) -> Any:
        tensor = self._torch.from_numpy(x).to(self.device, self._type)
        return tensor.contiguous(memory_format=self._torch.channels_last)

    def infer(self, x: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._module(self._to_gpu(x)).float().cpu().numpy()

    def time(self, x: np.ndarray, n: int) -> list[float]:
        cuda, batch = self._torch.cuda, self._to_gpu(x)
        events = [cuda.Event(enable_timing=True) for _ in range(n + 2)]
        with self._torch.inference_mode():
            for event in events[:-1]:
                event.record()
                self._module(batch)
            events[-1].record()
        cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairwise(events[1:])]  # without the first

    def deactivate(self) -> None:
        del self._module


class TorchCompileCuda(TorchCuda):
    """torch.compile, with CUDA graphs and Inductor's autotuning."""

    name = 'torch-compile-cuda'

    def _prepare(self, module: Any) -> Any:
        return self._torch.compile(module, mode='max-autotune')


class TorchFusedCuda(TorchCompileCuda):
    """torch.compile with our Triton kernel for HetConv layers; a dense network is as it was."""

    name = 'torch-fused-cuda'
    lowering = 'plugin'
    own = True

    def _prepare(self, module: Any) -> Any:
        from timm_hetconv import HetConv2d

        from ..torch_cuda import fuse

        if any(isinstance(layer, HetConv2d) for layer in module.modules()):
            module = fuse(module)
        return super()._prepare(module)
