"""The runner of TensorRT engines, through both packages' drivers, on a GPU that is not there."""

import hashlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import Broken, FakeGpu, FakeLibcuda, installed
from fake_cuda_core import fake_bindings, fake_cuda_core
from fake_pycuda import fake_pycuda
from fake_tensorrt import SAMPLE, expected, fake_tensorrt

from inference.errors import UserError
from inference.tensorrt.manifest import Manifest, Profile, manifest_path
from inference.tensorrt.runtime import EngineRunner

PACKAGES = ['pycuda', 'cuda-core']
VERSION = '10.13.0.35'


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(...)`: a runner on a fake GPU with a fake TensorRT; `machine.gpu` is the GPU."""
    stack = []

    def make(package, plan=b'ptrt whole', profiles=((1, 8),), gpu=None, sm=86, sms=(86,), runner=None, **engine):
        machine.gpu = gpu = gpu or FakeGpu()
        path = tmp_path / 'model.engine'
        path.write_bytes(plan)
        manifest_path(path).write_text(_manifest(plan, profiles, sms).model_dump_json())
        context = installed(
            monkeypatch, FakeLibcuda(gpu, sm=sm), pycuda__driver=fake_pycuda(gpu), cuda__core=fake_cuda_core(gpu),
            cuda__bindings=SimpleNamespace(__version__='13.0.3'), cuda__bindings__driver=fake_bindings(gpu),
            tensorrt=fake_tensorrt(gpu, profiles=profiles, version=VERSION, **engine),
        )  # fmt: skip
        stack.append(context)
        context.__enter__()
        return EngineRunner(path, package, **(runner or {}))

    machine = make
    yield make
    for context in reversed(stack):
        context.__exit__(None, None, None)


def _manifest(plan, profiles, sms):
    return Manifest(
        created='2026-11-24', model={}, engine='tensorrt', engine_version=VERSION, sms=list(sms), precision='fp16',
        lowering='portable', profiles=[Profile(min=a, opt=a, max=b) for a, b in profiles], options={}, size=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(), plugins={}, graph_error=0, build_seconds=0, network={}, layers=[],
    )  # fmt: skip


def batch(n, seed=0):
    return np.random.default_rng(seed).integers(-8, 8, (n, *SAMPLE)).astype(np.float32)


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize('graphs', [(), (1, 8)])
def test_results(machine, package, graphs):
    with machine(package, runner=dict(graphs=graphs)) as runner:
        outputs = [runner.infer(batch(n, seed)) for seed, n in enumerate((8, 1, 3, 8, 1, 5))]
        for seed, (n, y) in enumerate(zip((8, 1, 3, 8, 1, 5), outputs)):
            assert y.dtype == np.float32
            np.testing.assert_array_equal(y, expected(batch(n, seed)))
        assert runner.notes == []
    assert machine.gpu.alive == {}
