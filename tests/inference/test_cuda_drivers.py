"""The drivers of a GPU, each over a fake of its own package; and the fakes, held against what is installed."""

import contextlib
import inspect
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import Broken, FakeGpu, FakeLibcuda, installed
from fake_cuda_core import CUresult, FakeCudaError, fake_bindings, fake_cuda_core
from fake_pycuda import fake_pycuda

from inference.cuda import open_driver
from inference.cuda.driver import DRIVERS
from inference.cuda.libcuda import CudaError
from inference.errors import UserError

BINDINGS = SimpleNamespace(__version__='13.0.3')


@pytest.fixture
def gpu():
    return FakeGpu(memory=1 << 24)


def packages(gpu):
    return dict(
        pycuda__driver=fake_pycuda(gpu), cuda__core=fake_cuda_core(gpu), cuda__bindings=BINDINGS,
        cuda__bindings__driver=fake_bindings(gpu),
    )  # fmt: skip


@pytest.fixture(params=DRIVERS)
def driver(request, gpu, monkeypatch):
    with installed(monkeypatch, FakeLibcuda(gpu), **packages(gpu)):
        driver = open_driver(request.param)
        yield driver
        driver.close()
    assert gpu.alive == {}
    assert gpu.faults == []
    assert gpu.contexts == 0 or request.param == 'cuda-core', 'which leaves its context with the thread'


def test_the_gpu_is_described(driver):
    device = driver.device
    assert (device.name, device.sm, device.memory, device.cuda) == ('NVIDIA Fake 3090', 86, 1 << 24, (13, 0))
    assert (device.pci, device.multiprocessors, device.memory_bus_bits) == ('0000:65:00.0', 82, 384)
    assert (device.clock_khz, device.memory_clock_khz) == (1695000, 9751000)


def test_copies_wait_for_the_stream(driver, gpu):
    with driver.current(), contextlib.ExitStack() as stack:
        own = lambda resource: stack.enter_context(contextlib.closing(resource))  # noqa: E731
        stream, memory = own(driver.stream()), own(driver.allocate(100))
        pinned, back = own(driver.allocate_pinned(100)), own(driver.allocate_pinned(100))
        assert memory.address > 1 << 32, 'the fake has addresses that need 64 bits'
        pinned.array[:] = np.arange(100)
        driver.upload(memory, pinned, 60, stream)
        driver.download(back, memory, 80, stream)
        assert (back.array == 0xFF).all(), 'nothing has happened yet'
        driver.synchronise(stream)
        np.testing.assert_array_equal(back.array[:60], np.arange(60))
        assert (back.array[60:] == 0xFF).all()


def test_events_keep_the_time(driver, gpu):
    with driver.current(), contextlib.ExitStack() as stack:
        stream, start, end = (
            stack.enter_context(contextlib.closing(it)) for it in (driver.stream(), driver.event(), driver.event())
        )
        driver.record(start, stream)
        gpu.put(stream.address, 'a kernel', lambda: gpu.tick(2.5))
        driver.record(end, stream)
        with pytest.raises(Exception, match=r'not ready|not completed'):
            driver.elapsed(start, end)
        driver.synchronise(stream)
        assert driver.elapsed(start, end) == 2.5


def test_a_graph_runs_when_it_is_launched(driver, gpu):
    done = []
    with driver.current(), contextlib.ExitStack() as stack:
        stream = stack.enter_context(contextlib.closing(driver.stream()))
        graph = driver.capture(stream, lambda: gpu.put(stream.address, 'a kernel', lambda: done.append(1)))
        stack.callback(graph.close)
        driver.synchronise(stream)
        assert done == []
        for _ in range(2):
            driver.launch(graph, stream)
        driver.synchronise(stream)
        assert done == [1, 1]


@pytest.mark.parametrize('spoilt', [False, True])
def test_a_recording_that_fails_leaves_the_stream_as_it_was(driver, gpu, spoilt):
    def work():
        if spoilt:
            gpu.put(stream.address, 'a kernel', 'spoilt')
        else:
            raise Broken('work')

    with driver.current(), contextlib.closing(driver.stream()) as stream:
        errors = (CudaError, FakeCudaError) if spoilt else Broken
        with pytest.raises(errors, match='CAPTURE_INVALIDATED' if spoilt else 'work'):
            driver.capture(stream, work)
        assert set(gpu.alive.values()) <= {'stream', 'context'}
        done = []
        gpu.put(stream.address, 'a kernel', lambda: done.append(1))
        driver.synchronise(stream)
        assert done == [1]


