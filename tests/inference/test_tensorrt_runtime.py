"""The runner of TensorRT engines, through both packages' drivers, on a GPU that is not there."""

import contextlib
import hashlib
import inspect
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import Broken, FakeGpu, FakeLibcuda, installed
from fake_cuda_core import FakeCudaError, fake_bindings, fake_cuda_core
from fake_pycuda import fake_pycuda
from fake_tensorrt import SAMPLE, expected, fake_tensorrt

from inference.cuda.libcuda import CudaError
from inference.errors import UserError
from inference.tensorrt.manifest import Manifest, Profile, manifest_path
from inference.tensorrt.runtime import EngineRunner

PACKAGES = ['pycuda', 'cuda-core']
VERSION = '10.13.0.35'


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(...)`: a runner on a fake GPU with a fake TensorRT; `machine.gpu` is the GPU."""
    stack = []

    def make(
        package, plan=b'ptrt whole', profiles=((1, 8),), gpu=None, sm=86, sms=(86,), runner=None, options=None,
        rtx=False, **engine,
    ):  # fmt: skip
        machine.gpu = gpu = gpu or FakeGpu()
        path = tmp_path / 'model.engine'
        path.write_bytes(plan)
        manifest_path(path).write_text(_manifest(plan, profiles, sms, options, rtx).model_dump_json())
        context = installed(
            monkeypatch, FakeLibcuda(gpu, sm=sm), pycuda__driver=fake_pycuda(gpu), cuda__core=fake_cuda_core(gpu),
            cuda__bindings=SimpleNamespace(__version__='13.0.3'), cuda__bindings__driver=fake_bindings(gpu),
            **{
                'tensorrt_rtx' if rtx else 'tensorrt':
                fake_tensorrt(gpu, profiles=profiles, version=VERSION, rtx=rtx, **engine)
            },
        )  # fmt: skip
        stack.append(context)
        context.__enter__()
        return EngineRunner(path, package, **(runner or {}))

    machine = make
    yield make
    for context in reversed(stack):
        context.__exit__(None, None, None)


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


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize('graphs', [(), (1, 8)])
def test_results(machine, package, graphs):
    sizes = (8, 1, 3, 8, 1, 5)
    with machine(package, runner=dict(graphs=graphs)) as runner:
        outputs = [runner.infer(batch(n, seed)) for seed, n in enumerate(sizes)]  # each kept while the next ones run
        for seed, (n, y) in enumerate(zip(sizes, outputs)):
            assert y.dtype == np.float32
            np.testing.assert_array_equal(y, expected(batch(n, seed)))
        assert runner.notes == []
        assert runner.driver.name == package
    launches = [call for call in machine.gpu.calls if call in ('cuGraphLaunch', 'Graph.launch')]
    assert len(launches) == (4 if graphs else 0)
    check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize(('kind', 'out'), [('FLOAT', np.float32), ('HALF', np.float32), ('INT32', np.int32)])
def test_types_are_those_of_the_engine(machine, package, kind, out):
    with machine(package, kind=kind, sample=(3, 2, 2)) as runner:
        x = np.ones((2, 3, 2, 2), np.int32 if kind == 'INT32' else np.float32)
        y = runner.infer(x)
    assert y.dtype == out
    np.testing.assert_array_equal(y, expected(x))


def test_any_layout_of_the_input(machine):
    with machine('pycuda') as runner:
        x = np.asfortranarray(batch(4))[::2]
        np.testing.assert_array_equal(runner.infer(x), expected(x))
        with pytest.raises(TypeError, match='Cannot cast'):
            runner.infer(batch(4).astype(np.complex64))


@pytest.mark.parametrize('package', PACKAGES)
def test_tensorrt_rtx_compiles_for_a_shape_before_it_runs(machine, package):
    with machine(package, rtx=True, runner=dict(contexts=2, graphs=(1,))) as runner:
        for n in (1, 5):
            np.testing.assert_array_equal(runner.infer(batch(n)), expected(batch(n)))
    assert machine.gpu.calls.count('create_runtime_config') == 4
    check_empty(machine.gpu)


def test_only_an_engine_that_brings_code_may_run_it(machine):
    plan = b'ptrt host code whole'
    with machine('pycuda', plan=plan, options={'version_compatible': True}) as runner:
        runner.infer(batch(1))
    with pytest.raises(UserError, match='host code is not allowed'), machine('pycuda', plan=plan):
        pass


def test_words_of_tensorrt_are_said_once(machine):
    with machine('pycuda', recordable=False, runner=dict(graphs=(1, 8))) as runner:
        assert runner.notes[1].count('a layer cannot be recorded') == 1
        lane = runner._lanes[0]
        assert lane._words() == 'it does not say why'


@pytest.mark.parametrize('package', PACKAGES)
def test_the_tightest_profile_runs(machine, package):
    with machine(package, profiles=((1, 64), (1, 1), (4, 8)), runner=dict(graphs=(1, 8, 64))) as runner:
        for n in (1, 2, 5, 8, 9, 64):
            np.testing.assert_array_equal(runner.infer(batch(n, n)), expected(batch(n, n)))
        profile = runner._signature.profile
        assert [profile({'x': (n, *SAMPLE)}) for n in (1, 2, 4, 8, 9)] == [1, 0, 2, 2, 0]
    check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize('graphs', [(), (4,)])
def test_time_is_the_gpus_own(machine, package, graphs):
    with machine(package, runner=dict(graphs=graphs)) as runner:
        assert runner.time(batch(4), 3) == [4.0, 4.0, 4.0]  # the fake's kernel takes a millisecond a sample
        before = list(machine.gpu.calls)
        runner.time(batch(4), 2)
        copies = [call for call in machine.gpu.calls[len(before) :] if 'cpy' in call]
        assert len(copies) == 1, 'the input is copied once, and outside of the time'
    check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
def test_profile_of_layers(machine, package):
    with machine(package, runner=dict(graphs=(4,))) as runner:
        assert runner.profile(batch(4), 3) == {'first': [0.5] * 3, 'second': [1.5] * 3}
        np.testing.assert_allclose(runner.infer(batch(4)), expected(batch(4)), rtol=1e-5)  # the graph is as it was
    check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
def test_everything_is_released_in_order(machine, package):
    with machine(package, runner=dict(contexts=2, graphs=(1, 2))) as runner:
        runner.time(batch(1), 1)
        gpu, before = machine.gpu, len(machine.gpu.released)
    kinds = list(dict.fromkeys(gpu.released[before:]))  # of the last lane, as they come first
    for first, second in [
        ('graph', 'execution context'), ('execution context', 'memory'), ('memory', 'stream'), ('stream', 'engine'),
        ('pinned', 'stream'), ('engine', 'runtime'),
    ]:  # fmt: skip
        assert kinds.index(first) < kinds.index(second)
    if package == 'pycuda':
        assert gpu.released[-1] == 'context'
    check_empty(gpu)


def scenario(runner):
    with runner:
        runner.infer(batch(8))
        runner.infer(batch(3))
        runner.time(batch(8), 1)
        runner.profile(batch(3), 1)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, told from a real one."""


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize('error', [Broken, Interrupted])
def test_a_failure_at_any_call_leaves_nothing_behind(machine, package, error):
    runner = machine(package, runner=dict(contexts=2, graphs=(8,)))
    scenario(runner)
    total, swallowed = len(machine.gpu.calls), set()
    assert total > 100
    for k in range(total):
        gpu = FakeGpu()
        gpu.fail_at, gpu.error = k, error
        runner = machine(package, gpu=gpu, runner=dict(contexts=2, graphs=(8,)))
        try:
            scenario(runner)
        except (Broken, Interrupted, CudaError, FakeCudaError):
            # Here, where the traceback still holds every frame. Without a context nothing can be freed.
            if gpu.calls[k] not in ('Context.push', 'Device.set_current'):
                check_empty(gpu)
        else:
            swallowed.add(gpu.calls[k])
            check_empty(gpu)
        assert len(gpu.calls) > k
        np.testing.assert_array_equal(runner._idle, [])
        with pytest.raises(RuntimeError, match='is not open'):
            runner.infer(batch(1))
    # A batch without its graph runs all the same, and the last wait has nothing left to wait for.
    allowed = {
        'cuStreamBeginCapture', 'cuStreamEndCapture', 'cuGraphInstantiate', 'cuGraphDestroy', 'execute_async_v3',
        'Stream.create_graph_builder', 'GraphBuilder.begin_building', 'GraphBuilder.end_building',
        'GraphBuilder.complete', 'GraphBuilder.close', 'Stream.synchronize', 'Stream.sync',
    }  # fmt: skip
    assert swallowed <= allowed


@pytest.mark.parametrize('package', PACKAGES)
def test_after_a_failed_inference_the_next_is_right(machine, package):
    with machine(package) as runner:
        gpu = machine.gpu
        runner.infer(batch(8))
        start = len(gpu.calls)
        runner.infer(batch(8))
        calls = len(gpu.calls) - start
        for k in range(calls):
            gpu.fail_at = len(gpu.calls) + k
            with contextlib.suppress(Broken):
                runner.infer(batch(8, 1))
            gpu.fail_at = None
            np.testing.assert_array_equal(runner.infer(batch(5, k)), expected(batch(5, k)))
    check_empty(gpu)


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize('contexts', [1, 3])
def test_many_threads(machine, package, contexts):
    with machine(package, runner=dict(contexts=contexts, graphs=(1, 8))) as runner:
        machine.gpu.patience = 1e-3
        wrong = in_threads(runner, threads=8, times=15)
        assert wrong == []
    check_empty(machine.gpu)


def in_threads(runner, threads, times):
    """Inferences of many sizes on many threads; what went wrong."""
    wrong = []

    def work(thread):
        for time in range(times):
            x = batch(1 + (thread + time) % 8, 100 * thread + time)
            try:
                if not np.array_equal(runner.infer(x), expected(x)):
                    wrong.append((thread, time))
            except Exception as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong


@pytest.mark.parametrize('package', PACKAGES)
def test_the_fake_shows_a_missing_wait(machine, package):
    with machine(package) as runner:
        runner.infer(batch(2))
        machine.gpu.sabotage.add('no wait')
        assert not np.array_equal(runner.infer(batch(2, 1)), expected(batch(2, 1)))
        machine.gpu.sabotage.clear()


@pytest.mark.parametrize('package', PACKAGES)
@pytest.mark.parametrize('part', ['_scratch', '_device', '_host'])
def test_the_fake_shows_memory_that_two_streams_share(machine, package, part):
    with machine(package, runner=dict(contexts=3)) as runner:
        for lane in runner._lanes[1:]:
            setattr(lane, part, getattr(runner._lanes[0], part))
            with runner.driver.current():
                lane._dynamic[0].context.it.set_device_memory(lane._scratch.address, lane._scratch_size)
                lane._set_addresses(lane._dynamic[0].context)
        machine.gpu.patience = 1e-3
        assert in_threads(runner, threads=8, times=15) != []


@pytest.mark.parametrize('package', PACKAGES)
def test_close_waits_for_what_runs_and_refuses_what_waits(machine, package):
    runner = machine(package)
    runner.open()
    inside, go_on, told = threading.Event(), threading.Event(), []
    lane = runner._lanes[0]
    run = lane.run

    def slow(feeds):
        inside.set()
        assert go_on.wait(10)
        return run(feeds)

    lane.run = slow
    results = []
    first = threading.Thread(target=lambda: results.append(runner.infer(batch(2))))
    first.start()
    assert inside.wait(10)

    def second():
        try:
            runner.infer(batch(2))
        except RuntimeError as error:
            told.append(str(error))

    waiting, closing = threading.Thread(target=second), threading.Thread(target=runner.close)
    waiting.start()
    closing.start()
    waiting.join(10)
    assert 'is not open' in told[0]
    assert closing.is_alive()
    go_on.set()
    first.join(10)
    closing.join(10)
    np.testing.assert_array_equal(results[0], expected(batch(2)))
    check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
def test_it_can_be_opened_again_and_closed_on_another_thread(machine, package):
    runner = machine(package)
    for _ in range(2):
        runner.open()
        with pytest.raises(RuntimeError, match='is open already'):
            runner.open()
        np.testing.assert_array_equal(runner.infer(batch(2)), expected(batch(2)))
        closing = threading.Thread(target=runner.close)
        closing.start()
        closing.join()
        runner.close()
        check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
def test_a_batch_that_cannot_be_recorded_runs_without_a_graph(machine, package):
    with machine(package, recordable=False, runner=dict(contexts=2, graphs=(1, 8))) as runner:
        assert [note.split(':')[0] for note in runner.notes] == [
            'batch 1 runs without a CUDA graph', 'batch 8 runs without a CUDA graph',
        ]  # fmt: skip
        assert 'a layer cannot be recorded' in runner.notes[0]
        np.testing.assert_array_equal(runner.infer(batch(8)), expected(batch(8)))
    assert 'cuGraphLaunch' not in machine.gpu.calls
    check_empty(machine.gpu)


@pytest.mark.parametrize('n', [0, 9, 100])
def test_batch_outside_the_profiles(machine, n):
    with machine('pycuda', profiles=((1, 1), (4, 8))) as runner:
        with pytest.raises(
            UserError,
            match=rf'does not take x {n}×3×4×5; it takes x 1×3×4×5, x 4×3×4×5 to 8×3×4×5: build with --batch that',
        ):
            runner.infer(batch(n))
        with pytest.raises(UserError, match='does not take x 1×3×5×4'):
            runner.infer(np.zeros((1, 3, 5, 4), np.float32))
        with pytest.raises(UserError, match='has the inputs x, not image'):
            runner.run({'image': batch(1)})
        np.testing.assert_array_equal(runner.infer(batch(8)), expected(batch(8)))
    check_empty(machine.gpu)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(plan=b'ptrt cut'), r'model.engine cannot be loaded: the plan is broken'),
        (dict(plan=b'PK\x03\x04'), r'is no TensorRT engine'),
        (dict(sm=89), r'is built for SM 86, this GPU is SM 89: build'),
        (dict(runner=dict(graphs=(9,))), r'does not take x 9×3×4×5'),
        (dict(runner=dict(index=1)), r'there is no GPU 1: the driver finds 1'),
        (dict(kind='BF16'), r'tensor x of the engine has the type BF16'),
    ],
)
@pytest.mark.parametrize('package', PACKAGES)
def test_what_cannot_be_loaded(machine, package, settings, message):
    runner = machine(package, **settings)
    with pytest.raises(UserError, match=message) as caught, runner:
        pass
    assert '\n' not in str(caught.value)
    check_empty(machine.gpu)


@pytest.mark.parametrize('package', PACKAGES)
def test_out_of_memory(machine, package):
    gpu = FakeGpu(memory=2 << 20)
    runner = machine(package, gpu=gpu, profiles=((1, 16384),))
    with pytest.raises(
        UserError, match=r'out of memory on NVIDIA Fake 3090 \(2 MiB of 2 MiB free; take a smaller'
    ) as e:
        runner.open()
    assert '\n' not in str(e.value)
    check_empty(gpu)
    runner = machine(package, gpu=FakeGpu())
    machine.gpu.sabotage.add('no context')
    with pytest.raises(UserError, match=r'makes no execution context: OutOfMemory \(Requested size was 77\)'):
        runner.open()
    check_empty(machine.gpu)


def test_contexts_are_one_or_more():
    with pytest.raises(UserError, match='one context or more, not in 0'):
        EngineRunner('model.engine', contexts=0)


def test_before_and_after(machine):
    runner = machine('pycuda')
    for _ in range(2):
        for use in (runner.infer, lambda x: runner.run({'x': x}), lambda x: runner.time(x, 1)):
            with pytest.raises(RuntimeError, match=r'model.engine is not open: use it inside `with EngineRunner'):
                use(batch(1))
        with runner:
            pass


