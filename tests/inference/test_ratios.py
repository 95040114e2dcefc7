"""The ratios of a row, worked out by hand."""

import pytest

from inference.ratios import fill_ratios
from inference.rows import Row


def row(engine, ms, model='p4', **kwargs):
    return Row(
        model=model, engine=engine, lowering='portable', batch=1, threads=1, macs=1, params=1, ms_median=ms, **kwargs
    )


@pytest.fixture
def dense():
    return [
        row('ort', 80.0, 'p1'),
        row('openvino', 76.0, 'p1'),
        row('mnn', 46.0, 'p1', winograd=True),
        row('ours', 40.0, 'p1', winograd=True, own=True),
    ]


def test_baselines(dense):
    fast = row('ours', 20.0, winograd=True, own=True)
    fill_ratios([fast], dense, theory_flops=2.8, theory_minimal=1.7)
    assert (fast.baseline, fast.baseline_direct) == ('mnn', 'openvino')
    assert fast.measured_speedup == pytest.approx(46 / 20)
    assert fast.measured_speedup_direct == pytest.approx(76 / 20)
    assert fast.measured_speedup_any == pytest.approx(40 / 20)
    assert fast.realised == pytest.approx(46 / 20 / 2.8)
    assert fast.realised_minimal == pytest.approx(40 / 20 / 1.7)


def test_the_dense_twin_is_measured_by_the_same_rule(dense):
    fill_ratios(dense, dense, 1.0, 1.0)
    assert [r.measured_speedup for r in dense] == pytest.approx([46 / 80, 46 / 76, 1, 46 / 40])
    assert dense[2].realised == 1


def test_failed_rows_are_no_baseline_and_have_no_ratio(dense):
    dense[2].ms_median, dense[2].status = None, 'failed'
    dense[3].ms_median, dense[3].status = None, 'failed'
    lost = row('mnn', None, status='failed')
    fast = row('ort', 38.0)
    fill_ratios([lost, fast], dense, 2.8, 1.7)
    assert fast.baseline == 'openvino'
    assert lost.measured_speedup is lost.realised is lost.realised_minimal is None
    assert lost.theory_flops == 2.8


def test_without_a_dense_row_there_is_theory_only():
    alone = row('ort', 38.0)
    fill_ratios([alone], [row('ort', None, 'p1', status='failed')], 2.8, 1.7)
    assert alone.theory_flops == 2.8
    assert alone.measured_speedup is alone.measured_speedup_direct is alone.baseline is None


def test_without_a_direct_engine_there_is_no_direct_speedup(dense):
    fast = row('mnn', 23.0)
    fill_ratios([fast], dense[2:3], 2.8, 1.7)
    assert fast.measured_speedup == 2
    assert fast.measured_speedup_direct is None
