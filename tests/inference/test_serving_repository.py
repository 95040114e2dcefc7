"""The model repository: what is in it, versions, and that no reader sees half of one."""

import json
import os
import re
import socket
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from typer.testing import CliRunner

from inference.cli import app
from inference.errors import UserError
from inference.kernels import cpu
from inference.serving.config import BACKENDS, Settings, configs, with_version
from inference.serving.repository import activate, deploy, served_version, versions
from inference.serving.server import Ports, command_of
from inference.serving.version import ROLES
from inference.tensorrt.builder import Built
from inference.tensorrt.manifest import save_engine
from inference.tensorrt.options import BuildOptions

FACTS = dict(
    input_size=[3, 32, 32], num_classes=10, mean=[0.5] * 3, std=[0.25] * 3, interpolation='bilinear', crop_pct=1.0,
    crop_mode='center', macs=1,
)  # fmt: skip


def network(value=0.0):
    """A file that differs with `value`; nothing runs it here."""
    tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.np.float32([value]), 'w')
    graph = onnx.helper.make_graph([], 'network', [], [], [tensor])
    return onnx.helper.make_model(graph)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.fixture
def repository(tmp_path):
    deploy(network(), FACTS, tmp_path / 'models', 'net', 'portable')
    return tmp_path / 'models'


def test_the_same_input_gives_the_same_bytes(repository, tmp_path):
    deploy(network(), FACTS, tmp_path / 'again', 'net', 'portable')
    assert files(tmp_path / 'again') == files(repository)


def test_a_network_on_a_cpu_is_one_process(tmp_path):
    """All of a version is in its folder, so that each may have other images and labels."""
    models = tmp_path / 'models'
    deploy(network(), FACTS, models, 'net', 'onnxruntime')
    first = files(models)
    assert sorted(path.name for path in models.iterdir()) == ['net', 'net_engine']
    assert deploy(network(), {**FACTS, 'mean': [0.1] * 3}, models, 'net', 'onnxruntime', list('abcdefghij')) == 2
    own = models / 'net_engine' / '2'
    assert (own / 'labels.txt').read_text().split() == list('abcdefghij')
    assert json.loads((own / 'facts.json').read_text())['mean'] == [0.1] * 3
    activate(models, 'net', 1)
    assert first.items() <= files(models).items()


@pytest.mark.parametrize('engines', [('portable', 'onnxruntime'), ('onnxruntime', 'portable')])
def test_a_model_keeps_its_steps(tmp_path, engines):
    """No server could go from the ones to the others without a failed request."""
    deploy(network(), FACTS, tmp_path / 'models', 'net', engines[0])
    before = files(tmp_path)
    with pytest.raises(UserError, match=f'has a net of (one step|three steps), and {engines[1]} takes (three|one)'):
        deploy(network(), FACTS, tmp_path / 'models', 'net', engines[1])
    assert files(tmp_path) == before


