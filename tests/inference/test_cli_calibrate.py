"""`hetconv calibrate` as a user has it: two files or none, a refusal with exit code 3, one line for every mistake."""

import errno
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from inference.export import metadata, save_model

MODEL = 'hetconv_resnet20_cifar_p4'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, exported):
    """model.onnx, which puts the images of images.npz into different classes."""
    folder = tmp_path_factory.mktemp('calibrate')
    x = np.random.default_rng(0).standard_normal((48, 3, 32, 32), np.float32)
    proto = onnx.ModelProto()
    proto.CopyFrom(exported(MODEL)[1])
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == 'fc.bias')
    logits = session.run(None, {'input': x})[0]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) - logits.mean(0), bias.name))
    save_model(proto, folder / 'model.onnx')
    (folder.parent / 'calibrate-link').symlink_to(folder)
    np.savez(folder / 'images.npz', images=x)
    np.savez(folder / 'pale.npz', images=x / 50)
    return folder


def run(folder, *arguments):
    """In this process: the exit code, and what went to stdout and stderr."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    from inference.cli import main

    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, 'argv', ['hetconv', 'calibrate', *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return stopped.value.code or 0, out.getvalue(), err.getvalue()


USUAL = ('model.onnx', '--data', 'images.npz', '--images', 16)


def test_a_model_and_its_report(folder, tmp_path):
    code, out, err = run(folder, *USUAL, '-o', tmp_path / 'int8.onnx', '--max-drop', 100)
    assert code == 0, err
    assert 'of 32 images in the same class as in float' in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ['int8.json', 'int8.onnx']
    proto = onnx.load(tmp_path / 'int8.onnx')
    assert {'QuantizeLinear', 'DequantizeLinear', 'HetConv2d'} <= {node.op_type for node in proto.graph.node}
    report = json.loads((tmp_path / 'int8.json').read_text())
    assert report['passed']
    assert report['macs_in_int8'] == 1
    assert len(report['calibration_sha256']) == 64
    assert {layer['name'] for layer in report['layers']} >= {'stem.0', 'stages.0.0.conv1', 'fc'}
    assert all(layer['sqnr_db'] > 5 for layer in report['layers'])
    # What a model card says of it is in the file.
    said = metadata(proto)['int8']
    assert said['agreement'] == report['agreement']
    assert (said['evaluated_images'], said['top1_int8']) == (32, None)
    assert said['preset'] == 'cpu'


def test_one_that_loses_too_much_is_not_handed_over(folder, tmp_path):
    """The report is left. Ranges of images that have a fiftieth of the contrast cut the others off."""
    (tmp_path / 'int8.onnx').write_bytes(b'of an earlier run')
    data = ('--data', 'pale.npz', '--eval-data', 'images.npz', '--images', 16)
    code, _, err = run(folder, 'model.onnx', *data, '-o', tmp_path / 'int8.onnx')
    assert code == 3
    assert 'which have no labels, into another class, more than --max-drop 1' in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ['int8.json']  # and no model of an earlier run
    assert not json.loads((tmp_path / 'int8.json').read_text())['passed']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('nothing.onnx', '--data', 'images.npz', '-o', 'x.onnx'), 'nothing.onnx: No such file'),
        ((*USUAL, '-o', 'model.onnx'), 'is the float model itself'),
        ((*USUAL, '-o', 'x.bin'), 'must end in .onnx'),
        ((*USUAL, '-o', 'no/x.onnx'), 'does not exist'),
        (
            (*USUAL, '-o', 'x.onnx', '--preset', 'gpu'),
            "unknown preset 'gpu'; did you mean cpu?",
        ),
        ((*USUAL, '-o', 'x.onnx', '--method', 'max'), "unknown method 'max'"),
        ((*USUAL, '-o', 'x.onnx', '--keep-float', 'stem'), "unknown layer 'stem'; did you mean stem.0?"),
        ((*USUAL, '-o', 'x.onnx', '--cache', 'no/cache'), '--cache no/cache: No such file or directory'),
        (('model.onnx', '--data', 'images.npz', '--images', 48, '-o', 'x.onnx'), 'are asked for besides the 48'),
        (('model.onnx', '--data', 'images.npz', '-o', 'x.onnx'), 'has 48 images, and 512 are asked for'),
        (('model.onnx', '--data', 'photos', '-o', 'x.onnx'), 'photos: no such folder of images'),
        ((*USUAL, '-o', 'x.onnx', '--max-drop', -1), '--max-drop'),
        ((*USUAL, '-o', 'x.onnx', '--max-drop', 'nan'), '--max-drop'),
        ((*USUAL, '-o', 'x.onnx', '--max-drop', 'inf'), '--max-drop'),
        ((*USUAL, '-o', 'x.onnx', '--seed', -1), '--seed'),
        ((*USUAL, '-o', '../calibrate-link/model.onnx'), 'is the float model itself'),
    ],
)
def test_mistakes_cost_one_line(arguments, words, folder):
    before = sorted(folder.iterdir())
    code, out, err = run(folder, *arguments)
    assert code == 2
    line = err.splitlines()[-1]
    assert line.startswith('hetconv: ')
    assert words in line
    assert out == ''
    assert sorted(folder.iterdir()) == before


def test_a_quantised_model_and_one_of_somebody_else(folder, tmp_path):
    run(folder, *USUAL, '-o', tmp_path / 'int8.onnx', '--max-drop', 100)
    code, _, err = run(folder, tmp_path / 'int8.onnx', *USUAL[1:], '-o', tmp_path / 'again.onnx')
    assert (code, 'quantised already' in err) == (2, True)
    save_model(onnx.helper.make_model(onnx.helper.make_graph([], 'x', [], [])), tmp_path / 'other.onnx')
    code, _, err = run(folder, tmp_path / 'other.onnx', *USUAL[1:], '-o', tmp_path / 'again.onnx')
    assert (code, 'not made by `hetconv export`' in err) == (2, True)
    assert not (tmp_path / 'again.onnx').exists()


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    from pathlib import Path

    def full(self, data):
        if self.parent == tmp_path and 'onnx' in self.name:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return original(self, data)

    original = Path.write_bytes
    monkeypatch.setattr(Path, 'write_bytes', full)
    code, _, err = run(folder, *USUAL, '-o', tmp_path / 'int8.onnx', '--max-drop', 100)
    assert code == 2
    assert 'No space left on device' in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_help_is_light():
    code = (
        'import sys; sys.argv = ["hetconv", "calibrate", "--help"]\nfrom inference.cli import main\n'
        'try: main()\nexcept SystemExit: pass\n'
        'print(sorted({"torch", "onnx", "onnxruntime", "calib"} & set(sys.modules)))'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == '[]'
