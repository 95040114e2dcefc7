"""OpenVINO's CPU plugin."""

import numpy as np

from .base import Engine

__all__ = ['OpenVinoCpu']


class OpenVinoCpu(Engine):
    """OpenVINO on the CPU, tuned for latency, held to fp32 (on newer CPUs its default would be bf16) where a graph is
    not in INT8."""

    name = 'openvino'
    precisions = ('fp32', 'int8')
    lowering = 'portable'
    packages = ('openvino',)
    distributions = ('openvino',)
    install = 'timm-hetconv[peers]'

    def activate(self) -> None:
        import openvino

        config = {
            'INFERENCE_NUM_THREADS': self.threads,
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_PRECISION_HINT': 'f32',
        }
        self._request = openvino.Core().compile_model(self.files.portable, 'CPU', config).create_infer_request()

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self._request.infer({0: x}, share_inputs=True)[0].copy()

    def deactivate(self) -> None:
        del self._request
