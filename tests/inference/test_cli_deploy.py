"""`hetconv deploy` and `hetconv serve`: the commands, what they refuse, and what a server is started with."""

import json
import re
import socket
import sys
from pathlib import Path

import pytest
from idle_networks import FACTS, network
from typer.testing import CliRunner

from inference.cli import app
from inference.errors import UserError
from inference.kernels import cpu
from inference.serving.config import Settings
from inference.serving.repository import deploy
from inference.serving.server import Ports, command_of
from inference.tensorrt.builder import Built
from inference.tensorrt.manifest import save_engine
from inference.tensorrt.options import BuildOptions


def test_the_command(tmp_path):
    arguments = ['deploy', 'hetconv_resnet20_cifar_p4.cifar10_jpeg', '--to', str(tmp_path / 'models')]
    arguments += ['--name', 'cifar']
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(
        r'cifar version 1, hetconv_resnet20_cifar_p4 with weights cifar10_jpeg, for ort-cpu, within .* ms an image',
        result.stdout,
    )
    folder = tmp_path / 'models' / 'cifar_engine' / '1'
    manifest = json.loads((folder / 'manifest.json').read_text())
    assert set(manifest['files']) == {
        'network.onnx', 'libhetconv.so', 'model.py', 'memory.py', 'prepare.py', 'labels.py', 'facts.json',
        'labels.txt', '__pycache__', 'README.md', 'ensemble.pbtxt', 'engine.pbtxt',
    }  # fmt: skip
    assert manifest['model']['macs'] == 13812352
    measured = json.loads((folder / 'measured.json').read_text())
    assert [row['batch'] for row in measured['rows']] == [1, 8]
    assert all(row['ms'] > 0 for row in measured['rows'])
    words = (folder / 'README.md').read_text()
    assert 'Trained on CIFAR-10 (JPEG)' in words
    assert 'license: apache-2.0' in words
    assert '13,812,352' in words
    assert '10 classes: airplane, automobile' in words
    assert (folder / 'labels.txt').read_text().split()[:3] == ['airplane', 'automobile', 'bird']


def test_weights_that_there_are_instead_of_random_ones(tmp_path):
    arguments = ['deploy', 'hetconv_resnet20_cifar_p1', '--to', str(tmp_path / 'models'), '--no-measure']
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == (
        'hetconv: the weights are random; trained ones are had by `hetconv export --checkpoint`, '
        'hetconv_resnet20_cifar_p1.cifar10_jpeg\n'
    )


@pytest.mark.parametrize(
    ('said', 'words'),
    [
        (
            dict(top1_int8=79.58, top1_float=79.72, agreement=98.8, evaluated_images=10000),
            'top-1 79.58%, in float 79.72%',
        ),
        (
            dict(top1_int8=None, top1_float=None, agreement=98.8, evaluated_images=99),
            '98.80% of 99 images in the same class',
        ),
        (dict(), 'Quantised to INT8 by `hetconv calibrate`.'),
    ],
)
def test_the_card_of_an_int8_network(tmp_path, said, words):
    facts = {**FACTS, 'description': 'Trained on cats: top-1 80%.', 'int8': said}
    deploy(network(), facts, tmp_path / 'models', 'net', 'portable')
    card = (tmp_path / 'models' / 'net_engine' / '1' / 'README.md').read_text()
    assert 'Of the float network: Trained on cats' in card
    assert words in card


def engine_file(folder):
    """A plan that no TensorRT made, with what `hetconv build` writes beside one."""
    options = BuildOptions('tensorrt', precision='fp16', lowering='plugin', sms=(86,), profiles=((1, 4, 8),))
    built = Built(b'ftrt' + bytes(100), '10.9.0', options, {'HetConv2d': 3}, [], {}, [], 1.0)
    path = folder / 'net.engine'
    save_engine(path, built, {**FACTS, 'params': 5}, 1e-3)
    return path


