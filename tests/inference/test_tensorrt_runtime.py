"""The runner of TensorRT engines, through both packages' drivers, on a GPU that is not there."""

import inspect

import numpy as np
import pytest
from fake_cuda import FakeGpu
from fake_machine import PACKAGES, batch, check_empty
from fake_tensorrt import SAMPLE, expected, fake_tensorrt

from inference.errors import UserError
from inference.tensorrt.runtime import EngineRunner


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
