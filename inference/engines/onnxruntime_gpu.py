"""ONNX Runtime on a GPU, through its CUDA and its TensorRT execution provider."""

import time
from typing import ClassVar

import numpy as np

from ..errors import UserError
from .base import Engine

__all__ = ['OnnxRuntimeCuda', 'OnnxRuntimeTensorRt']

CUDA = ('CUDAExecutionProvider', {'cudnn_conv_algo_search': 'EXHAUSTIVE', 'prefer_nhwc': '1', 'use_tf32': '1'})


class OnnxRuntimeCuda(Engine):
    """The CUDA execution provider, input and output on the GPU; timed by the host's clock, call by call."""

    name = 'onnxruntime-cuda'
    device = 'cuda'
    precisions = ('fp32', 'fp16')
    lowering = 'portable'
    packages = ('onnxruntime',)
    distributions = ('onnxruntime-gpu',)
    install = 'timm-hetconv[gpu-base]'
    provider: ClassVar[str] = 'CUDAExecutionProvider'

    @classmethod
    def missing_packages(cls) -> list[str]:
        """The package for CPUs has the same import name."""
        missing = super().missing_packages()
        if not missing:
            import onnxruntime

            if cls.provider not in onnxruntime.get_available_providers():
                return [f'onnxruntime with {cls.provider} (onnxruntime-gpu in place of onnxruntime)']
        return missing

    def activate(self) -> None:
        import onnx
        import onnxruntime

        from ..lowering.precision import to_precision

        onnxruntime.preload_dlls()  # CUDA and cuDNN from the wheels that PyTorch brings
        if self.provider == 'TensorrtExecutionProvider':
            import tensorrt  # noqa: F401  its libraries, by which the provider is linked

        graph = to_precision(onnx.load(self.files.portable), self.precision)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=self._providers())
        if self._session.get_providers()[0] != self.provider:  # it goes on with the next when one does not load
            raise UserError(f'ONNX Runtime could not load {self.provider}: its CUDA, cuDNN or TensorRT is missing')
        self._binding = self._session.io_binding()
        self._ort = onnxruntime

    def _providers(self) -> list:
        return [CUDA]

    def _bind(self, x: np.ndarray) -> None:
        value = self._ort.OrtValue.ortvalue_from_numpy(x, 'cuda', 0)
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, value)
        self._binding.bind_output(self._session.get_outputs()[0].name, 'cuda', 0)

    def infer(self, x: np.ndarray) -> np.ndarray:
        self._bind(x)
        self._session.run_with_iobinding(self._binding)
        return self._binding.copy_outputs_to_cpu()[0]

    def time(self, x: np.ndarray, n: int) -> list[float]:
        self._bind(x)
        milliseconds = []
        for _ in range(n + 1):
            start = time.perf_counter()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            milliseconds.append((time.perf_counter() - start) * 1e3)
        return milliseconds[1:]

    def deactivate(self) -> None:
        del self._binding, self._session


class OnnxRuntimeTensorRt(OnnxRuntimeCuda):
    """The TensorRT execution provider, what it does not take on the CUDA one."""

    name = 'onnxruntime-tensorrt'
    provider = 'TensorrtExecutionProvider'

    def _providers(self) -> list:
        options = {
            'trt_fp16_enable': self.precision == 'fp16',  # TensorRT 10; later ones take the types of the graph
            'trt_timing_cache_enable': True,
            'trt_timing_cache_path': str(self.files.portable.parent),
        }
        return [(self.provider, options), CUDA]
