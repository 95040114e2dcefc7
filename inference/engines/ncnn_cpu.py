"""ncnn, Tencent's engine for mobile CPUs; its Winograd makes a dense 3x3 convolution cheap."""

import subprocess

import numpy as np

from .base import Engine

__all__ = ['NcnnCpu']


class NcnnCpu(Engine):
    """ncnn on the CPU with every fp16 and bf16 option off. It runs one sample at a time: a batch is a loop."""

    name = 'ncnn'
    lowering = 'portable'
    winograd = True
    packages = ('ncnn', 'pnnx')
    distributions = ('ncnn', 'pnnx')
    install = 'timm-hetconv[peers]'

    def activate(self) -> None:
        import ncnn
        import onnx
        import pnnx

        from ..lowering.portable import fix_batch

        folder = self.files.portable.with_suffix('.ncnn.d')
        folder.mkdir(exist_ok=True)
        source = folder / 'model.onnx'
        proto = fix_batch(onnx.load(self.files.portable), 1)
        onnx.save(proto, source)  # pnnx writes its files beside its input
        shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
        log = subprocess.run(
            [pnnx.EXEC_PATH, source.name, f'inputshape=[{",".join(map(str, shape))}]f32', 'fp16=0'],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')  # fmt: skip
        if log.returncode:
            raise RuntimeError(f'pnnx cannot convert the model: {log.stdout.strip().splitlines()[-1:]}')
        net = ncnn.Net()
        net.opt.num_threads = self.threads
        for option in ('fp16_packed', 'fp16_storage', 'fp16_arithmetic', 'bf16_storage', 'bf16_packed'):
            if hasattr(net.opt, f'use_{option}'):
                setattr(net.opt, f'use_{option}', False)
        if net.load_param(str(folder / 'model.ncnn.param')) or net.load_model(str(folder / 'model.ncnn.bin')):
            raise RuntimeError('ncnn cannot load what pnnx made of the model')
        self._ncnn, self._net = ncnn, net
        self._input, self._output = net.input_names()[0], net.output_names()[0]

    def infer(self, x: np.ndarray) -> np.ndarray:
        outputs = []
        for sample in x:
            with self._net.create_extractor() as extractor:
                extractor.input(self._input, self._ncnn.Mat(sample))
                code, out = extractor.extract(self._output)
                if code:
                    raise RuntimeError(f'ncnn failed with code {code}')
                outputs.append(np.array(out))
        return np.stack(outputs)

    def deactivate(self) -> None:
        self._net.clear()
