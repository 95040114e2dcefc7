"""The model repository: what is in it, versions, and that no reader sees half of one."""

import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from google.protobuf import text_format
from idle_networks import FACTS, network
from typer.testing import CliRunner

from inference.cli import app
from inference.errors import UserError
from inference.kernels import cpu
from inference.serving.config import BACKENDS, Settings, configs, with_version
from inference.serving.repository import activate, deploy, served_version, versions
from inference.serving.version import ROLES


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
        (dict(facts={**FACTS, 'std': [0.1] * 2}), 'with 2 values of std'),
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