def test_nothing_is_left_beside(repository, tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ['models']
    assert sorted(path.name for path in repository.iterdir()) == ['net', 'net_engine', 'net_labels', 'net_prepare']


def test_versions_go_forward_and_back(repository):
    assert deploy(network(1.0), FACTS, repository, 'net', 'portable') == 2
    assert versions(repository, 'net') == [1, 2]
    assert served_version(repository, 'net') == 2
    first = files(repository / 'net_engine' / '1')
    activate(repository, 'net', 1)
    assert served_version(repository, 'net') == 1
    activate(repository, 'net', 2)
    assert served_version(repository, 'net') == 2
    assert files(repository / 'net_engine' / '1') == first
    config = (repository / 'net_engine' / 'config.pbtxt').read_text()
    assert config.count('version_policy') == 1


def test_a_version_brings_its_own_settings_back(repository):
    configs_of = lambda: {path.parent.name: path.read_bytes() for path in repository.glob('*/config.pbtxt')}  # noqa: E731
    before = configs_of()
    settings = Settings(max_batch=2, instances=3, threads=4, top_k=1, queue=3)
    deploy(network(1.0), FACTS, repository, 'net', 'portable', settings=settings)
    assert all(text != before[model] for model, text in configs_of().items())
    activate(repository, 'net', 1)
    assert configs_of() == before


@pytest.mark.parametrize('batches', [(2, 8), (8, 2)])
def test_the_ensemble_never_takes_more_than_its_steps(repository, monkeypatch, batches):
    """A server that polls in the middle would refuse it."""
    from inference.files import write_atomically

    def batch(model):
        return int(re.search(r'max_batch_size: (\d+)', (repository / model / 'config.pbtxt').read_text())[1])

    seen = []

    def write(path, data):
        write_atomically(path, data)
        if path.name == 'config.pbtxt':
            seen.append((batch('net'), min(batch(f'net_{role}') for role in ROLES)))

    monkeypatch.setattr('inference.serving.repository.write_atomically', write)
    for number, size in enumerate(batches, 1):
        deploy(network(number), FACTS, repository, 'net', 'portable', settings=Settings(max_batch=size))
    activate(repository, 'net', 2)
    activate(repository, 'net', 3)
    assert len(seen) > 8
    assert all(ensemble <= steps for ensemble, steps in seen)


def test_the_same_again_is_the_version_that_is_there(repository):
    before = files(repository)
    assert deploy(network(), FACTS, repository, 'net', 'portable') == 1
    assert files(repository) == before
    assert deploy(network(1.0), FACTS, repository, 'net', 'portable', settings=Settings(max_batch=2)) == 2
    assert deploy(network(), FACTS, repository, 'net', 'portable') == 1  # it is served again, and its settings are back
    assert served_version(repository, 'net') == 1
    assert {path.parent.name: path.read_bytes() for path in repository.glob('*/config.pbtxt')} == {
        path.partition('/')[0]: data for path, data in before.items() if path.endswith('/config.pbtxt')
    }
    (repository / 'net_engine' / '1' / 'model.onnx').write_bytes(b'')
    assert deploy(network(), FACTS, repository, 'net', 'portable') == 3  # not a damaged one


def test_versions_are_listed(repository):
    deploy(network(1.0), {**FACTS, 'architecture': 'net', 'int8': {}}, repository, 'net', 'portable')
    activate(repository, 'net', 1)
    (repository / 'net_engine' / '2' / 'model.onnx').write_bytes(b'')
    (repository / 'net_engine' / '3').mkdir()
    result = CliRunner().invoke(app, ['versions', 'net', '--to', str(repository)])
    first, second, third = result.stdout.splitlines()
    assert first == '* 1  portable, a network, weights unknown'
    assert second.startswith('  2  portable, net, weights unknown, INT8; ')
    assert second.endswith('model.onnx is damaged: its checksum is not that of manifest.json')
    assert third == '  3  no complete version'


def test_no_folder_is_empty(repository):
    """Object stores and git have none, and Triton wants the ensemble's version."""
    assert all(any(path.iterdir()) for path in repository.rglob('*') if path.is_dir())


def test_the_code_of_the_steps_is_that_of_this_release(repository):
    path = repository / 'net_prepare' / '1' / 'prepare.py'
    wanted = path.read_bytes()
    path.write_text('# of an old one')
    deploy(network(1.0), FACTS, repository, 'net', 'portable')
    assert path.read_bytes() == wanted


@pytest.mark.parametrize('role', ['', *ROLES])
def test_models_of_others_are_left_alone(tmp_path, role):
    folder = tmp_path / 'models' / f'net_{role}'.rstrip('_')
    (folder / '1').mkdir(parents=True)
    (folder / 'config.pbtxt').write_text('backend: "onnxruntime"')
    before = files(tmp_path)
    with pytest.raises(UserError, match='was not written by `hetconv deploy`'):
        deploy(network(), FACTS, tmp_path / 'models', 'net', 'portable')
    assert files(tmp_path) == before


def test_a_repository_on_another_disk(tmp_path):
    with tempfile.TemporaryDirectory(dir='/dev/shm') as disk:
        if os.stat(disk).st_dev == tmp_path.stat().st_dev:
            pytest.skip('/dev/shm is no disk of its own')
        (tmp_path / 'models').symlink_to(disk)
        assert deploy(network(), FACTS, tmp_path / 'models', 'net', 'portable') == 1
        assert sorted(os.listdir(disk)) == ['net', 'net_engine', 'net_labels', 'net_prepare']


def test_a_damaged_version_is_not_activated(repository):
    deploy(network(1.0), FACTS, repository, 'net', 'portable')
    path = repository / 'net_engine' / '1' / 'model.onnx'
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r'model\.onnx is damaged'):
        activate(repository, 'net', 1)
    (repository / 'net_engine' / '1' / 'manifest.json').unlink()
    with pytest.raises(UserError, match='is no complete version'):
        activate(repository, 'net', 1)
    assert served_version(repository, 'net') == 2
    with pytest.raises(UserError, match='has no version 7; there are 1, 2'):
        activate(repository, 'net', 7)
    with pytest.raises(UserError, match='has no model nett'):
        activate(repository, 'nett', 1)


