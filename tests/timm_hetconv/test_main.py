"""`python -m timm_hetconv SCRIPT`: a script runs as if alone, with the models registered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = 'hetconv_resnet20_cifar_p4'


def run(*args, cwd, module=('-m', 'timm_hetconv'), **environment):
    return subprocess.run(
        [sys.executable, *module, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=900,
        env={**os.environ, **environment},
    )


@pytest.fixture
def script(tmp_path):
    path = tmp_path / 'folder' / 'script.py'
    path.parent.mkdir()
    path.write_text(
        'import json, sys, neighbour, timm\n'
        'print(json.dumps([__name__, sys.argv, neighbour.WORD, timm.is_model("hetconv_vgg16_p4")]))\n'
        'sys.exit(7)\n'
    )
    (path.parent / 'neighbour.py').write_text('WORD = "beside the script"\n')
    return path


def test_a_script_runs_as_if_alone(script, tmp_path):
    result = run(script, '--model', MODEL, cwd=tmp_path)
    assert result.returncode == 7, result.stderr
    assert json.loads(result.stdout) == ['__main__', [str(script), '--model', MODEL], 'beside the script', True]


def test_the_scripts_own_timm_is_used(script, tmp_path):
    """A clone brings its timm, which stands before the installed one; the models must be registered with that."""
    import timm

    clone = script.parent / 'timm'
    clone.mkdir()
    real = str(Path(timm.__file__).parent)
    # A stand-in for a clone: the real package under another folder, so that its `__file__` tells them apart.
    for entry in Path(real).iterdir():
        (clone / entry.name).symlink_to(entry)
    script.write_text('import timm\nprint(timm.__file__, timm.is_model("hetconv_vgg16_p4"))\n')
    result = run(script, cwd=tmp_path)
    assert result.stdout.split() == [str(clone / '__init__.py'), 'True'], result.stderr


@pytest.mark.skipif(os.name != 'posix', reason='the stand-in for Python is a shell script')
@pytest.mark.parametrize('form', [['{child}'], ['-m', 'timm_hetconv', '{child}']], ids=['script', 'module'])
def test_processes_of_bulk_runner_know_the_models(form, script, tmp_path):
    """It starts `$PYTHON_EXEC -u SCRIPT`, or `$PYTHON_EXEC -u -m MODULE` if told so."""
    bulk = tmp_path / 'bulk_runner.py'
    command = [part.format(child=script) for part in form]
    bulk.write_text(
        'import os, subprocess, sys\n'
        f'command = [os.getenv("PYTHON_EXEC", sys.executable), "-u", *{command}]\n'
        'sys.exit(subprocess.run(command).returncode)\n'
    )
    result = run(bulk, cwd=tmp_path)
    assert result.returncode == 7, result.stderr
    assert json.loads(result.stdout) == ['__main__', [str(script)], 'beside the script', True]


def test_a_package_of_the_users_own_gets_the_models_under_m(tmp_path):
    """Only `-m timm_hetconv` puts off the import; `-m lab.job`, whose package imports it, must not find it empty."""
    lab = tmp_path / 'lab'
    lab.mkdir()
    (lab / '__init__.py').write_text('from timm_hetconv import HetConv2d\n')
    (lab / 'job.py').write_text('import timm\nprint(timm.is_model("hetconv_vgg16_p4"))\n')
    result = run(cwd=tmp_path, module=('-m', 'lab.job'))
    assert result.stdout == 'True\n', result.stderr


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        ([], 'no script given'),
        (['--model', MODEL], "not the option '--model'"),
        (['missing.py'], "no such script: 'missing.py'"),
        (['.'], "'.' is a folder"),
    ],
)
def test_mistakes_cost_one_line_and_exit_code_2(args, words, tmp_path):
    result = run(*args, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help(tmp_path):
    result = run('--help', cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith('usage: python -m timm_hetconv SCRIPT ARGS')


@pytest.mark.parametrize('dynamo', [False, True], ids=['torchscript', 'dynamo'])
def test_exporters_without_a_translation_write_standard_operators(dynamo, tmp_path):
    """As timm's onnx_export.py calls torch.onnx.export: which exporter that is depends on the versions of both."""
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    import timm
    import torch

    import timm_hetconv  # noqa: F401  registers the models

    model, path = timm.create_model(MODEL).eval(), tmp_path / 'model.onnx'
    torch.onnx.export(model, (torch.randn(2, 3, 32, 32),), path, dynamo=dynamo)
    assert {node.domain for node in onnx.load(path).graph.node} <= {'', 'ai.onnx'}


