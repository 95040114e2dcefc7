"""`hetconv build` for TensorRT-RTX: what it writes and prints, its exit codes, and that a mistake costs one line."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from needs import needs_rtx

from inference import cli
from inference.export import save_model
from inference.tensorrt.manifest import check

SMALL = 'hetconv_resnet20_cifar_p4'
RTX = ('--engine', 'tensorrt-rtx')
pytestmark = needs_rtx


@pytest.fixture
def hetconv(tmp_path, monkeypatch, capsys, exported):
    """The command, in this process and in a folder with an exported model."""
    monkeypatch.chdir(tmp_path)
    save_model(exported(SMALL)[1], tmp_path / 'model.onnx')

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['hetconv', *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_build_and_info(hetconv, tmp_path):
    code, output, errors = hetconv('build', 'model.onnx', '-o', 'm.engine', *RTX)
    assert code == 0, errors
    assert re.fullmatch(
        r'm.engine: model.onnx for tensorrt-rtx \S+, SM 80, 86, 89, 120\b.*, 1.\d MB, fp16, standard operators only, '
        r'batch 1 to 64, graph within [1-9]e-04 of the exported model\n',
        output,
    )
    manifest = check('m.engine', sm=86, batch=64)
    assert manifest.model['architecture'] == SMALL
    assert manifest.model['mean'] == [0.4914, 0.4822, 0.4465]
    assert manifest.network['CONVOLUTION'] == 37
    assert 1e-5 < manifest.graph_error < 1e-3
    code, output, _ = hetconv('info', 'm.engine', '--layers')
    assert code == 0
    assert re.match(r'm.engine: hetconv_resnet20_cifar_p4 for tensorrt-rtx \S+, whole, 1.\d MB\n', output)
    assert re.search(r'^batch: +1 to 64, best 8$', output, re.MULTILINE)
    assert 'macs: 13,812,352' in output
    assert 'correlation' in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ['m.engine', 'm.engine.json', 'model.onnx']


def test_every_option(hetconv):
    code, output, errors = hetconv(
        'build', SMALL, '-o', 'm.engine', *RTX, '--precision', 'bf16', '--sm', 120, '--sm', 86, '--batch', '2,4,8',
        '--batch', 1, '--optimization-level', 2, '--weight-streaming', '--lowering', 'portable',
    )  # fmt: skip
    assert code == 0, errors
    assert ', SM 86, 120, ' in output
    assert ', bf16, ' in output
    assert 'batch 2 to 8, 1, graph within' in output
    manifest = json.loads(Path('m.engine.json').read_text())
    assert manifest['profiles'] == [{'min': 2, 'opt': 4, 'max': 8}, {'min': 1, 'opt': 1, 'max': 1}]
    assert manifest['options']['optimization_level'] == 2
    assert manifest['options']['weight_streaming']
    assert manifest['model']['weights'] == 'random'


def large_weight(proto):
    """A weight that fp16 does not hold."""
    weight = next(i for i in proto.graph.initializer if i.name == 'fc.bias')
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(10, 1e5, np.float32), 'fc.bias'))


def large_value(proto):
    """Weights that fp16 holds, and a sum of them that it does not."""
    for name, value in (('fc.weight', 60000), ('fc.bias', 60000)):
        weight = next(i for i in proto.graph.initializer if i.name == name)
        values = np.full_like(onnx.numpy_helper.to_array(weight), value)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, name))


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['model.onnx', '-o', 'm.onnx', *RTX], 'm.onnx must end in .engine'),
        (['model.onnx', '-o', 'm.engine'], 'm.engine must end in .onnx'),
        (['model.onnx', '-o', 'm.engine', '--engine', 'openvino'], 'unknown engine to build for'),
        (['model.onnx', '-o', 'm.engine', '--engine', 'tensort-rtx'], 'did you mean tensorrt-rtx?'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--sm', '8.6'], "Invalid value for '--sm'"),
        (['model.onnx', '-o', 'm.engine', *RTX, '--sm', '999'], 'not for 999'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--nosuch'], 'No such option'),
        (['model.onnx'], "Missing option '--output'"),
        (['other.engine', '-o', 'm.engine', *RTX], 'other.engine is a result of `hetconv build`'),
        (['empty.onnx', '-o', 'm.engine', *RTX], 'empty.onnx is empty'),
        ([SMALL, '-o', 'm.engine', *RTX, '--checkpoint', 'none.pth'], 'none.pth: no such checkpoint file'),
        (['model.onnx', '-o', 'none/m.engine', *RTX], 'does not exist'),
        (
            ['model.onnx', '-o', 'm.engine', *RTX, '--precision', 'int8'],
            'INT8 is in the file: `hetconv calibrate --preset tensorrt`',
        ),
        (['model.onnx', '-o', 'm.engine', *RTX, '--precision', 'fp8'], 'unknown precision'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--lowering', 'plugin'], 'TensorRT-RTX has no plugins'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--sm', '90'], 'not for 90'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--batch', 'many'], "--batch 'many' is not"),
        (['model.onnx', '-o', 'm.engine', *RTX, '--batch', '8,1,64'], 'and not 8,1,64'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--batch', '1,2'], 'and not 1,2'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--batch', '0'], 'and not 0,0,0'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--optimization-level', '9'], 'not one of 0 to 5'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--timing-cache', 'c'], 'has no --timing-cache'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--timing-cache', 'none/c'], 'none does not exist'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--version-compatible'], 'has no --version-compatible'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--hardware-compatible', 'same-sm'], 'has no --hardware-compatible'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--tune'], '--tune is for --engine ort-cpu'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--threads', '2'], '--threads is for --engine ort-cpu'),
        (['model.onnx', '-o', 'm.engine', *RTX, '--checkpoint', 'text.onnx'], 'has its weights already'),
        (
            ['model.onnx', '-o', 'm.onnx', '--precision', 'fp16'],
            '--precision is for --engine tensorrt and tensorrt-rtx',
        ),
        (['model.onnx', '-o', 'm.onnx', '--batch', '8'], '--batch is for --engine tensorrt'),
        (['model.onnx', '-o', 'm.onnx', '--sm', '86'], '--sm is for --engine tensorrt'),
        (['model.onnx', '-o', 'm.onnx', '--refit'], '--refit is for --engine tensorrt'),
        (['model.onnx', '-o', 'm.onnx', '--timing-cache', 'c'], '--timing-cache is for --engine tensorrt'),
        (['text.onnx', '-o', 'm.engine', *RTX], 'text.onnx is damaged or no ONNX file'),
        (['large_weight.onnx', '-o', 'm.engine', *RTX], 'fc.bias has values up to 1e+05, beyond the 6.55e+04 of fp16'),
        (['large_value.onnx', '-o', 'm.engine', *RTX], 'in fp16 the graph differs from the exported model by inf'),
        (['model.onnx', '-o', 'folder.engine', *RTX], 'folder.engine.json is a folder'),
        (['resnet3', '-o', 'm.engine', *RTX], 'unknown model'),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(args, words, hetconv, tmp_path, exported):
    (tmp_path / 'text.onnx').write_text('no model')
    (tmp_path / 'empty.onnx').touch()
    (tmp_path / 'folder.engine.json').mkdir()
    for change in (large_weight, large_value):
        proto = onnx.ModelProto()
        proto.CopyFrom(exported(SMALL)[1])
        change(proto)
        onnx.save(proto, tmp_path / f'{change.__name__}.onnx')
    given = sorted(tmp_path.iterdir())
    code, output, errors = hetconv('build', *args)
    assert code == 2
    assert words in errors
    *progress, line = errors.splitlines()
    assert line.startswith('hetconv: ')
    assert all(re.match(r' *\d+ % ', step) for step in progress)
    assert not output
    assert sorted(tmp_path.iterdir()) == given, 'something half done was left behind'


def test_bf16_takes_what_fp16_does_not(hetconv, exported, tmp_path):
    proto = onnx.ModelProto()
    proto.CopyFrom(exported(SMALL)[1])
    large_value(proto)
    onnx.save(proto, tmp_path / 'large.onnx')
    code, output, errors = hetconv('build', 'large.onnx', '-o', 'm.engine', *RTX, '--precision', 'bf16')
    assert code == 0, errors
    assert ', bf16, ' in output


def test_an_engine_of_others_has_no_info(hetconv, tmp_path):
    (tmp_path / 'other.engine').write_bytes(b'ptrt' + bytes(100))
    code, _, errors = hetconv('info', 'other.engine')
    assert code == 2
    assert 'other.engine.json: no such file' in errors
    code, _, errors = hetconv('info', 'other.engine.json')
    assert code == 2
    assert 'give the engine, other.engine' in errors


def test_ctrl_c_leaves_nothing(hetconv, tmp_path, monkeypatch):
    """In the middle of TensorRT's build; an earlier engine of that name stays."""
    import contextlib

    from inference import show

    hetconv('build', 'model.onnx', '-o', 'm.engine', *RTX)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    sent = []

    @contextlib.contextmanager
    def bar():
        def report(what, done, total):
            if done >= 20 and not sent:
                sent.append(done)
                os.kill(os.getpid(), signal.SIGINT)

        yield report

    monkeypatch.setattr(show, 'bar', bar)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output, _ = hetconv('build', 'model.onnx', '-o', 'm.engine', *RTX, '--precision', 'fp32')
    finally:
        signal.signal(signal.SIGINT, old)
    assert sent
    assert code == 130
    assert not output
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
