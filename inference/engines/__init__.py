"""Engines behind one small interface, one file each; looked up by name, imported only when used."""

import importlib
from collections.abc import Iterable

from ..errors import UserError, unknown
from .base import Engine, ModelFiles

__all__ = ['ENGINES', 'Engine', 'ModelFiles', 'installed_engines', 'load_engine']

# name -> module and class
ENGINES = {
    'torch': ('torch_eager', 'TorchEager'),
    'torch-compile': ('torch_compile', 'TorchCompile'),
    'ort-cpu': ('ort_cpu', 'OrtCpu'),
    'onnxruntime': ('onnxruntime_cpu', 'OnnxRuntimeCpu'),
    'openvino': ('openvino_cpu', 'OpenVinoCpu'),
    'mnn': ('mnn_cpu', 'MnnCpu'),
    'ncnn': ('ncnn_cpu', 'NcnnCpu'),
    'tensorrt': ('tensorrt_gpu', 'TensorRt'),
    'tensorrt-portable': ('tensorrt_gpu', 'TensorRtPortable'),
    'onnxruntime-cuda': ('onnxruntime_gpu', 'OnnxRuntimeCuda'),
    'onnxruntime-tensorrt': ('onnxruntime_gpu', 'OnnxRuntimeTensorRt'),
    'torch-cuda': ('torch_gpu', 'TorchCuda'),
    'torch-compile-cuda': ('torch_gpu', 'TorchCompileCuda'),
    'torch-fused-cuda': ('torch_gpu', 'TorchFusedCuda'),
}


def load_engine(name: str) -> type[Engine]:
    """The class of an engine.

    Raises:
        UserError: There is no engine of that name, or the package it needs is not installed.
    """
    if name not in ENGINES:
        if name == 'tensorrt-rtx':
            raise UserError(
                'TensorRT-RTX only builds here: --engine tensorrt and tensorrt-portable are measured, on a GPU'
            )
        raise unknown('engine', name, ENGINES)
    module, attribute = ENGINES[name]
    engine = getattr(importlib.import_module(f'.{module}', __name__), attribute)
    missing = engine.missing_packages()
    if missing:
        pip = f': pip install {engine.install!r}' if set(missing) & set(engine.packages) else ''
        raise UserError(f'engine {name} needs {" and ".join(missing)}{pip}')
    return engine


def installed_engines(device: str = 'cpu', precisions: Iterable[str] = ()) -> list[str]:
    """Names of a device's engines whose packages are installed, and which have one of the precisions, if given."""
    names = []
    for name in ENGINES:
        try:
            engine = load_engine(name)
        except UserError:
            continue
        if engine.device == device and (not precisions or set(precisions) & set(engine.precisions)):
            names.append(name)
    return names
