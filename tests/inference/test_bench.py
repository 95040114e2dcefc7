"""The bench: its workers, its order, its refusals. No time is compared with any other."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import inference.bench
import timm_hetconv
from calib.for_bench import quantize_for_bench
from inference.bench import Condition, Settings, bench
from inference.engines import ModelFiles
from inference.errors import UserError
from inference.models import create_model, dense_twin, weights_text
from inference.rows import Run
from inference.subjects import layer_subjects, model_subjects
from inference.summary import layer_text
from inference.worker import compare
from inference.worker_process import WorkerError, WorkerProcess, spread

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


def test_an_error_with_brackets_shows_in_the_table(capsys):
    from inference.rows import Row
    from inference.show import show_run

    row = Row(
        model='m', engine='e', lowering='portable', batch=1, threads=1, macs=1, params=1, status='failed',
        error='cannot load [/usr/lib/x.so]',
    )  # fmt: skip
    show_run(Run(created='now', environment={}, settings={'complete': True}, rows=[row]))
    assert 'm on e failed: cannot load [/usr/lib/x.so]' in capsys.readouterr().out


def test_a_narrow_terminal_shows_whole_names_and_the_main_figures(monkeypatch, capsys):
    from synthetic_runs import make_rows, make_run

    from inference.show import show_run

    for columns, shown in (('80', 0), ('160', 1)):
        monkeypatch.setenv('COLUMNS', columns)
        monkeypatch.setenv('TTY_COMPATIBLE', '1')  # rich takes the output for a terminal
        show_run(make_run(make_rows(arch='resnet20_cifar')))
        lines = [line for line in capsys.readouterr().out.splitlines() if 'torch-compile' in line or 'openvino' in line]
        table = [line for line in lines if 'over the fastest' not in line]
        assert table
        assert all('resnet20_cifar_p' in line for line in table)
        assert all(('–' in line) == bool(shown) for line in table)
        assert all(len(line) <= int(columns) for line in table)


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


@pytest.mark.parametrize(
    ('models', 'checkpoint', 'words'),
    [
        ([], None, 'no model given'),
        (['hetconv_resnet34_p5'], None, 'unknown model .hetconv_resnet34_p5.; did you mean hetconv_resnet34_p'),
        (
            ['hetconv_resnet34_p4.pth'],
            None,
            'unknown model .hetconv_resnet34_p4.pth.; did you mean hetconv_resnet34_p4',
        ),
        (['hetconv_resnet3_p4'], None, 'unknown model .hetconv_resnet3_p4.'),
        ([MODEL, 'hetconv_resnet20_cifar_p8'], Path('x.pth'), 'exactly one model, not 2'),
        ([MODEL], Path('missing.pth'), 'missing.pth: no such checkpoint file'),
    ],
)
def test_models_that_cannot_be_measured(models, checkpoint, words):
    with pytest.raises(UserError, match=words):
        model_subjects(models, checkpoint)


def test_checkpoints(tmp_path):
    model = create_model(MODEL)
    good, other, cut = tmp_path / 'good.pth', tmp_path / 'other.pth', tmp_path / 'cut.pth'
    torch.save({'state_dict': model.state_dict()}, good)
    torch.save(create_model('hetconv_resnet20_cifar_p8').state_dict(), other)
    cut.write_bytes(good.read_bytes()[:5000])
    loaded = create_model(MODEL, good)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    with pytest.raises(UserError, match=f'not a checkpoint of {MODEL}: 0 weights missing, 0 unknown, 18 of another'):
        create_model(MODEL, other)
    with pytest.raises(UserError, match='damaged'):
        create_model(MODEL, cut)
    dense = tmp_path / 'dense.pth'
    torch.save(create_model('hetconv_resnet20_cifar_p1').state_dict(), dense)
    with pytest.raises(UserError, match='a dense network becomes HetConv'):
        create_model(MODEL, dense)


def test_a_checkpoint_brings_its_own_classes_and_channels(tmp_path):
    import timm

    from inference.export import export_model, metadata, verify

    trained = timm.create_model(MODEL, num_classes=7, in_chans=1)
    torch.save({'state_dict': trained.state_dict()}, tmp_path / 'grey.pth')
    model = create_model(MODEL, tmp_path / 'grey.pth')
    proto = export_model(model)
    assert metadata(proto)['num_classes'] == 7
    assert metadata(proto)['input_size'] == [1, 32, 32]
    assert verify(proto, model) < 1e-4


def test_a_checkpoint_brings_what_its_images_were_prepared_with(tmp_path):
    import argparse

    import timm

    from inference.export import export_model, metadata

    arguments = argparse.Namespace(
        model=MODEL, mean=[0.25], std=[0.5, 0.6, 0.7], interpolation='bilinear', img_size=40, gp='max',
        model_kwargs={'act_layer': 'silu'},
    )  # fmt: skip
    trained = timm.create_model(MODEL, global_pool='max', act_layer='silu', num_classes=3).eval()
    worse = timm.create_model(MODEL, num_classes=3).state_dict()
    torch.save(
        {'state_dict': worse, 'state_dict_ema': trained.state_dict(), 'args': arguments}, tmp_path / 'trained.pth.tar'
    )
    x = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(create_model(MODEL, tmp_path / 'trained.pth.tar')(x), trained(x))
    info = metadata(
        export_model(
            create_model(MODEL, tmp_path / 'trained.pth.tar'), weights=weights_text(MODEL, tmp_path / 'trained.pth.tar')
        )
    )
    assert info['mean'] == [0.25] * 3
    assert info['std'] == [0.5, 0.6, 0.7]
    assert info['interpolation'] == 'bilinear'
    assert info['input_size'] == [3, 40, 40]
    assert info['weights'] == 'trained.pth.tar (EMA)'
    assert info['part'] == [4]
    assert info['hetconv_layers'] == 18


def test_a_checkpoint_of_a_model_with_the_same_weights_is_refused(tmp_path):
    """The ImageNet and the CIFAR MobileNet have equal shapes and differ in the stride of their first convolution."""
    import argparse

    state = create_model('hetconv_mobilenet_cifar_p32').state_dict()
    arguments = argparse.Namespace(model='hetconv_mobilenet_cifar_p32')
    torch.save({'state_dict': state, 'args': arguments}, tmp_path / 'cifar.pth.tar')
    create_model('hetconv_mobilenet_cifar_p32', tmp_path / 'cifar.pth.tar')
    with pytest.raises(UserError, match='is a checkpoint of hetconv_mobilenet_cifar_p32, not of hetconv_mobilenet_p32'):
        create_model('hetconv_mobilenet_p32', tmp_path / 'cifar.pth.tar')


def test_the_dense_twin_of_a_checkpoint_does_the_same_job(tmp_path):
    import argparse

    import timm

    trained = timm.create_model(MODEL, num_classes=7, in_chans=1)
    arguments = argparse.Namespace(model=MODEL, input_size=[1, 28, 28])
    torch.save({'state_dict': trained.state_dict(), 'args': arguments}, tmp_path / 'grey.pth.tar')
    ((dense, p4),) = model_subjects([MODEL], tmp_path / 'grey.pth.tar')
    assert dense.input_size == p4.input_size == (1, 28, 28)
    assert dense.model.num_classes == p4.model.num_classes == 7
    assert dense.macs / p4.macs == pytest.approx(3, rel=0.03)
    assert not torch.equal(dense.model.stem[0].weight, p4.model.stem[0].weight)


@pytest.mark.parametrize(
    ('name', 'twin'),
    [
        ('hetconv_resnet34_p4', 'hetconv_resnet34_p1'),
        ('hetconv_vgg16_cifar_gwc4_se', 'hetconv_vgg16_cifar_p1_se'),
        ('hetconv_mobilenet_dwc', 'hetconv_mobilenet_p1'),
        ('resnet34', 'resnet34'),
    ],
)
def test_dense_twin(name, twin):
    assert dense_twin(name) == twin


def test_random_weights_are_the_same_every_time_and_no_identity():
    a, b = create_model(MODEL), create_model(MODEL)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    norms = [m for m in a.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.weight.min() > 0 and m.running_mean.abs().max() > 0 for m in norms)


def test_layer_subjects_are_the_layers_of_the_models():
    """Their costs, times how many there are, and the classifier's make the model's."""
    groups = model_subjects([MODEL, 'hetconv_resnet20_cifar_gwc4', 'hetconv_mobilenet_cifar_dwc'])
    layers = layer_subjects(groups)
    for subject in (subject for group in groups for subject in group):
        alike = [layer for group in layers for layer in group if layer.name == subject.name]
        total = sum(layer.macs * layer.layer.count for layer in alike)
        stem = 0 if subject.dense else timm_hetconv.count(subject.model).layers[0].macs
        assert total + stem + subject.model.num_features * 10 == subject.macs


def test_a_layer_that_is_the_same_everywhere_is_measured_once():
    stem, *_ = layer_subjects(model_subjects(['hetconv_resnet34_p4', 'hetconv_resnet34_p8']))
    assert [subject.name for subject in stem] == ['hetconv_resnet34_p1']


def test_compare():
    expected = np.array([[1.0, -2.0]], np.float32)
    assert compare(expected + 1e-3, expected) == pytest.approx(5e-4, rel=1e-2)
    for output, words in [
        (expected * 1.01, 'differs'),
        (expected * np.nan, 'not finite'),
        (expected[0], 'shape'),
    ]:
        with pytest.raises(ValueError, match=words):
            compare(output, expected)
    with pytest.raises(ValueError, match="PyTorch's own output is not finite"):
        compare(expected, expected * np.nan)


@pytest.mark.parametrize(
    ('siblings', 'order'),
    [
        ({0: '0', 1: '1', 2: '2', 3: '3'}, [0, 1, 2, 3]),
        ({0: '0-1', 1: '0-1', 2: '2-3', 3: '2-3'}, [0, 2, 1, 3]),
        ({4: '0,4', 5: '1,5', 6: '2,6', 2: '2,6'}, [2, 4, 5, 6]),
    ],
)
def test_hyper_threads_of_one_core_come_last(siblings, order):
    assert spread(sorted(siblings), siblings.__getitem__) == order


@pytest.fixture
def worker():
    process = WorkerProcess(threads=1)
    yield process
    process.close()


def test_worker_reports_an_error_in_one_line_and_lives(worker, tmp_path):
    files = ModelFiles(*(tmp_path / name for name in 'abc'))
    for _ in range(2):
        with pytest.raises(WorkerError, match='FileNotFoundError') as caught:
            worker.activate('torch', files, Condition(1), tmp_path / 'none.npz')
        assert '\n' not in str(caught.value)


def test_worker_that_dies_says_how(worker):
    os.write(worker._errors.fileno(), b'\xff not UTF-8\n')
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match='killed by SIGKILL'):
        worker.time(1)


def test_a_worker_that_hangs_is_ended(monkeypatch):
    process = WorkerProcess(threads=1, timeout=0.5)
    monkeypatch.setattr(process, '_signal', lambda number: None if number == signal.SIGCONT else forward(number))
    forward = functools.partial(WorkerProcess._signal, process)
    try:
        forward(signal.SIGSTOP)  # and nothing wakes it up: an engine that never answers
        with pytest.raises(WorkerError, match='gave no answer in'):
            process.time(1)
        assert process._process.wait(20) == -signal.SIGKILL
    finally:
        process.close()


def wait_until(condition, otherwise):
    """Signals arrive when the kernel gets to it."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc and asks the kernel for a death signal')
def test_worker_is_stopped_between_turns_and_dies_with_its_parent(tmp_path):
    code = (
        'import time\n'
        'from inference.worker_process import WorkerError, WorkerProcess\n'
        'from inference.bench import Condition\n'
        'from inference.engines import ModelFiles\n'
        'w = WorkerProcess(1)\n'
        'try: w.activate("torch", ModelFiles(*"abc"), Condition(1), "none.npz")\n'
        'except WorkerError: print(w._process.pid, flush=True)\n'
        'time.sleep(60)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    status = Path(f'/proc/{pid}/status')
    wait_until(lambda: 'T (stopped)' in status.read_text(), 'the worker was not stopped')
    parent.kill()
    parent.wait()
    wait_until(lambda: not status.exists() or 'Z (zombie)' in status.read_text(), 'the worker outlived its parent')