def test_a_failure_in_the_middle_leaves_what_was_served(repository, monkeypatch):
    before = files(repository)

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('inference.serving.repository._write', full)
    with pytest.raises(UserError, match='cannot be written: No space left'):
        deploy(network(1.0), FACTS, repository, 'net', 'portable')
    assert files(repository) == before
    assert [path.name for path in repository.parent.iterdir()] == ['models']


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(name='../net'), 'cannot be the name of a model'),
        (dict(name=''), 'cannot be the name of a model'),
        (dict(name='café'), 'cannot be the name of a model'),
        (dict(name='net_engine'), 'its steps are called'),
        (dict(labels=[*'abcdefghi', 'j\u2028k']), 'more than one line'),
        (dict(labels=[*'abcdefghi', 'j\n']), 'more than one line'),
        (dict(labels=['a']), '1 labels for 10 classes'),
        (dict(labels=[]), '0 labels for 10 classes'),
        (dict(facts={**FACTS, 'crop_mode': 'border'}), 'crop_mode center only'),
        (dict(facts={**FACTS, 'input_size': [3, 32, 64]}), 'square inputs'),
        (dict(facts={**FACTS, 'input_size': [5, 32, 32]}), 'images of 5 channels'),
        (dict(facts={**FACTS, 'interpolation': 'random'}), 'interpolation random'),
        (dict(facts={key: value for key, value in FACTS.items() if key != 'mean'}), 'says nothing about mean'),
        (dict(facts={**FACTS, 'mean': [0.1] * 3}), 'other images or labels'),
        (dict(labels=list('abcdefghij')), 'other images or labels'),
    ],
)
def test_what_is_refused(repository, change, words):
    before = files(repository)
    arguments = {**dict(network=network(), facts=FACTS, folder=repository, name='net', engine='portable'), **change}
    with pytest.raises(UserError, match=words):
        deploy(**arguments)
    assert files(repository) == before


def test_tritons_own_parser_takes_the_configs():
    pb = pytest.importorskip('tritonclient.grpc.model_config_pb2')
    settings = Settings(max_batch=4, instances=2, threads=3, delay_us=50, queue=7, timeout_ms=90, top_k=3)
    for key, backend in BACKENDS.items():
        texts = configs('net', FACTS, key, settings)
        assert set(texts) == {'net', 'net_engine', *(() if backend.whole else ('net_prepare', 'net_labels'))}
        whole = {name: with_version(text, 5, Path('/models')) for name, text in texts.items()}
        parsed = {name: text_format.Parse(text, pb.ModelConfig()) for name, text in whole.items()}
        engine = parsed['net_engine']
        dims = {port.name: list(port.dims) for port in engine.input}
        assert dims == {'input': [3, 32, 32], **({'image': [1]} if backend.whole else {})}
        assert all(port.optional == backend.whole for port in engine.input)
        assert engine.backend == backend.name
        kind = engine.instance_group[0].kind
        assert pb.ModelInstanceGroup.Kind.Name(kind) == ('KIND_GPU' if key == 'tensorrt' else 'KIND_CPU')
        assert engine.max_batch_size == 4
        assert engine.instance_group[0].count == 2
        assert engine.dynamic_batching.max_queue_delay_microseconds == 50
        assert engine.dynamic_batching.default_queue_policy.max_queue_size == 7
        assert engine.dynamic_batching.default_queue_policy.default_timeout_microseconds == 90000
        assert list(engine.version_policy.specific.versions) == [5]
        assert engine.model_warmup[0].inputs['input'].zero_data
        parameters = {key: value.string_value for key, value in engine.parameters.items()}
        assert parameters.pop('macs') == '1'
        assert parameters.pop('top_k', None) == ('3' if backend.whole else None)
        assert parameters == ({backend.threads: '3'} if backend.threads else {})
        steps = parsed['net'].ensemble_scheduling.step
        # Every name that a step takes or gives is one of that model's.
        for step in steps:
            model = parsed[step.model_name]
            assert set(step.input_map) <= {port.name for port in model.input}
            assert set(step.output_map) <= {port.name for port in model.output}
        if backend.whole:
            assert [step.model_name for step in steps] == ['net_engine']
        else:
            assert [step.model_name for step in steps] == ['net_prepare', 'net_engine', 'net_labels']
            assert parsed['net_prepare'].instance_group[0].count == 2
            assert parsed['net_labels'].parameters['top_k'].string_value == '3'
        assert [list(port.dims) for port in parsed['net'].output] == [[3]] * 3