# What follows runs timm's own scripts, unmodified.

CLONE = os.environ.get('TIMM_DIR')
needs_clone = [
    pytest.mark.clone,
    pytest.mark.skipif(not CLONE, reason="TIMM_DIR names no clone of timm's repository"),
]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """train/ and val/ with 256 and 64 images of Fashion-MNIST, as PNG files."""
    from fashion_mnist import FashionMnist
    from PIL import Image

    root = tmp_path_factory.mktemp('images')
    for split, count in (('train', 256), ('val', 64)):
        data = FashionMnist(split, count)
        for i, (pixels, label) in enumerate(zip(data.images, data.labels)):
            folder = root / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert('RGB').save(folder / f'{i}.png')
    return root


TRAIN = [
    '--model', MODEL, '--num-classes', '10', '--img-size', '32', '--epochs', '1', '--batch-size', '64', '--opt', 'sgd',
    '--lr', '0.05', '--warmup-epochs', '0', '--no-prefetcher', '--workers', '1', '--device', 'cpu',
    '--experiment', 'run',
]  # fmt: skip


@pytest.fixture(scope='module')
def checkpoint(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp('train')
    result = run(f'{CLONE}/train.py', '--data-dir', images, '--output', folder, *TRAIN, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder / 'run' / 'last.pth.tar'


class TestClone:
    pytestmark = needs_clone

    def test_train(self, checkpoint):
        assert checkpoint.is_file()

    def test_train_with_device_modules(self, images, tmp_path):
        args = ['--device-modules', 'timm_hetconv', '--data-dir', images, '--output', tmp_path, *TRAIN]
        result = run(f'{CLONE}/train.py', *args, cwd=tmp_path, module=())
        assert result.returncode == 0, result.stderr[-2000:]
        assert (tmp_path / 'run' / 'last.pth.tar').is_file()

    def test_torchrun_with_two_processes(self, images, tmp_path):
        torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'timm_hetconv')
        args = ['--data-dir', images, '--output', tmp_path, *TRAIN]
        result = run(f'{CLONE}/train.py', *args, cwd=tmp_path, module=torchrun, OMP_NUM_THREADS='1')
        assert result.returncode == 0, result.stderr[-2000:]
        assert 'total 2' in result.stderr + result.stdout
        assert (tmp_path / 'run' / 'last.pth.tar').is_file()

    @pytest.mark.parametrize(
        ('script', 'args'),
        [
            ('validate.py', ['--checkpoint', '{checkpoint}', '--data-dir', '{images}', '--device', 'cpu']),
            ('inference.py', ['--checkpoint', '{checkpoint}', '--data-dir', '{images}/val', '--device', 'cpu']),
            ('benchmark.py', ['--bench', 'infer', '--device', 'cpu', '-b', '8', '--num-bench-iter', '10',
                              '--num-warm-iter', '1']),
        ],
    )  # fmt: skip
    def test_script(self, script, args, checkpoint, images, tmp_path):
        if script == 'inference.py':
            pytest.importorskip('pandas', reason="timm's inference.py imports pandas, which timm does not require")
        args = [arg.format(checkpoint=checkpoint, images=images) for arg in args]
        result = run(f'{CLONE}/{script}', '--model', MODEL, *args, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]

    def test_onnx_export(self, checkpoint, tmp_path):
        args = ['model.onnx', '--model', MODEL, '--checkpoint', checkpoint, '--num-classes', '10', '--batch-size', '2']
        result = run(f'{CLONE}/onnx_export.py', *args, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        import onnx

        domains = {node.domain for node in onnx.load(tmp_path / 'model.onnx').graph.node}
        assert domains <= {'', 'ai.onnx'}, "timm's exporter knows no HetConv2d, so standard operators it must be"

    @pytest.mark.slow
    def test_bulk_runner(self, tmp_path):
        # A wildcard: from a file of names bulk_runner passes options that benchmark.py does not know.
        lists = ['--model-list', f'{MODEL}*', '--results-file', tmp_path / 'out.csv']
        bench = ['--bench', 'infer', '--device', 'cpu', '-b', '8', '--num-bench-iter', '10', '--num-warm-iter', '1']
        args = [*lists, f'{CLONE}/benchmark.py', *bench]
        result = run(f'{CLONE}/bulk_runner.py', *args, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        assert MODEL in (tmp_path / 'out.csv').read_text()
