"""The command: what it prints, its exit codes, and that a mistake costs one line."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

MODEL = 'hetconv_resnet20_cifar_p4'


def hetconv(*args, cwd=None, **kwargs):
    """The command as a user runs it."""
    environment = {**os.environ, 'COLUMNS': '200'}
    return subprocess.run(
        [sys.executable, '-m', 'inference', *map(str, args)], capture_output=True, text=True, cwd=cwd, env=environment,
        timeout=300, **kwargs,
    )  # fmt: skip


COMMANDS = ['list', 'info', 'paper', 'export', 'build', 'bench', 'profile', 'report', 'reproduce']


@pytest.mark.parametrize('command', [None, *COMMANDS])
def test_help_needs_no_heavy_package(command):
    """Whatever the machine's speed: `--help` imports neither torch nor any engine."""
    args = [command, '--help'] if command else ['--help']
    code = (
        'import sys\n'
        f'sys.argv = ["hetconv", *{args!r}]\n'
        'from inference.cli import app\n'
        'try: app()\n'
        'except SystemExit: pass\n'
        'heavy = {"torch", "timm", "onnx", "onnxruntime", "numpy", "matplotlib", "jinja2"}\n'
        'print(sorted(heavy & set(sys.modules)))\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'Usage' in result.stdout
    assert result.stdout.splitlines()[-1] == '[]'


def test_version():
    assert re.fullmatch(r'hetconv \d+\.\d+\S*\n', hetconv('--version').stdout)


def test_a_plain_model_is_of_standard_operators(tmp_path):
    result = hetconv('export', 'hetconv_resnet20_cifar_p1', '-o', 'dense.onnx', cwd=tmp_path)
    assert 'standard operators only' in result.stdout


def test_list():
    assert hetconv('list', '*resnet34_p4*').stdout.split() == ['hetconv_resnet34_p4', 'hetconv_resnet34_p4_se']
    assert '1,313,116,160 MACs' in hetconv('list', 'hetconv_resnet34_p4', '--cost').stdout


def test_list_takes_a_part_of_a_name():
    assert len(hetconv('list', 'resnet20').stdout.split()) == 20


def test_info():
    result = hetconv('info', 'hetconv_resnet34_p4', '--layers')
    assert '1,313,116,160 MACs, 7,740,200 parameters' in result.stdout
    assert 'theory 2.79× by FLOPs over hetconv_resnet34_p1' in result.stdout
    assert 'layer1.0.conv1' in result.stdout


def test_paper():
    result = hetconv('paper')
    assert '67 of 78 reproduce to the printed digit' in result.stdout
    assert hetconv('paper', '--table', 4).stdout.count('MobileNet') == 3


def test_export_bench_report(tmp_path):
    """The main job, from one end to the other."""
    result = hetconv('export', MODEL, '-o', 'model.onnx', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'model.onnx').stat().st_size > 100_000
    result = hetconv('build', 'model.onnx', '-o', 'engine.onnx', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    # 18 HetConv2d, the stem's convolution, and the average pooling of two shortcuts.
    assert '21 layers on our kernels, 18 of them HetConv2d' in result.stdout
    result = hetconv('info', 'model.onnx', cwd=tmp_path)
    assert 'architecture: "hetconv_resnet20_cifar_p4"' in result.stdout
    assert 'hetconv form, 18 HetConv2d nodes' in result.stdout
    assert 'weights: "random"' in result.stdout
    result = hetconv(
        'bench', MODEL, '--engine', 'torch', '--engine', 'onnxruntime', '--rounds', 2, '--json', 'report/run.json',
        '--report', 'report', cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'hetconv_resnet20_cifar_p4  theory 2.9' in result.stdout
    assert len(json.loads((tmp_path / 'report' / 'run.json').read_text())['rows']) == 4
    assert '100 %' not in result.stderr
    page = (tmp_path / 'report' / 'index.html').read_text()
    assert MODEL in page.replace('<wbr>', '')
    result = hetconv('report', 'report/run.json', '-o', 'again', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'again' / 'index.html').read_text() == page


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['export', 'hetconv_resnet34_p5', '-o', 'm.onnx'], 'unknown model'),
        (['export', MODEL, '-o', 'none/m.onnx'], 'does not exist'),
        (['export', MODEL, '-o', 'folder.onnx'], 'is a folder'),
        (['export', MODEL, '-o', 'm.onnx', '--checkpoint', 'none.pth'], 'none.pth: no such checkpoint file'),
        (['export', MODEL, '-o', 'm.onnx', '--checkpoint', 'text.pth'], 'text.pth cannot be read'),
        (['info', 'resnet3'], 'unknown model'),
        (['list', 'nothing*'], 'no model matches'),
        (['info', 'text.pth'], 'text.pth is a file; give the name of a model'),
        (['export', MODEL, '-o', 'text.pth', '--checkpoint', 'text.pth'], 'text.pth must end in .onnx'),
        (['bench', MODEL, '--engine', 'torch', '--json', 'text.pth'], 'text.pth must end in .json'),
        (['export', MODEL, '-o', 'm.onnx', '--checkpoint', '.'], 'is a folder; give a file in it'),
        (['info', 'hetconv_resnet34_p4.foo'], 'unknown model'),
        (['info', 'foreign.onnx', '--layers'], '--layers needs the name of a model'),
        (['bench', 'nosuch', '--engine', 'torch', '--report', 'report'], 'unknown model'),
        (['report', 'text.pth', '--accuracy', 'text.onnx'], 'not the JSON'),
        (['info', 'none.onnx'], 'none.onnx: No such file'),
        (['info', 'text.onnx'], 'text.onnx is damaged or no ONNX file'),
        (['info', 'foreign.onnx'], 'foreign.onnx: not made by `hetconv export`'),
        (['build', 'foreign.onnx', '-o', './foreign.onnx'], 'is what is to be built from'),
        (['build', MODEL, '-o', 'm.onnx', '--threads', '2'], '--threads is for --tune'),
        (['bench', MODEL, '--engine', 'tflite'], 'unknown engine'),
        (['bench', MODEL, '--engine', 'openvin'], 'did you mean openvino?'),
        (['bench', MODEL, '--engine', 'tensorrt-rtx'], 'TensorRT-RTX only builds'),
        (['bench', MODEL, '--rounds', 'x'], "Invalid value for '--rounds'"),
        (['bnch'], "No such command 'bnch'"),
        (['bench', MODEL, '--batch', '0', '--engine', 'torch'], 'batch 0'),
        (['bench', MODEL, '--engine', 'torch', '--json', 'none/run.json'], 'does not exist'),
        (['bench', MODEL, '--engine', 'torch', '--json', 'r.json', '--report', 'text.pth'], 'text.pth'),
        (['bench', MODEL, '--engine', 'torch', '--report', 'text.pth/report'], 'text.pth/report cannot be made'),
        (['report', 'none.json'], 'none.json'),
        (['report', 'text.pth'], 'not the JSON'),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(args, words, tmp_path):
    (tmp_path / 'text.pth').write_text('no checkpoint')
    (tmp_path / 'text.onnx').write_text('no model')
    weights = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), 'weights')
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], 'empty', [], [], [weights]))
    onnx.save(foreign, tmp_path / 'foreign.onnx', save_as_external_data=True, location='gone', size_threshold=0)
    (tmp_path / 'gone').unlink()
    (tmp_path / 'folder.onnx').mkdir()
    given = sorted(tmp_path.iterdir())
    result = hetconv(*args, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.startswith('hetconv: ')
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == given, 'something half done was left behind'


@pytest.mark.parametrize(
    'raised',
    [KeyboardInterrupt(), ImportError('numpy failed')],
    ids=['as it is', 'as what a package makes of it'],
)
def test_ctrl_c_before_there_is_anything_to_keep(raised, monkeypatch, capsys):
    """In an import, say; some packages answer with an error of their own."""
    from inference import cli, info

    def interrupted(model, layers):
        if isinstance(raised, KeyboardInterrupt):
            raise raised
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise raised  # noqa: B904  as a package does that knows of no Ctrl-C

    monkeypatch.setattr(info, 'show_info', interrupted)
    monkeypatch.setattr(sys, 'argv', ['hetconv', 'info', MODEL])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ('', 'hetconv: interrupted\n')


def test_no_argument_shows_the_help():
    result = hetconv()
    assert result.returncode == 2
    assert 'Usage: ' in result.stdout + result.stderr


def test_an_interrupted_bench_without_a_row_replaces_nothing(tmp_path, monkeypatch):
    from inference import bench, cli
    from inference.rows import Run

    def interrupted(models, settings, layers, checkpoint, progress, save, quantize):
        run = Run(created='', environment={}, settings={'complete': False})
        save(run)
        return run

    monkeypatch.setattr(bench, 'bench', interrupted)
    earlier = tmp_path / 'run.json'
    earlier.write_text('earlier')
    result = CliRunner().invoke(
        cli.app, ['bench', MODEL, '--engine', 'torch', '--json', str(earlier), '--report', str(tmp_path / 'report')]
    )
    assert result.exit_code == 130
    assert 'nothing was measured yet' in result.output
    assert earlier.read_text() == 'earlier'
    assert not (tmp_path / 'report').exists()


def test_ctrl_c_keeps_what_is_done(tmp_path):
    import signal

    process = subprocess.Popen(
        [sys.executable, '-m', 'inference', 'bench', MODEL, 'hetconv_mobilenet_cifar_p32', '--engine', 'torch',
         '--rounds', '100000', '--json', 'run.json'],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that run in the background of a shell ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    for line in process.stderr:
        if 'round 3 ' in line:
            break
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - started < 30
    assert 'Traceback' not in errors
    assert 'interrupted' in output
    rows = json.loads((tmp_path / 'run.json').read_text())['rows']
    assert {row['model'] for row in rows} == {'hetconv_resnet20_cifar_p1', MODEL}
    assert all(row['rounds'] >= 2 for row in rows)