def test_one_instance_has_no_limited_queue():
    """Triton would pause for half a second at a time, see docs/serving.md."""
    for count in (1, 2):
        for text in configs('net', FACTS, 'ort-cpu', Settings(instances=count)).values():
            assert ('default_queue_policy' in text) == (count > 1 and 'dynamic_batching' in text)


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
        'network.onnx', 'libhetconv.so', 'model.py', 'prepare.py', 'labels.py', 'facts.json', 'labels.txt',
        '__pycache__', 'README.md', 'ensemble.pbtxt', 'engine.pbtxt',
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
        (['versions', 'net'], 'has no model net'),
        (['deploy', 'hetconv_resnet20_cifar_p4', '--labels', 'nothing.txt'], 'nothing.txt cannot be read as text'),
        (['activate', 'net', '1'], 'has no model net'),
    ],
)
def test_mistakes(tmp_path, arguments, words):
    result = CliRunner().invoke(app, [*arguments, '--to', str(tmp_path / 'models')])
    assert result.exit_code != 0
    assert words in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
def test_the_path_of_the_library_is_that_of_the_served_version(repository):
    """Of a backend that opens it itself: below the repository as the server sees it, or as it is here."""
    own = repository / 'native_engine'

    def path():
        return re.search(r'op_library_filename: "(.*)"', (own / 'config.pbtxt').read_text())[1]

    def native(number, **settings):
        return deploy(network(number), FACTS, repository, 'native', 'ort-cpu-native', settings=Settings(**settings))

    assert native(0.0) == 1
    assert Path(path()) == own / '1' / 'libhetconv.so'
    assert Path(path()).read_bytes() == cpu.library().read_bytes()
    assert native(1.0, mount='/models') == 2
    assert path() == '/models/native_engine/2/libhetconv.so'
    activate(repository, 'native', 1)
    assert Path(path()) == own / '1' / 'libhetconv.so'
    assert native(1.0, mount='/models') == 2  # it is there already
    assert path() == '/models/native_engine/2/libhetconv.so'
    assert native(2.0, mount='/') == 3
    assert path() == '/native_engine/3/libhetconv.so'
    # The same bytes wherever it is written, and after a move the path is another.
    moved = repository.rename(repository.with_name('moved'))
    assert deploy(network(0.0), FACTS, moved, 'native', 'ort-cpu-native') == 1
    assert f'"{moved}/native_engine/1/libhetconv.so"' in (moved / 'native_engine' / 'config.pbtxt').read_text()


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
        result = CliRunner().invoke(app, ['serve', str(tmp_path), '--http', '0', '--grpc', port, '--metrics', '0'])
    assert f'port {port} at 127.0.0.1 cannot be had (Address already in use): --grpc picks another' in str(
        result.exception
    )


def test_there_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    for repository, words in ((tmp_path / 'none', 'no such folder'), (tmp_path, 'there is no tritonserver')):
        result = CliRunner().invoke(app, ['serve', str(repository)])
        assert words in str(result.exception)
