"""The file between a bench run and its report: what is written is read back, and what is wrong is named."""

import json
import os

import pytest

pytest.importorskip('pydantic')

from synthetic_runs import fail, make_layers, make_rows, make_run

from inference.errors import UserError
from inference.rows import Run, write_text_atomically


@pytest.fixture
def run():
    rows = make_rows()
    rows[3] = fail(rows[3], 'it says <no> & "ends"')
    return make_run(rows, make_layers())


def test_what_was_saved_is_loaded(run, tmp_path):
    run.save(tmp_path / 'run.json')
    assert Run.load(tmp_path / 'run.json') == run
    assert Run.load(str(tmp_path / 'run.json')).rows[3].error == 'it says <no> & "ends"'
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r'none\.json: No such file .*hetconv bench MODEL --json'):
        Run.load(tmp_path / 'none.json')


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(UserError, match='Is a directory'):
        Run.load(tmp_path)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.99])
def test_truncated_file(run, tmp_path, share):
    text = run.model_dump_json()
    (tmp_path / 'run.json').write_text(text[: int(share * len(text))])
    with pytest.raises(UserError, match=r'run\.json is not the JSON of `hetconv bench`: the file: ') as info:
        Run.load(tmp_path / 'run.json')
    assert '\n' not in str(info.value)


def test_file_that_is_no_text(tmp_path):
    (tmp_path / 'run.json').write_bytes(b'\xff\xfe\x00\x80' * 9)
    with pytest.raises(UserError, match='not text'):
        Run.load(tmp_path / 'run.json')


@pytest.mark.parametrize(
    ('path', 'value', 'named'),
    [
        (('rows', 2, 'ms_median'), 'fast', r'rows\.2\.ms_median'),
        (('rows', 2, 'ms_median'), {}, r'rows\.2\.ms_median'),
        (('rows', 0, 'speed'), 1, r'rows\.0\.speed'),
        (('rows', 1, 'status'), 'good', r'rows\.1\.status'),
        (('rows', 1, 'threads'), None, r'rows\.1\.threads'),
        (('layers', 4, 'shape'), [1], r'layers\.4\.shape'),
        (('schema_version',), 2, 'schema_version'),
        (('settings',), None, 'settings'),
    ],
)
def test_wrong_field_is_named(run, tmp_path, path, value, named):
    data = json.loads(run.model_dump_json())
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    (tmp_path / 'run.json').write_text(json.dumps(data))
    with pytest.raises(UserError, match=f'`hetconv bench`: {named}: '):
        Run.load(tmp_path / 'run.json')


@pytest.mark.parametrize('field', ['created', 'environment', 'settings'])
def test_missing_field_is_named(run, tmp_path, field):
    data = json.loads(run.model_dump_json())
    del data[field]
    (tmp_path / 'run.json').write_text(json.dumps(data))
    with pytest.raises(UserError, match=field):
        Run.load(tmp_path / 'run.json')


def test_write_replaces_the_old_file(tmp_path):
    path = tmp_path / 'page.html'
    write_text_atomically(path, 'old')
    write_text_atomically(path, 'new')
    assert path.read_text() == 'new'
    assert [p.name for p in tmp_path.iterdir()] == ['page.html']


@pytest.mark.parametrize('step', ['write_bytes', 'replace'])
def test_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    path = tmp_path / 'page.html'
    path.write_text('old')

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(*((type(path), step) if step == 'write_bytes' else (os, step)), full)
    with pytest.raises(UserError, match=r'page\.html cannot be written: No space left on device'):
        write_text_atomically(path, 'new')
    monkeypatch.undo()
    assert path.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['page.html'], 'half a file was left behind'


def test_write_into_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match='cannot be written: No such file'):
        write_text_atomically(tmp_path / 'none' / 'page.html', 'text')
