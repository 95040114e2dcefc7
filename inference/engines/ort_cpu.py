"""ONNX Runtime with this project's CPU kernels."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .base import Engine

__all__ = ['OrtCpu', 'make_session']


def make_session(model: 'Path | bytes', threads: int = 0, profile: Path | None = None, **config: str) -> Any:
    """An `onnxruntime.InferenceSession` for a model of `hetconv build --engine ort-cpu`.

    Args:
        model: The file, or its bytes.
        threads: Threads inside an operator; 0 for ONNX Runtime's default.
        profile: Beginning of the name of a file for ONNX Runtime's profiler, or None.
        config: Session options of the kernels: `algorithm='direct'` forbids Winograd's algorithm, `isa='avx2'` forces
            an instruction set.

    Raises:
        UserError: The kernels are not built.
    """
    import onnxruntime

    from ..kernels.cpu import library

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    for key, value in config.items():
        options.add_session_config_entry(f'hetconv.{key}', value)
    options.register_custom_ops_library(str(library()))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=['CPUExecutionProvider'])


class OrtCpu(Engine):
    """The whole network in NHWC on the kernels of `inference/kernels/cpu`, in ONNX Runtime."""

    name = 'ort-cpu'
    precisions = ('fp32', 'int8')
    lowering = 'plugin'
    winograd = True
    own = True
    packages = ('onnxruntime',)
    distributions = ('onnxruntime', 'onnxruntime-gpu')
    install = 'timm-hetconv[cpu]'

    @classmethod
    def missing_packages(cls) -> list[str]:
        """The compiled library is part of this package, where there was a compiler."""
        from ..kernels.cpu import library

        try:
            library()
        except UserError as error:
            return [*super().missing_packages(), str(error)]
        return super().missing_packages()

    def activate(self) -> None:
        import onnx

        from ..lowering.ort_cpu import to_ort_cpu

        lowered = to_ort_cpu(onnx.load(self.files.onnx))
        self._session = make_session(lowered.SerializeToString(), self.threads)
        self._input = self._session.get_inputs()[0].name

    def infer(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: x})[0]

    def deactivate(self) -> None:
        del self._session