def test_an_engine_of_tensorrt(tmp_path):
    path = engine_file(tmp_path)
    result = CliRunner().invoke(app, ['deploy', str(path), '--to', str(tmp_path / 'models')])
    assert result.exit_code == 0, result.output
    assert 'net version 1, ' in result.stdout
    assert 'for tensorrt' in result.stdout
    folder = tmp_path / 'models' / 'net_engine' / '1'
    assert (folder / 'model.plan').read_bytes() == path.read_bytes()
    assert 'for SM 86 and TensorRT 10.9.0' in (folder / 'README.md').read_text()
    assert not (folder / 'measured.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--max-batch', '9'], 'takes batches of 1 to 8, and the server 1 to 9: --max-batch 8'),
        (['--engine', 'ort-cpu'], '--engine tensorrt takes a file of'),
        (['--checkpoint', __file__], 'has its weights already'),
    ],
)
def test_an_engine_that_cannot_be_served(tmp_path, arguments, words):
    result = CliRunner().invoke(app, ['deploy', str(engine_file(tmp_path)), '--to', str(tmp_path / 'to'), *arguments])
    assert words in str(result.exception)
    assert not (tmp_path / 'to').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['deploy', 'hetconv_resnet20_cifar_p4', '--engine', 'tensorrt'], '--engine tensorrt takes a file of'),
        (['deploy', 'hetconv_resnet20_cifar_p4', '--engine', 'ort-gpu'], "unknown engine to deploy 'ort-gpu'"),
        (['deploy', 'nothing.onnx'], 'nothing.onnx: No such file'),
        (['deploy', 'hetconv_resnet20_cifar_p4', '--name', ''], "'' cannot be the name of a model"),
        (['deploy', 'hetconv_resnet20_cifar_p4', '--instances', '1', '--queue', '4'], 'need two instances or more'),
        (['deploy', 'hetconv_resnet20_cifar_p4', '--mount', '/models'], '--mount is for ort-cpu-native'),
        (
            ['deploy', 'hetconv_resnet20_cifar_p4', '--engine', 'ort-cpu-native', '--mount', 'models'],
            '--mount must be an absolute path',
        ),
        (['activate', 'a/b', '1'], "'a/b' cannot be the name of a model"),
        (['versions', 'net'], 'no such folder'),
        (['deploy', 'hetconv_resnet20_cifar_p4', '--labels', 'nothing.txt'], 'nothing.txt cannot be read as text'),
        (['activate', 'net', '1'], 'no such folder'),
    ],
)
def test_mistakes(tmp_path, arguments, words):
    result = CliRunner().invoke(app, [*arguments, '--to', str(tmp_path / 'models')])
    assert result.exit_code != 0
    assert words in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
def test_a_server_without_what_a_model_wants_is_not_started(tmp_path):
    """The server itself would try again for ever."""
    repository, others = tmp_path / 'models', tmp_path / 'others'
    deploy(network(), FACTS, repository, 'native', 'ort-cpu-native', settings=Settings(mount='/models'))
    (others / 'onnxruntime').mkdir(parents=True)
    (others / 'onnxruntime' / 'libtriton_onnxruntime.so').write_text('')
    with pytest.raises(UserError, match=r'native_engine is for the backend onnxruntime of Triton.*--backends'):
        command_of(repository, Ports(), python=Path('python'))
    with pytest.raises(UserError, match=r'names /models/native_engine/1/libhetconv\.so, which is not on this machine'):
        command_of(repository, Ports(), python=Path('python'), backends=others)


def test_what_a_server_is_started_with(tmp_path, monkeypatch):
    """Links to the Python backend of the wheel, and to what --backends has beside it."""
    root, others, links = (tmp_path / name for name in ('tritonserver', 'others', 'links'))
    stub = root / 'python_backend_stubs' / '3.11' / 'triton_python_backend_stub'
    for file in (stub, others / 'onnxruntime' / 'libtriton_onnxruntime.so', others / 'python' / 'libtriton_python.so'):
        file.parent.mkdir(parents=True)
        file.write_text('')
    links.mkdir()
    monkeypatch.setattr('inference.serving.server._look', lambda python: (root, 'lib', 'packages', '3.11'))
    command, environment = command_of(tmp_path, Ports(), python=Path('python'), links=links, backends=others)
    assert command[:2] == [str(root / 'bin' / 'tritonserver'), f'--backend-directory={links}']
    assert environment['PYTHONPATH'] == 'packages'
    assert (links / 'onnxruntime').resolve() == others / 'onnxruntime'
    assert (links / 'python' / stub.name).resolve() == stub
    assert not (links / 'python').is_symlink()


