"""The file beside an engine: written after it, and what `check` says of everything that can be wrong."""

import json
import os
import signal

import pytest

from inference.errors import UserError
from inference.tensorrt import manifest as manifest_module
from inference.tensorrt.builder import Built
from inference.tensorrt.layers import Layer
from inference.tensorrt.manifest import Manifest, check, manifest_path, save_engine
from inference.tensorrt.options import BuildOptions

MODEL = {'architecture': 'hetconv_resnet20_cifar_p4', 'macs': 13812352, 'input_size': [3, 32, 32], 'mean': [0.5, 0.4]}


def built(plan=b'vtrt' + bytes(range(256)), version='1.7.1.116', plugins=None, engine='tensorrt-rtx', **settings):
    """Of a build that was never made."""
    settings = {'lowering': 'portable', 'sms': (80, 86), 'profiles': ((1, 8, 64), (100, 128, 256)), **settings}
    return Built(
        plan=plan,
        version=version,
        options=BuildOptions(engine, **settings),
        plugins=plugins or {},
        notes=[],
        network={'CONVOLUTION': 37},
        layers=[Layer(name='a', type='correlation', nodes=['conv', 'relu'], tactic='stub')],
        seconds=1.23456,
    )


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / 'resnet.engine'
    save_engine(path, built(), MODEL, 3e-4)
    return path


def test_what_is_written_is_what_is_read(engine):
    manifest = check(engine, sm=86, version='1.7.1.116', batch=8, engine='tensorrt-rtx')
    assert manifest == Manifest.model_validate_json(manifest_path(engine).read_text())
    assert manifest.model == MODEL
    assert manifest.sms == [80, 86]
    assert [profile.model_dump() for profile in manifest.profiles] == [
        {'min': 1, 'opt': 8, 'max': 64},
        {'min': 100, 'opt': 128, 'max': 256},
    ]
    assert manifest.size == 260
    assert not manifest.plugins
    assert manifest.graph_error == 3e-4
    assert manifest.layers[0].nodes == ['conv', 'relu']
    assert manifest.options['optimization_level'] == 3
    assert sorted(path.name for path in engine.parent.iterdir()) == ['resnet.engine', 'resnet.engine.json']
    assert check(engine) == manifest, 'what is not asked is not checked'


def test_the_plugins_are_in_it(tmp_path):
    path = tmp_path / 'p.engine'
    plugins = {'hetconv::HetConv2d': 10, 'hetconv::HetConv2dResidual': 8}
    settings = dict(engine='tensorrt', lowering='plugin', sms=(86,), version='11.4.0')
    save_engine(path, built(plugins=plugins, **settings), MODEL, 0)
    assert check(path).plugins == plugins


@pytest.mark.parametrize(
    ('asked', 'words'),
    [
        (dict(sm=75), 'is built for SM 80, 86, this GPU is SM 75: build with --sm 75'),
        (dict(sm=90), 'this GPU is SM 90: build on this machine with --engine tensorrt'),
        (dict(sm=89), 'this GPU is SM 89'),
        (dict(version='1.8.0.1'), 'is built with tensorrt-rtx 1.7.1.116, here is 1.8.0.1: build it again'),
        (dict(version='1.7.1'), 'here is 1.7.1: build it again'),
        (dict(engine='tensorrt'), 'is for tensorrt-rtx, not for tensorrt: build with --engine tensorrt'),
        (dict(batch=0), 'batch 0 is not one of'),
        (dict(batch=65), 'which takes 1 to 64, 100 to 256: build with --batch that has it'),
        (dict(batch=257), 'batch 257 is not one of'),
    ],
    ids=str,
)
def test_not_for_this_machine(asked, words, engine):
    with pytest.raises(UserError, match=words) as caught:
        check(engine, **asked)
    assert str(engine) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('batch', [1, 64, 100, 256])
def test_every_batch_of_the_profiles(batch, engine):
    check(engine, batch=batch)


@pytest.mark.parametrize(
    ('compatible', 'there', 'loads'),
    [
        (True, '11.5.0', True),
        (True, '11.4.1', True),
        (True, '11.3.0', False),
        (True, '12.0.0', False),
        (True, '11.4.0', True),
        (False, '11.5.0', False),
        (False, '11.4.0', True),
    ],
)
def test_versions(compatible, there, loads, tmp_path):
    path = tmp_path / 'v.engine'
    save_engine(
        path, built(engine='tensorrt', sms=(86,), version='11.4.0', version_compatible=compatible), MODEL, 0
    )  # fmt: skip
    if loads:
        check(path, version=there)
    else:
        with pytest.raises(UserError, match=f'is built with tensorrt 11.4.0, here is {there}'):
            check(path, version=there)


