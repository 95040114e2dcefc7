"""The cache: a hit is exact, and whatever is not the very thing is refused with its reason."""

import json
import multiprocessing

import pytest

from calib.cache import key_of, load_ranges, path_of, save_ranges
from inference.errors import UserError

RANGES = {'a': (-1.0 / 3, 2.0 / 7), 'b': (0.0, 1e-30)}
KEY = key_of(b'model', 'images', 'minmax', False, ['a', 'b'])


@pytest.fixture
def saved(tmp_path):
    path = path_of(tmp_path, KEY)
    save_ranges(path, KEY, RANGES)
    return path


def test_a_hit_is_exact(saved):
    assert load_ranges(saved, KEY) == RANGES
    assert load_ranges(saved.with_name('other.ranges.json'), KEY) is None


def test_the_key_depends_on_everything(monkeypatch):
    others = [
        key_of(b'modem', 'images', 'minmax', False, ['a', 'b']),
        key_of(b'model', 'image', 'minmax', False, ['a', 'b']),
        key_of(b'model', 'images', 'mse', False, ['a', 'b']),
        key_of(b'model', 'images', 'minmax', True, ['a', 'b']),
        key_of(b'model', 'images', 'minmax', False, ['a']),
    ]
    monkeypatch.setattr('calib.cache._onnxruntime_version', lambda: '1.0')
    others.append(key_of(b'model', 'images', 'minmax', False, ['a', 'b']))
    assert len({KEY, *others}) == 7


def test_what_is_refused(saved, monkeypatch):
    whole = saved.read_text()
    for length in range(0, len(whole) - 2, 23):
        saved.write_text(whole[:length])
        with pytest.raises(UserError, match='damaged or no cache'):
            load_ranges(saved, KEY)
    saved.write_text(whole.replace('0.2857', '0.2858'))
    with pytest.raises(UserError, match='its checksum is wrong'):
        load_ranges(saved, KEY)
    saved.write_text(whole)
    with pytest.raises(UserError, match='of another network, other images or another method'):
        load_ranges(saved, key_of(b'another', 'images', 'minmax', False, ['a', 'b']))
    saved.write_text(json.dumps(json.loads(whole) | {'form': 0}))
    with pytest.raises(UserError, match='has the form 0 of another version'):
        load_ranges(saved, KEY)
    saved.write_text('[]')
    with pytest.raises(UserError, match='damaged or no cache'):
        load_ranges(saved, KEY)
    with pytest.raises(UserError, match='cannot be written'):
        save_ranges(saved.parent / 'nothing' / 'x.json', KEY, RANGES)


def write(path, count):
    for _ in range(count):
        save_ranges(path, KEY, RANGES)


def test_writers_at_the_same_time(saved):
    """Two processes write one file while it is read: every read finds it whole."""
    context = multiprocessing.get_context('spawn')
    writers = [context.Process(target=write, args=(saved, 200)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert load_ranges(saved, KEY) == RANGES
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # nothing is left beside it