def test_a_file_of_labels(tmp_path):
    from inference.cli_deploy import _lines

    (tmp_path / 'labels.txt').write_bytes(b'\xef\xbb\xbfcat\r\ndog \r\n')
    assert _lines(tmp_path / 'labels.txt') == ['cat', 'dog']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--python', '/bin/true'], '/bin/true is no Python'),
        (['--python', sys.executable], 'has no nvidia-pytriton'),
        (['--python', 'nowhere/python'], 'nowhere/python: No such file'),
        (['--python', str(Path(__file__).parent)], 'is a folder: --python takes an interpreter'),
        (['--host', '0.0.0.0', '--shared-memory'], '--shared-memory is for clients of this machine'),
        (['--backends', 'nowhere'], '--backends is for the server of --python'),
        (['--python', sys.executable, '--backends', 'nowhere'], 'nowhere: No such file'),
        (['--python', sys.executable, '--backends', str(Path(__file__).parent)], 'has no backend of Triton'),
    ],
)
def test_mistakes_with_a_server(tmp_path, arguments, words):
    result = CliRunner().invoke(app, ['serve', str(tmp_path), *arguments])
    assert isinstance(result.exception, UserError), result.output
    assert words in str(result.exception)


def test_a_port_that_is_taken_is_named(tmp_path, monkeypatch):
    (tmp_path / 'tritonserver').write_text('')
    (tmp_path / 'tritonserver').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ['serve', str(tmp_path), '--grpc', port])
    assert f'port {port} at 127.0.0.1 cannot be had (Address already in use): --grpc picks another' in str(
        result.exception
    )


def test_ports(tmp_path):
    result = CliRunner().invoke(app, ['serve', str(tmp_path), '--grpc', '8000'])
    assert str(result.exception) == '--http and --grpc are one port, 8000'
    for port in ('0', '65536'):
        assert CliRunner().invoke(app, ['serve', str(tmp_path), '--metrics', port]).exit_code == 2


@pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
def test_a_model_is_no_repository(tmp_path, monkeypatch):
    deploy(network(), FACTS, tmp_path / 'models', 'net')
    before = sorted((tmp_path / 'models').rglob('*'))
    monkeypatch.setattr('inference.serving.server._check_free', lambda *_: None)
    for command in (['serve', 'net'], ['deploy', 'hetconv_resnet20_cifar_p4', '--to', 'net']):
        arguments = [*command[:-1], str(tmp_path / 'models' / command[-1])]
        result = CliRunner().invoke(app, arguments)
        assert f'is a model; {tmp_path / "models"} is the repository that it is in' in str(result.exception)
        assert 'no model yet' not in result.stderr
    assert sorted((tmp_path / 'models').rglob('*')) == before
    result = CliRunner().invoke(app, ['versions', 'nets', '--to', str(tmp_path / 'models')])
    assert 'has no model nets of `hetconv deploy`; there are net' in str(result.exception)


def test_a_file_is_no_repository(tmp_path, monkeypatch):
    """Said before the network is made."""
    monkeypatch.setattr('inference.cli_deploy._network', lambda *_: pytest.fail('it was made'))
    (tmp_path / 'file').touch()
    for folder, words in (('file', 'is a file'), ('none/models', 'does not exist')):
        result = CliRunner().invoke(app, ['deploy', 'hetconv_resnet20_cifar_p4', '--to', str(tmp_path / folder)])
        assert words in str(result.exception)


def test_there_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    for repository, words in ((tmp_path / 'none', 'no such folder'), (tmp_path, 'there is no tritonserver')):
        result = CliRunner().invoke(app, ['serve', str(repository)])
        assert words in str(result.exception)