@pytest.mark.parametrize(
    ('level', 'sm', 'runs'),
    [('ampere-plus', 120, True), ('ampere-plus', 75, False), ('same-sm', 89, False), (None, 89, False)],
)
def test_other_gpus(level, sm, runs, tmp_path):
    path = tmp_path / 'h.engine'
    save_engine(path, built(engine='tensorrt', sms=(86,), hardware_compatible=level), MODEL, 0)
    if runs:
        check(path, sm=sm)
    else:
        with pytest.raises(UserError, match=f'is built for SM 86, this GPU is SM {sm}: build on this machine'):
            check(path, sm=sm)


def test_no_engine(tmp_path):
    with pytest.raises(UserError, match=r'none.engine: No such file'):
        check(tmp_path / 'none.engine')
    with pytest.raises(UserError, match=r'Is a directory'):
        check(tmp_path)


@pytest.mark.parametrize('content', [b'', b'vtr', b'\x08\x0a\x12\x07', b'no engine at all'])
def test_a_file_that_is_no_engine(content, engine):
    engine.write_bytes(content)
    with pytest.raises(UserError, match='is no TensorRT engine; `hetconv build'):
        check(engine)


def test_an_engine_of_others(engine):
    manifest_path(engine).unlink()
    with pytest.raises(UserError, match=r'resnet.engine.json: no such file; an engine and its .json go together'):
        check(engine)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda text: text[: len(text) // 2], 'the file: Invalid JSON'),
        (lambda text: '', 'the file: Invalid JSON'),
        (lambda text: '[]', 'the file: Input should be'),
        (lambda text: text.replace('"size"', '"sise"'), r'\(size: Field required\)'),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), 'schema_version: Input should be 1'),
        (lambda text: text.replace('"fp16"', '"int8"'), 'precision: Input should be'),
        (lambda text: '\udcff', 'not text'),
    ],
    ids=['half', 'empty', 'other JSON', 'field', 'schema', 'value', 'bytes'],
)
def test_a_damaged_manifest(change, words, engine):
    path = manifest_path(engine)
    path.write_bytes(change(path.read_text()).encode(errors='surrogateescape'))
    with pytest.raises(UserError, match=r'resnet.engine.json is damaged or of another version') as caught:
        check(engine)
    assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match=words):
        check(engine)


def test_a_truncated_engine(engine):
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r'is cut off, or not the engine that its .json describes: it has 259 bytes and should have 260'
    ):
        check(engine)


def test_another_engine_of_the_same_name(engine):
    engine.write_bytes(engine.read_bytes() + b'x')
    with pytest.raises(
        UserError, match=r'is not the engine that its .json describes: it has 261 bytes and should have 260'
    ):
        check(engine)


@pytest.mark.parametrize('position', [4, 130, 259])
def test_one_changed_bit(position, engine):
    data = bytearray(engine.read_bytes())
    data[position] ^= 1
    engine.write_bytes(data)
    with pytest.raises(UserError, match='is damaged, or not the engine that its'):
        check(engine)


@pytest.mark.parametrize('size', [260, 300])
def test_a_crash_between_the_two_files_is_found(size, engine, monkeypatch):
    """The engine is new, its manifest is the old one, or there was none."""

    replace = os.replace

    def crash(source, target):
        if target.suffix == '.json':
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr('os.replace', crash)
    plan = b'vtrt' + b'\xff' * (size - 4)
    with pytest.raises(KeyboardInterrupt):
        save_engine(engine, built(plan=plan), MODEL, 0)
    with pytest.raises(UserError, match='not the engine that its'):
        check(engine)
    fresh = engine.with_name('fresh.engine')
    with pytest.raises(KeyboardInterrupt):
        save_engine(fresh, built(plan=plan), MODEL, 0)
    with pytest.raises(UserError, match='no such file'):
        check(fresh)


def test_ctrl_c_does_not_come_between_the_two_files(engine, monkeypatch):
    replace, seen = os.replace, []

    def interrupted(source, target):
        replace(source, target)
        signal.raise_signal(signal.SIGINT)  # waits until both are there
        seen.append(target)

    monkeypatch.setattr('os.replace', interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            save_engine(engine, built(plan=b'vtrt' + b'\xff' * 300), MODEL, 0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 2
    assert check(engine).size == 304
    assert len(list(engine.parent.iterdir())) == 2


def test_a_full_disk_leaves_the_old_engine(engine, monkeypatch):
    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    before = {path.name: path.read_bytes() for path in engine.parent.iterdir()}
    monkeypatch.setattr('os.replace', full_disk)
    with pytest.raises(UserError, match=r'resnet.engine cannot be written: No space left'):
        save_engine(engine, built(plan=b'vtrtnew'), MODEL, 0)
    assert {path.name: path.read_bytes() for path in engine.parent.iterdir()} == before


def test_a_manifest_of_a_later_version_is_not_half_understood(engine):
    path = manifest_path(engine)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, 'encryption': 'aes'}))
    with pytest.raises(UserError, match='encryption: Extra inputs are not permitted'):
        manifest_module.read_manifest(engine)
