"""What pycuda, cuda-core and TensorRT do with memory, contexts and graphs, that fakes of them only say they do."""

import ctypes
import threading
import time

import numpy as np
import pytest

from inference.cuda import open_driver
from inference.errors import UserError
from inference.tensorrt.runtime import EngineRunner

MODEL = 'hetconv_resnet20_cifar_p4'
PACKAGES = ['cuda-core', 'pycuda']


@pytest.fixture(scope='module')
def engine(engine_of):
    return engine_of(MODEL, precision='fp16', lowering='plugin')


@pytest.fixture(scope='module')
def images(expected):
    return expected(MODEL, 8)[0]


def in_a_thread(function):
    """The result of a function on a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    (result,) = results
    return result


def free_memory():
    with Opened('cuda-core') as driver, driver.current():
        return driver.cuda.free_memory()


class Opened:
    """A driver between `with` and its end."""

    def __init__(self, package):
        self.package = package

    def __enter__(self):
        self.driver = open_driver(self.package)
        return self.driver

    def __exit__(self, *_):
        self.driver.close()


@pytest.mark.parametrize('package', PACKAGES)
def test_the_context_is_off_the_thread_after_closing(engine, package):
    def current():
        with EngineRunner(engine, package):
            pass
        context = ctypes.c_void_p()
        assert ctypes.CDLL('libcuda.so.1').cuCtxGetCurrent(ctypes.byref(context)) == 0
        return context.value

    assert in_a_thread(current) is None


@pytest.mark.parametrize('package', PACKAGES)
def test_closing_on_another_thread_frees_everything(engine, images, package, record_property):
    left = []
    for _ in range(20):
        runner = EngineRunner(engine, package, contexts=2, graphs=[8])
        runner.open()
        runner.infer(images)
        in_a_thread(runner.close)
        left.append(free_memory())
    record_property('free_bytes', [left[2], left[-1]])
    assert left[-1] >= left[2] - 2**20  # the first ones load libraries


@pytest.mark.parametrize('package', PACKAGES)
def test_pinned_memory_is_freed(package):
    with Opened(package) as driver, driver.current():
        for _ in range(200):  # 50 GiB, were it kept
            driver.allocate_pinned(1 << 28).close()


@pytest.mark.parametrize('package', PACKAGES)
def test_graphs_share_memory_and_stay_right(engine, images, package):
    batches = [images[:1], images, np.repeat(images, 8, axis=0)]
    with EngineRunner(engine, package) as plain, EngineRunner(engine, package, graphs=[1, 8, 64]) as graphs:
        assert graphs.notes == []
        for _ in range(3):
            for x in batches:
                np.testing.assert_array_equal(graphs.infer(x), plain.infer(x))


@pytest.mark.parametrize('package', PACKAGES)
def test_a_failed_capture_spoils_nothing(engine, images, package, monkeypatch):
    with EngineRunner(engine, package) as plain:
        right = plain.infer(images)
    from inference.cuda.cuda_core_driver import CudaCoreDriver
    from inference.cuda.pycuda_driver import PycudaDriver

    def refuse(driver, stream, work):
        work()
        raise RuntimeError('refused')

    for cls in (CudaCoreDriver, PycudaDriver):
        monkeypatch.setattr(cls, 'capture', refuse)
    with EngineRunner(engine, package, graphs=[8]) as runner:
        assert 'refused' in runner.notes[0]
        np.testing.assert_array_equal(runner.infer(images), right)


@pytest.mark.parametrize('package', PACKAGES)
def test_the_gpus_clock_agrees_with_the_hosts(engine, images, package, record_property):
    with EngineRunner(engine, package) as runner:
        runner.time(images, 100)
        start = time.perf_counter()
        events = sum(runner.time(images, 500))
        wall = 1e3 * (time.perf_counter() - start)
    record_property('ms', [events, wall])
    assert 0.5 * wall < events <= 1.01 * wall  # the host also copies the images once


@pytest.mark.parametrize('package', PACKAGES)
def test_profile_agrees_with_the_whole(engine, images, package, record_property):
    with EngineRunner(engine, package) as runner:
        layers = runner.profile(images, 20)
        whole = float(np.median(runner.time(images, 200)))
    total = sum(float(np.median(values)) for values in layers.values())
    record_property('ms', [total, whole])
    assert total >= 0.5 * whole


@pytest.mark.parametrize('package', PACKAGES)
def test_out_of_memory_is_one_line(engine, package):
    with Opened(package) as driver, driver.current():
        taken = []
        try:
            size = 1 << 32
            while size >= 1 << 20:
                try:
                    taken.append(driver.allocate(size))
                except UserError:
                    size //= 2
            with pytest.raises(UserError) as caught:
                EngineRunner(engine, package, contexts=64).open()
            assert '\n' not in str(caught.value)
        finally:
            for memory in taken:
                memory.close()


@pytest.mark.parametrize('package', PACKAGES)
def test_pytorch_in_the_same_process(engine, images, torch_cuda, package):
    with EngineRunner(engine, package) as runner:
        right = runner.infer(images)
        assert float(torch_cuda.ones(1, device='cuda')) == 1
        np.testing.assert_array_equal(runner.infer(images), right)
    assert float(torch_cuda.ones(2, device='cuda').sum()) == 2


def test_time_of_a_tensorrt_rtx_engine_does_not_drift(gpu, engine_of, images):
    """It compiles for a shape before it runs, as it was told to, and not in the background."""
    pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    if gpu.sm not in (75, 80, 86, 89, 120):
        pytest.skip(f'TensorRT-RTX has no engines for SM {gpu.sm}')
    with EngineRunner(engine_of(MODEL, engine='tensorrt-rtx', sms=(gpu.sm,)), graphs=[1]) as runner:
        assert runner.notes == []
        times = runner.time(images[:1], 400)
    assert np.median(times[:50]) < 1.5 * np.median(times[-50:])
