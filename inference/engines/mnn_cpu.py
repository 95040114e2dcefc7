"""MNN, Alibaba's engine for mobile CPUs; its Winograd makes a dense 3x3 convolution cheap."""

import subprocess
import sys

import numpy as np

from .base import Engine

__all__ = ['MnnCpu']


class MnnCpu(Engine):
    """MNN on the CPU with precision 'high': fp32 arithmetic, no fp16 or bf16."""

    name = 'mnn'
    lowering = 'portable'
    winograd = True
    packages = ('MNN',)
    distributions = ('MNN',)
    install = 'timm-hetconv[peers]'

    def activate(self) -> None:
        converted = self.files.portable.with_suffix('.mnn')
        converted.unlink(missing_ok=True)  # a converter that crashed leaves half a file
        # The converter itself, not MNN's script around it, which installs a package and reports the conversion home;
        # in a process of its own, since it prints and exits as it likes and its return code says nothing.
        log = subprocess.run(
            [sys.executable, '-c', 'import sys, _tools; _tools.mnnconvert(sys.argv)', '-f', 'ONNX', '--modelFile',
             self.files.portable, '--MNNModel', converted, '--bizCode', 'hetconv'],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace').stdout  # fmt: skip
        if not converted.exists():
            raise RuntimeError(f'MNN cannot convert the model: {log.strip().splitlines()[-1:]}')
        import MNN

        self._mnn = MNN
        self._interpreter = MNN.Interpreter(str(converted))
        self._session = self._interpreter.createSession(
            {'backend': 'CPU', 'numThread': self.threads, 'precision': 'high'}
        )
        self._input = self._interpreter.getSessionInput(self._session)
        self._output = self._interpreter.getSessionOutput(self._session)

    def infer(self, x: np.ndarray) -> np.ndarray:
        host = self._mnn.Tensor(x.shape, self._mnn.Halide_Type_Float, x, self._mnn.Tensor_DimensionType_Caffe)
        self._input.copyFrom(host)
        self._interpreter.runSession(self._session)
        shape = self._output.getShape()
        out = np.empty(shape, np.float32)
        result = self._mnn.Tensor(shape, self._mnn.Halide_Type_Float, out, self._mnn.Tensor_DimensionType_Caffe)
        self._output.copyToHostTensor(result)
        return np.array(result.getData(), np.float32).reshape(shape)

    def deactivate(self) -> None:
        del self._session, self._interpreter, self._input, self._output
