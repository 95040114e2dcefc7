"""A machine with a fake GPU, a fake TensorRT and an engine, for the runner's tests."""

import contextlib
import hashlib
from types import SimpleNamespace

import numpy as np
from fake_cuda import FakeGpu, FakeLibcuda, installed
from fake_cuda_core import fake_bindings, fake_cuda_core
from fake_pycuda import fake_pycuda
from fake_tensorrt import SAMPLE, fake_tensorrt

from inference.tensorrt.manifest import Manifest, Profile, manifest_path
from inference.tensorrt.runtime import EngineRunner

PACKAGES = ['pycuda', 'cuda-core']
VERSION = '10.13.0.35'


class Machine:
    """`machine(...)`: a runner on a fake GPU; `machine.gpu` is the GPU."""

    gpu: FakeGpu

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch, self.stack = folder, monkeypatch, contextlib.ExitStack()

    def __call__(
        self, package, plan=b'ptrt whole', profiles=((1, 8),), gpu=None, sm=86, sms=(86,), runner=None, options=None,
        rtx=False, **engine,
    ):  # fmt: skip
        self.gpu = gpu = gpu or FakeGpu()
        path = self.folder / 'model.engine'
        path.write_bytes(plan)
        manifest_path(path).write_text(_manifest(plan, profiles, sms, options, rtx).model_dump_json())
        self.stack.enter_context(
            installed(
                self.monkeypatch, FakeLibcuda(gpu, sm=sm), pycuda__driver=fake_pycuda(gpu),
                cuda__core=fake_cuda_core(gpu), cuda__bindings=SimpleNamespace(__version__='13.0.3'),
                cuda__bindings__driver=fake_bindings(gpu),
                **{
                    'tensorrt_rtx' if rtx else 'tensorrt':
                    fake_tensorrt(gpu, profiles=profiles, version=VERSION, rtx=rtx, **engine)
                },
            )
        )  # fmt: skip
        return EngineRunner(path, package, **(runner or {}))


def _manifest(plan, profiles, sms, options, rtx):
    return Manifest(
        created='2026-11-24', model={}, engine='tensorrt-rtx' if rtx else 'tensorrt', engine_version=VERSION,
        sms=list(sms), precision='fp16', lowering='portable', options=options or {}, size=len(plan),
        profiles=[Profile(min=a, opt=a, max=b) for a, b in profiles], sha256=hashlib.sha256(plan).hexdigest(),
        plugins={}, graph_error=0, build_seconds=0, network={}, layers=[],
    )  # fmt: skip


def batch(n, seed=0):
    return np.random.default_rng(seed).integers(-8, 8, (n, *SAMPLE)).astype(np.float32)


def check_empty(gpu):
    assert gpu.alive == {}
    assert gpu.faults == []
    if 'Context.push' in gpu.calls:  # cuda-core leaves the context with the thread
        assert gpu.contexts == 0