def test_whatever_thread_frees(driver, gpu):
    with driver.current():
        resources = [driver.allocate(10), driver.allocate_pinned(10), driver.event(), driver.stream()]
    assert len(gpu.alive) == (5 if driver.name == 'pycuda' else 4)

    def work():
        with driver.current():
            while resources:
                resources.pop().close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert set(gpu.alive.values()) <= {'context'}


def test_closing_twice_and_touching_what_is_closed(driver):
    with driver.current():
        pinned = driver.allocate_pinned(10)
        pinned.close()
        pinned.close()
        with pytest.raises(ValueError, match='closed'):
            _ = pinned.array


def test_without_memory(driver, gpu):
    with (
        driver.current(),
        contextlib.closing(driver.allocate(10 << 20)),
        pytest.raises(
            UserError,
            match=r'out of memory on NVIDIA Fake 3090 \(6 MiB of 16 MiB free; .*\), and 7 MiB more of GPU memory were',
        ),
    ):
        driver.allocate(7 << 20)
    gpu.fail_at = len(gpu.calls) + 1
    with driver.current(), pytest.raises(Broken):
        driver.allocate(1)
    gpu.fail_at = None


@pytest.mark.parametrize(
    ('libcuda', 'message'),
    [
        (None, r'no NVIDIA driver on this machine \(libcuda.so.1\); engines run on a machine with a GPU'),
        (dict(init=100), r'finds no GPU; CUDA_VISIBLE_DEVICES=.7. may hide it'),
        (dict(count=0), r'finds no GPU; CUDA_VISIBLE_DEVICES=.7. may hide it'),
        (dict(init=34), r'does not start: libcuda is a stub to link with, not a driver: take the stubs out'),
        (dict(init=802), r'does not start: the system is not ready: start the services'),
        (dict(init=803), r'does not start: libcuda and the kernel module are of different versions: reboot'),
        (dict(init=999), r'does not start: CUDA error 999'),
        (dict(version=12040), r'knows CUDA up to 12.4, and pycuda is made for CUDA 13: .*cuda-bindings is made for'),
    ],
)
def test_no_gpu(gpu, monkeypatch, libcuda, message):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '7')
    fake = None if libcuda is None else FakeLibcuda(gpu, **libcuda)
    with installed(monkeypatch, fake, **packages(gpu)):
        with pytest.raises(UserError, match=message) as caught:
            open_driver()
        assert '\n' not in str(caught.value)
    assert gpu.calls == []


def test_choice_of_the_package(gpu, monkeypatch):
    there = packages(gpu)
    absent = dict(pycuda__driver=None, cuda__core=None)

    def chosen(name=None, libcuda=None, **changes):
        with installed(monkeypatch, libcuda or FakeLibcuda(gpu), **{**there, **changes}):
            driver = open_driver(name)
            driver.close()
            return driver.name

    assert chosen() == 'pycuda'
    assert chosen('cuda-core') == 'cuda-core'
    assert chosen(pycuda__driver=None) == 'cuda-core'
    # pycuda built for a newer CUDA than the driver knows.
    old = dict(libcuda=FakeLibcuda(gpu, version=12060), cuda__bindings=SimpleNamespace(__version__='12.9.1'))
    assert chosen(**old) == 'cuda-core'
    with pytest.raises(UserError, match='pycuda is made for CUDA 13: update the driver, or install pycuda for CUDA 12'):
        chosen('pycuda', **old)
    with pytest.raises(UserError, match=r'pycuda is not installed: pip install .*; cuda-core is not installed: pip'):
        chosen(**absent)
    with pytest.raises(UserError, match=r"pycuda is not installed: pip install 'timm-hetconv\[gpu\]'$"):
        chosen('pycuda', **absent)
    with pytest.raises(UserError, match=r"cuda-core 0.4.2 is too old: pip install -U 'cuda-core>=1.0'"):
        chosen('cuda-core', cuda__core=fake_cuda_core(gpu, version='0.4.2'))
    with pytest.raises(UserError, match=r'unknown CUDA package .cupy.; there are pycuda, cuda-core'):
        chosen('cupy')


def test_a_package_that_does_not_load(gpu, monkeypatch, tmp_path):
    (tmp_path / 'pycuda').mkdir()
    (tmp_path / 'pycuda/__init__.py').touch()
    (tmp_path / 'pycuda/driver.py').write_text('raise ImportError("libcurand.so.10:\\n cannot open")')
    monkeypatch.syspath_prepend(tmp_path)
    there = packages(gpu)
    del there['pycuda__driver']
    with (
        installed(monkeypatch, FakeLibcuda(gpu), **there),
        pytest.raises(UserError, match=r'pycuda is installed but does not load \(libcurand.so.10: cannot open\)'),
    ):
        open_driver('pycuda')
    (tmp_path / 'pycuda/driver.py').write_text('import pytools_that_is_not_there')
    with (
        installed(monkeypatch, FakeLibcuda(gpu), **there),
        pytest.raises(UserError, match=r'does not load \(No module named .pytools_that_is_not_there.\)'),
    ):
        open_driver('pycuda')


