"""The bench: its rows, its order, its refusals. No time is compared with any other."""

import json

import numpy as np
import pytest

import inference.bench
from calib.for_bench import quantize_for_bench
from inference.bench import Settings, bench
from inference.errors import UserError
from inference.rows import Run
from inference.summary import layer_text

MODEL = 'hetconv_resnet20_cifar_p4'
QUICK = dict(engines=('torch', 'onnxruntime'), rounds=2, turn_ms=1)


@pytest.fixture(scope='module')
def run():
    steps = []
    result = bench(
        [MODEL, 'hetconv_resnet20_cifar_dwc'], Settings(**QUICK),
        progress=lambda what, done, total: steps.append(done / total),
    )  # fmt: skip
    assert steps == sorted(steps)
    assert steps[0] >= 0
    assert steps[-1] < 1
    return result


def test_rows_are_complete(run):
    assert run.settings['complete']
    dense = 'hetconv_resnet20_cifar_p1'
    expected = {(m, e) for m in (dense, MODEL, 'hetconv_resnet20_cifar_dwc') for e in QUICK['engines']}
    assert {(row.model, row.engine) for row in run.rows} == expected
    for row in run.rows:
        assert row.status == 'ok'
        assert row.rounds == 2
        assert row.ms_p20 <= row.ms_median <= row.ms_p80
        assert row.throughput == pytest.approx(1000 / row.ms_median)
        assert row.max_error < 1e-4
        assert row.realised == pytest.approx(row.measured_speedup / row.theory_flops)
    fastest = min((row for row in run.rows if row.model == dense), key=lambda row: row.ms_median)
    assert {row.baseline for row in run.rows} == {fastest.engine}
    assert fastest.measured_speedup == 1


def test_theory_is_the_ratio_of_the_counts(run):
    macs = {row.model: row.macs for row in run.rows}
    for row in run.rows:
        assert row.theory_flops == pytest.approx(macs['hetconv_resnet20_cifar_p1'] / macs[row.model])


def test_layers_are_compared_with_what_the_dense_twin_has_in_their_place():
    settings = Settings(engines=('onnxruntime',), rounds=1, turn_ms=1)
    rows = bench([MODEL, 'hetconv_resnet20_cifar_dwc'], settings, layers=True).layers
    dense, p4, dwc = (
        {row.layer: row for row in rows if row.model == f'hetconv_resnet20_cifar_{kind}'}
        for kind in ('p1', 'p4', 'dwc')
    )
    assert sum(row.count for row in dense.values()) == 19, 'the stem and the 18 convolutions of the blocks'
    assert dense.keys() - p4.keys() == {'stem.0'}
    assert sum(row.count for row in p4.values()) == 18
    assert len({json.dumps(row.shape) for row in p4.values()}) == len(p4) == 5
    assert p4.keys() == dwc.keys()
    for layer, row in p4.items():
        assert dense[layer].theory_flops == 1
        assert row.theory_flops == pytest.approx(3.0)  # 9 / (9/4 + 3/4)
        n = row.shape['out_channels']
        assert dwc[layer].theory_flops == pytest.approx(9 * n / (9 + n))
        assert [r.shape['kind'] for r in (dense[layer], row, dwc[layer])] == ['dense', 'HetConv', 'DWC+PWC']
        assert [layer_text(r).split(', ')[-1] for r in (dense[layer], row, dwc[layer])] == ['P=1', 'P=4', 'DWC+PWC']


def test_int8_is_a_comparison_of_its_own():
    """The engines get networks in INT8, whose results are further from PyTorch's than any in fp32."""
    settings = Settings(engines=('torch', 'onnxruntime'), precisions=('fp32', 'int8'), rounds=1, turn_ms=1)
    rows = bench([MODEL], settings, quantize=quantize_for_bench).rows
    assert [row.precision for row in rows if row.engine == 'torch'] == ['fp32'] * 2  # it has no other
    rows = [row for row in rows if row.engine == 'onnxruntime']
    assert [(row.precision, row.model == MODEL) for row in rows] == [
        ('fp32', False), ('fp32', True), ('int8', False), ('int8', True)
    ]  # fmt: skip
    assert [row.status for row in rows] == ['ok'] * 4
    errors = [row.max_error for row in rows]
    assert max(errors[:2]) < 1e-5 < 1e-3 < min(errors[2:])
    assert [row.measured_speedup for row in rows if row.model != MODEL] == [1, 1]


