"""What a row on a GPU carries: figures and bounds, on a GPU that is made up."""

import pytest
from fake_cuda import FakeGpu, FakeLibcuda, installed

import inference.gpu_figures
from inference.bench import Settings, bench
from inference.cuda.monitor import Monitor, Sample
from inference.errors import UserError
from inference.gpu_figures import GpuWatch
from inference.rows import Row, Run
from inference.subjects import model_subjects

P4 = 'hetconv_resnet20_cifar_p4'


@pytest.fixture
def watch(monkeypatch):
    with installed(monkeypatch, FakeLibcuda(FakeGpu(), sm=80)):
        return GpuWatch()


def row(**changes):
    common = dict(model='m', engine='e', lowering='plugin', threads=1, macs=1, params=1, device='cuda')
    return Row(**{**common, 'batch': 64, 'precision': 'fp16', 'ms_median': 2.0, **changes})


def test_figures_and_bounds(watch):
    dense, p4 = model_subjects([P4])[0]
    measured = row()
    watch.fill(measured, [Sample(100, 1000, 1000, 50, ('power cap',)), Sample(300, 1000, 1000, 50)], p4, dense)
    assert measured.gpu.power_w == 200
    assert measured.gpu.throttled == ['power cap']
    assert 1 < measured.theory_roofline <= dense.macs / p4.macs
    assert measured.realised_roofline == pytest.approx(measured.bound_ms / 2)
    half = row()
    watch.fill(half, [Sample(100, 500, 500, 50)], p4, dense)
    assert half.bound_ms == pytest.approx(2 * measured.bound_ms)  # at half of the clocks


def test_the_dense_twin_promises_itself_nothing(watch):
    dense, _ = model_subjects([P4])[0]
    measured = row()
    watch.fill(measured, [], dense, dense)
    assert measured.gpu is None
    assert measured.theory_roofline == 1


@pytest.mark.parametrize('changes', [dict(ms_median=None, status='failed', error='x'), dict(precision='int4')])
def test_no_time_or_no_peak_gives_no_bound(watch, changes, monkeypatch):
    monkeypatch.setattr(inference.gpu_figures, 'peak_of', lambda *_: None)
    dense, p4 = model_subjects([P4])[0]
    measured = row(**changes)
    watch.fill(measured, [], p4, dense)
    assert (measured.bound_ms, measured.theory_roofline, measured.realised_roofline) == (None, None, None)


def test_a_run_says_which_gpu(watch):
    assert watch.environment['sm'] == 80
    assert watch.environment['driver_cuda'] == '13.0'


def test_bench_watches_the_gpu_during_turns(monkeypatch, tmp_path):
    """A CPU's engine that says it is a GPU's: what is new on a GPU is around the workers, not in them."""

    class Watched(Monitor):
        def __enter__(self):
            self.samples.append(Sample(120.0, 1410.0, 1215.0, 55.0))
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(Settings, 'device', property(lambda self: 'cuda'))
    monkeypatch.setattr(inference.gpu_figures, 'Monitor', Watched)
    with installed(monkeypatch, FakeLibcuda(FakeGpu(), sm=80)):
        run = bench([P4], Settings(engines=('torch',), batches=(1, 2), rounds=1, turn_ms=1))
    assert [(row.model, row.batch, row.status) for row in run.rows] == [
        (name, batch, 'ok') for batch in (1, 2) for name in ('hetconv_resnet20_cifar_p1', P4)
    ]
    assert all(row.gpu.power_w == 120 for row in run.rows)
    assert all(row.theory_roofline is not None for row in run.rows)
    assert run.environment['sm'] == 80
    run.save(tmp_path / 'run.json')
    assert Run.load(tmp_path / 'run.json') == run


def test_without_a_gpu_nothing_begins(monkeypatch):
    monkeypatch.setattr(Settings, 'device', property(lambda self: 'cuda'))
    with installed(monkeypatch, None), pytest.raises(UserError, match='no NVIDIA driver'):
        bench([P4], Settings(engines=('torch',), rounds=1))
