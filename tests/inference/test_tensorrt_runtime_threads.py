"""The runner on many threads at once, and closed while they run."""

import threading

import numpy as np
import pytest
from fake_machine import PACKAGES, batch, check_empty
from fake_tensorrt import expected


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