def test_int8_without_a_way_to_it_is_refused():
    with pytest.raises(ValueError, match='quantize'):
        bench([MODEL], Settings(engines=('onnxruntime',), precisions=('int8',)))


def test_a_run_survives_the_disk(run, tmp_path):
    run.save(tmp_path / 'run.json')
    assert Run.load(tmp_path / 'run.json') == run


def test_ctrl_c_keeps_what_is_done(monkeypatch):
    measure = inference.bench._measure_group
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        measure(*args)

    monkeypatch.setattr(inference.bench, '_measure_group', interrupted)
    saved = []
    result = bench(
        [MODEL, 'hetconv_mobilenet_cifar_p32'], Settings(engines=('torch',), rounds=1, turn_ms=1),
        save=lambda run: saved.append(run.model_copy(deep=True)),
    )  # fmt: skip
    assert not result.settings['complete']
    assert [row.model for row in result.rows] == ['hetconv_resnet20_cifar_p1', MODEL]
    assert saved[-1] == result


def test_a_wrong_result_is_never_timed(monkeypatch):
    """The reference is spoiled for one model: its rows fail, the others are measured, and it is no baseline."""
    write = inference.bench.Subject.write

    def spoiled(self, *args):
        files, samples = write(self, *args)
        if self.dense:
            data = dict(np.load(samples))
            np.savez(samples, x=data['x'], y=data['y'] * 1.01)
        return files, samples

    monkeypatch.setattr(inference.bench.Subject, 'write', spoiled)
    result = bench([MODEL], Settings(engines=('torch',), rounds=1, turn_ms=1))
    dense, p4 = result.rows
    assert dense.status == 'failed'
    assert 'differs from PyTorch by 9.9e-03' in dense.error
    assert dense.ms_median is None
    assert p4.status == 'ok'
    assert p4.baseline is None


def test_what_cannot_be_quantised_is_tried_once():
    calls = []

    def quantize(*args):
        calls.append(args)
        raise RuntimeError('no')

    settings = Settings(engines=('onnxruntime', 'ort-cpu'), precisions=('int8',), rounds=1, turn_ms=1)
    rows = bench([MODEL], settings, quantize=quantize).rows
    assert [row.error for row in rows] == ['RuntimeError: no'] * 4
    assert len(calls) == 2  # a network each


def test_a_model_that_cannot_be_exported_fails_alone(monkeypatch):
    write = inference.bench.Subject.write

    def refuses(self, *args):
        if not self.dense:
            raise RuntimeError('no ONNX for [this]\nand a long story')
        return write(self, *args)

    monkeypatch.setattr(inference.bench.Subject, 'write', refuses)
    dense, p4 = bench([MODEL], Settings(engines=('torch',), rounds=1, turn_ms=1)).rows
    assert dense.status == 'ok'
    assert p4.error == 'RuntimeError: no ONNX for [this]'


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(batches=(1, 0)), 'batch 0 must be at least 1'),
        (dict(precisions=('fp32', 'fp16')), "computes in fp32 here, not in 'fp16'"),
        (dict(rounds=0), 'rounds 0'),
        (dict(threads=(0,)), 'threads 0'),
        (dict(threads=(100000,)), 'the number of cores here'),
        (dict(engines=()), 'no engine is installed'),
        (dict(engines=('tflite',)), 'unknown engine'),
    ],
)
def test_settings_that_cannot_be_measured(kwargs, words):
    with pytest.raises(UserError, match=words):
        bench([MODEL], Settings(**{**QUICK, **kwargs}))
