"""TensorRT on a GPU: with our plugin, and from its own layers alone, which is the dense baseline."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from .base import Engine

__all__ = ['TensorRt', 'TensorRtPortable']


class TensorRt(Engine):
    """TensorRT with HetConv2d as our plugin, one CUDA graph a batch; timed by the GPU's clock, without copies."""

    name = 'tensorrt'
    device = 'cuda'
    precisions = ('fp32', 'fp16', 'bf16')
    lowering: ClassVar[str] = 'plugin'
    own: ClassVar[bool] = True
    packages = ('tensorrt',)
    distributions = ('tensorrt', 'cuda-core', 'pycuda')
    install = 'timm-hetconv[gpu-base]'

    def activate(self) -> None:
        from ..build import build_tensorrt
        from ..tensorrt.manifest import save_engine
        from ..tensorrt.options import BuildOptions
        from ..tensorrt.runtime import EngineRunner

        folder = self.files.onnx.parent
        options = BuildOptions(
            'tensorrt',
            self.precision,
            lowering=self.lowering,
            profiles=((self.batch, self.batch, self.batch),),
            timing_cache=folder / 'tensorrt.cache',  # the models of a run have many layers in common
        )
        path = Path(folder, f'{self.files.onnx.stem}-{self.name}-{self.precision}-{self.batch}.engine')
        save_engine(path, *build_tensorrt(str(self.files.onnx), options))
        self._runner = EngineRunner(path, graphs=[self.batch])
        self._runner.open()

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self._runner.infer(x)

    def time(self, x: np.ndarray, n: int) -> list[float]:
        self._runner.infer(x)
        return self._runner.time(x, n)

    def deactivate(self) -> None:
        self._runner.close()


class TensorRtPortable(TensorRt):
    """TensorRT alone, HetConv as a grouped Conv, a 1x1 Conv and a sum: for a dense network its own best tactics."""

    name = 'tensorrt-portable'
    lowering = 'portable'
    own = False