def test_a_gpu_that_is_not_there(gpu, monkeypatch):
    with installed(monkeypatch, FakeLibcuda(gpu, count=2), **packages(gpu)):
        open_driver(index=1).close()
        for index in (2, -1):
            with pytest.raises(UserError, match=f'there is no GPU {index}: the driver finds 2, counted from 0'):
                open_driver(index=index)


# The fakes against the real thing


def test_fake_cuda_core_has_the_signatures_of_cuda_core():
    core = pytest.importorskip('cuda.core')
    graph = pytest.importorskip('cuda.core.graph')
    fake = fake_cuda_core(FakeGpu())
    for name, cls in vars(fake).items():
        if name.startswith('_'):
            continue
        real = getattr(graph if name.startswith('Graph') else core, name)
        for method, function in vars(cls).items():
            if method.startswith('_') and method != '__sub__':
                continue
            assert hasattr(real, method), f'{name}.{method}'
            if inspect.isfunction(function) and method != '__sub__':
                assert parameters(function) == parameters(getattr(real, method)), f'{name}.{method}'
    for options in (core.StreamOptions(nonblocking=True), core.EventOptions(timing_enabled=True)):
        stand_in = inspect.signature(getattr(fake, type(options).__name__)).parameters
        assert {name: p.default for name, p in stand_in.items()} == {
            name: field.default for name, field in options.__dataclass_fields__.items()
        }
    assert 'device_id' in str(inspect.signature(core.Device.__new__))


def parameters(function):
    """Names, kinds and defaults."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_fake_bindings_have_the_signatures_of_cuda_bindings():
    real = pytest.importorskip('cuda.bindings.driver')
    for name, function in vars(fake_bindings(FakeGpu())).items():
        if name.startswith('cu'):
            assert list(inspect.signature(function).parameters) == list(
                inspect.signature(getattr(real, name)).parameters
            )
    for member in CUresult:
        assert getattr(real.CUresult, member.name) == member.value


def header():
    """NVIDIA's cuda.h, wherever a package has brought it."""
    triton = pytest.importorskip('triton')
    path = Path(triton.__file__).parent / 'backends/nvidia/include/cuda.h'
    if not path.exists():
        pytest.skip('no cuda.h')
    return path.read_text()


def test_the_functions_of_libcuda_are_those_of_the_header():
    text = header()
    names = FakeLibcuda(FakeGpu()).functions
    source = (Path(inspect.getfile(CudaError))).read_text()
    assert set(re.findall(r"'(cu[A-Z]\w+)'", source)) | {'cuInit', 'cuGetErrorName'} == set(names)
    for name, function in names.items():
        renamed = re.search(rf'#define (\w+)\s+(?:__CUDA_API_PTSZ\()?{name}\b', text)  # cuGetIt: cuGetIt_v2
        assert renamed or not name.endswith('_v2')
        prototype = re.search(rf'CUresult CUDAAPI {renamed[1] if renamed else name}\(([^)]*)\);', text)
        assert prototype, name
        wanted = [part for part in prototype[1].split(',') if part.strip() != 'void']
        given = [p for p in inspect.signature(function).parameters if p != 'raw']
        assert len(wanted) == len(given), name


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('CU_DEVICE_ATTRIBUTE_CLOCK_RATE', 13), ('CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT', 16),
        ('CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE', 36), ('CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH', 37),
        ('CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR', 75), ('CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR', 76),
        ('CU_STREAM_CAPTURE_MODE_THREAD_LOCAL', 1), ('CU_STREAM_NON_BLOCKING', 1), ('CUDA_ERROR_OUT_OF_MEMORY', 2),
        ('CUDA_ERROR_STUB_LIBRARY', 34), ('CUDA_ERROR_NO_DEVICE', 100), ('CUDA_ERROR_SYSTEM_NOT_READY', 802),
        ('CUDA_ERROR_SYSTEM_DRIVER_MISMATCH', 803),
    ],
)  # fmt: skip
def test_numbers_of_the_header(name, value):
    found = re.search(rf'\b{name}\s*=\s*(0x[0-9a-f]+|\d+)', header())
    assert found, name
    assert int(found[1], 0) == value
