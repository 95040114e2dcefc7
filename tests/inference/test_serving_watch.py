"""The watch over a server, with processes that stand in for it: see test_serving_faults.py for the real one."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from inference.serving.watch import backends_of, start_of, watch

# A server with one process of a backend, which is never waited for.
SERVER = """
import subprocess, sys, time
subprocess.Popen(['triton_stub', sys.argv[1], sys.argv[2]], executable=sys.executable)
time.sleep(60)
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / 'net_engine' / '1' / 'model.py'
    path.parent.mkdir(parents=True)
    path.write_text('import time; time.sleep(60)')
    return path


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def watched(start, meanwhile):
    """The exit code and what was said, while another thread does something and then ends it all."""
    said, errors = [], []

    def work():
        try:
            meanwhile(said)
        except BaseException as error:
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return watch(start, said.append), said
    finally:
        thread.join()
        if errors:
            raise errors[0]


def exits(code):
    return lambda: subprocess.Popen([sys.executable, '-c', f'raise SystemExit({code})'])


def test_one_that_ends_by_itself_at_once_is_given_up(monkeypatch):
    monkeypatch.setattr('inference.serving.watch.MOST_WAIT', 0.1)
    said = []
    assert watch(exits(3), said.append) == 3
    assert len(said) == 3
    assert 'ended with 3: started again' in said[0]
    assert 'given up' in said[-1]


def test_one_that_is_killed_is_started_again_however_often(monkeypatch):
    monkeypatch.setattr('inference.serving.watch.MOST_WAIT', 0.1)
    started = []

    def start():
        started.append(subprocess.Popen([sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)']))
        return started[-1]

    code, said = watched(start, lambda said: until(lambda: len(started) > 5))
    assert code == 0
    assert set(said) == {'the server has ended with -9: started again'}


def test_it_ends_when_it_is_told_to_while_it_waits(monkeypatch):
    monkeypatch.setattr('inference.serving.watch.MOST_WAIT', 60.0)
    start = time.monotonic()
    kill = lambda: subprocess.Popen([sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)'])  # noqa: E731
    code, _ = watched(kill, lambda said: until(lambda: 'in 3 s' in ' '.join(said)))
    assert code == 0
    assert time.monotonic() - start < 10


def test_a_dead_process_of_a_backend_has_its_model_loaded_anew(model):
    region = f'hetconv_test_{os.getpid()}'
    servers = []

    def start():
        command = [sys.executable, '-c', SERVER, str(model), region]
        servers.append(start_of(command, dict(os.environ))())
        return servers[-1]

    def meanwhile(said):
        (backend,) = until(lambda: servers and backends_of(servers[0].pid, {}))
        assert (backend.model, backend.region, backend.dead) == (model, region, False)
        time.sleep(1.2)  # it is seen alive
        os.utime(model, (0, 0))
        os.kill(backend.pid, signal.SIGKILL)
        until(lambda: said)
        time.sleep(1.5)

    code, said = watched(start, meanwhile)
    assert code == 0
    assert said == ['the process of net_engine version 1 has died: loaded anew']  # once
    assert model.stat().st_mtime > 0
    assert len(servers) == 1


def test_where_the_model_cannot_be_touched_all_is_started_again(model):
    servers = []

    def start():
        servers.append(start_of([sys.executable, '-c', SERVER, str(model), 'no_region'], dict(os.environ))())
        return servers[-1]

    def meanwhile(said):
        (backend,) = until(lambda: servers and backends_of(servers[0].pid, {}))
        time.sleep(1.2)
        model.rename(model.with_suffix('.gone'))
        os.kill(backend.pid, signal.SIGKILL)
        until(lambda: len(servers) > 1)

    code, said = watched(start, meanwhile)
    assert code == 0
    assert 'cannot be touched (No such file or directory): all is started again' in said[0]


def test_what_a_killed_server_leaves_is_taken_away(model, tmp_path, monkeypatch):
    monkeypatch.setattr('inference.serving.watch.SHARED_MEMORY', tmp_path)
    (tmp_path / 'region').write_bytes(b'')
    (tmp_path / 'other').write_bytes(b'')
    servers, pids = [], []

    def start():
        servers.append(subprocess.Popen([sys.executable, '-c', SERVER, str(model), 'region']))
        return servers[-1]

    def meanwhile(said):
        (backend,) = until(lambda: servers and backends_of(servers[0].pid, {}))
        pids.append(backend.pid)
        time.sleep(1.2)
        servers[0].kill()
        until(lambda: len(servers) > 1)

    assert watched(start, meanwhile)[0] == 0
    until(lambda: not (tmp_path / 'region').exists())
    assert (tmp_path / 'other').exists()
    # Ended, whether or not init has taken note.
    assert all(path.read_text().rpartition(')')[2].split()[0] == 'Z' for path in Path('/proc').glob(f'{pids[0]}/stat'))
