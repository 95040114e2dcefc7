"""ONNX Runtime's CPU execution provider."""

import numpy as np

from .base import Engine

__all__ = ['OnnxRuntimeCpu']


class OnnxRuntimeCpu(Engine):
    """ONNX Runtime on the CPU with all graph optimisations; it inlines the HetConv2d function itself.

    In INT8 it gets a graph with Q/DQ where its own tool places them: Q/DQ around a HetConv2d it computes in float.
    """

    name = 'onnxruntime'
    precisions = ('fp32', 'int8')
    lowering = 'portable'
    packages = ('onnxruntime',)
    distributions = ('onnxruntime', 'onnxruntime-gpu')
    install = 'timm-hetconv[cpu]'

    def activate(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        path = self.files.qdq if self.precision == 'int8' else self.files.onnx
        self._session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        self._input = self._session.get_inputs()[0].name

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: x})[0]

    def deactivate(self) -> None:
        del self._session
