"""A failure at every call of the runner, in turn: nothing stays alive, and the next inference is right."""

import contextlib

import numpy as np
import pytest
from fake_cuda import Broken, FakeGpu
from fake_cuda_core import FakeCudaError
from fake_machine import PACKAGES, batch, check_empty
from fake_tensorrt import expected

from inference.cuda.libcuda import CudaError
from inference.errors import UserError


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