def test_the_fake_has_only_what_tensorrt_has():
    """Held against TensorRT-RTX, which has the same API and can be imported without a GPU."""
    trt = pytest.importorskip('tensorrt_rtx')
    fake = fake_tensorrt(FakeGpu(), rtx=True)
    for cls in (fake.Runtime, fake.IRuntimeConfig, fake.ICudaEngine, fake.IExecutionContext, fake.IProfiler):
        real = getattr(
            trt, {'Engine': 'ICudaEngine', 'ExecutionContext': 'IExecutionContext'}.get(cls.__name__, cls.__name__)
        )
        for name, function in vars(cls).items():
            if name.startswith('_'):
                continue
            assert hasattr(real, name), f'{real.__name__} has no {name}'
            if callable(function):
                said = getattr(real, name).__doc__
                for parameter in list(inspect.signature(function).parameters)[1:]:
                    assert f'{parameter}: ' in said, f'{name} takes no {parameter}'
    for enumeration in (
        fake.DynamicShapesKernelSpecializationStrategy,
        fake.TensorIOMode,
        fake.DataType,
        fake.ExecutionContextAllocationStrategy,
    ):
        real = getattr(trt, enumeration.__name__)
        assert {member.name for member in enumeration} <= set(dir(real))
    assert hasattr(trt.Runtime, 'engine_host_code_allowed')
    assert hasattr(trt.IExecutionContext, 'profiler')
    assert hasattr(trt.ExecutionContextAllocationStrategy, 'USER_MANAGED')
