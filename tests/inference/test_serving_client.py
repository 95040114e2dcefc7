"""`hetconv client`: labels of images from a served model, and one line for whatever goes wrong."""

import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from fake_triton import JUNK, FakeTriton, serving
from triton_server import LABELS, MARKS, Server, encoded

pytest.importorskip('tritonclient')
PROTOCOLS = ['http', 'grpc']
SHARED = ('--shared-memory',)


def run(*arguments):
    """In this process: the exit code, and what went to stdout and stderr."""
    from inference.cli import main

    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, 'argv', ['hetconv', 'client', *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return stopped.value.code or 0, out.getvalue(), err.getvalue()


def fails(*arguments):
    """In one line, which is given without its beginning."""
    code, out, err = run(*arguments)
    assert code == 2, (out, err)
    assert err.startswith('hetconv: ')
    assert err.count('\n') == 1, err
    return err.removeprefix('hetconv: ')[:-1]


@pytest.fixture
def triton():
    with serving(FakeTriton()) as server:
        yield server


@pytest.fixture
def images(tmp_path):
    """Files with different contents, which the stand-in does not look at."""
    paths = [tmp_path / f'{name}.jpg' for name in 'abc']
    for path in paths:
        path.write_bytes(path.name.encode() * 10)
    return paths


@pytest.fixture
def regions():
    """Of this process in shared memory; none may stay."""

    def there():
        return {name for name in os.listdir('/dev/shm') if name.startswith(f'hetconv-{os.getpid()}-')}

    yield there
    assert not there()


def free_address():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return f'127.0.0.1:{s.getsockname()[1]}'


def test_each_image_is_a_request(triton, images):
    code, out, err = run(*images, '--url', triton.url, '--top-k', 2)
    assert (code, err) == (0, '')
    lines = out.splitlines()
    assert [line.split('  ')[0] for line in lines[::3]] == [str(path) for path in images]
    assert all(line.endswith(' ms') for line in lines[::3])
    assert lines[1:3] == ['   75.0%  cat', '   20.0%  dog']
    assert triton.images == [('cifar', path.read_bytes()) for path in images]


def test_json(triton, images, tmp_path):
    code, out, _ = run(*images, '--url', triton.url, '--json', '-')
    rows = json.loads(out)
    assert code == 0
    assert [row['image'] for row in rows] == [str(path) for path in images]
    assert rows[0]['labels'][0] == {'class': 0, 'label': 'cat', 'score': 0.75}
    assert rows[0]['model'] == 'cifar'
    assert rows[0]['ms'] > 0
    images[0].write_bytes(JUNK)
    code, out, _ = run(*images[:2], '--url', triton.url, '--json', tmp_path / 'rows.json')
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert code == 2
    assert 'no image' in rows[0]['error']
    assert rows[1]['labels']
    assert str(images[1]) in out


def test_shared_memory(triton, images, regions):
    """A larger image needs another region; a smaller one does not."""
    images[1].write_bytes(bytes(100_000))
    code, _, err = run(*images, '--url', triton.url, '--shared-memory')
    assert (code, err) == (0, '')
    assert triton.images == [('cifar', path.read_bytes()) for path in images]
    assert sum(path.endswith('/register') for _, path in triton.asked) == 2
    assert triton.regions == []


@pytest.mark.parametrize('problem', ['refused', 'junk', 'gone'])
def test_no_region_stays(triton, images, regions, problem):
    if problem == 'refused':
        triton.opens = False
        assert 'shares no memory with clients: Unable to open' in fails(images[0], '--url', triton.url, *SHARED)
    elif problem == 'junk':
        images[0].write_bytes(JUNK)
        assert 'no image' in fails(images[0], '--url', triton.url, *SHARED)
        assert triton.regions == []
    else:
        triton.vanish_after = 0
        fails(images[0], '--url', triton.url, *SHARED)


def test_which_model(triton, images):
    triton.models['dense'] = 0.0
    there = 'has 2 models: --model names one of cifar, dense'
    assert fails(images[0], '--url', triton.url) == f'{triton.url} {there}'
    assert run(images[0], '--url', f'http://{triton.url}/', '--model', 'dense')[0] == 0
    assert triton.images[-1][0] == 'dense'
    assert 'did you mean cifar?' in fails(images[0], '--url', triton.url, '--model', 'cifra')
    assert 'takes no encoded images' in fails(images[0], '--url', triton.url, '--model', 'cifar_engine')
    triton.models.clear()
    assert 'has no model of `hetconv deploy`' in fails(images[0], '--url', triton.url)


def test_a_server_that_does_not_list_its_models(triton, images):
    triton.lists = False
    assert '--model is needed' in fails(images[0], '--url', triton.url)
    assert 'unknown model' in fails(images[0], '--url', triton.url, '--model', 'nix')
    assert run(images[0], '--url', triton.url, '--model', 'cifar')[0] == 0


def test_bad_images_do_not_keep_from_the_others(triton, images, tmp_path):
    images[1].write_bytes(JUNK)
    code, out, err = run(tmp_path / 'nix.jpg', tmp_path, '/dev/zero', *images, '--url', triton.url)
    assert code == 2
    assert out.count(' ms\n') == 2
    lines = err.splitlines()
    assert lines[0] == f'hetconv: {tmp_path}/nix.jpg cannot be read: No such file or directory'
    assert lines[1] == f'hetconv: {tmp_path} cannot be read: Is a directory'
    assert 'has more than 33,554,432 bytes' in lines[2]
    assert lines[3] == f"hetconv: {images[1]}: in ensemble 'cifar', no image, or a damaged one"
    assert len(lines) == 4


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_no_server(images, protocol):
    url = free_address()
    arguments = (images[0], '--url', url, '--protocol', protocol)
    assert f'no server at {url}: ' in fails(*arguments)
    assert f'no server at {url}: ' in fails(*arguments, '--model', 'cifar')


def test_the_port_of_the_other_protocol(triton, images):
    import grpc

    assert fails(images[0], '--url', triton.url, '--protocol', 'grpc').endswith('; is it the port for --protocol http?')
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port('127.0.0.1:0')
    server.start()
    try:
        assert fails(images[0], '--url', f'127.0.0.1:{port}').endswith('; is it the port for --protocol grpc?')
    finally:
        server.stop(None)


def test_the_port_was_right_where_there_was_an_answer(triton):
    from inference.errors import UserError
    from inference.serving.client import Client

    with Client(triton.url) as client:
        client.check('cifar')
        triton.body = b'<html>'
        with pytest.raises(UserError) as error:
            client.classify('cifar', b'image')
    assert 'is it the port' not in str(error.value)


def test_a_server_that_stops(triton, images):
    triton.vanish_after = 1
    code, out, err = run(*images, images[0], '--url', triton.url)
    assert code == 2
    assert out.count(' ms\n') == 1
    assert err.count('\n') == 1
    assert f'{images[1]}: no server at {triton.url}: ' in err
    assert err.endswith('; 2 not sent\n')


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_a_server_that_says_nothing(images, protocol):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        url = f'127.0.0.1:{silent.getsockname()[1]}'
        text = fails(images[0], '--url', url, '--protocol', protocol, '--timeout', 0.2)
        assert text == f'no answer from {url} in 0.2 s'


def test_a_late_answer_is_of_its_image_alone(triton, images):
    triton.models['cifar'] = 0.4
    code, _, err = run(*images[:2], '--url', triton.url, '--timeout', 0.2)
    assert code == 2
    assert err == ''.join(f'hetconv: {path}: no answer from {triton.url} in 0.2 s\n' for path in images[:2])


def test_a_late_image_is_not_written_over(triton, images, regions):
    """It keeps its region, which the server lets go of when it has done with it."""
    triton.models['cifar'] = 0.4
    code, _, _ = run(*images[:2], '--url', triton.url, '--timeout', 0.2, '--shared-memory')
    assert code == 2
    registered = [path for _, path in triton.asked if path.endswith('/register')]
    assert len(set(registered)) == 2
    assert triton.images == [('cifar', path.read_bytes()) for path in images[:2]]
    assert triton.regions == []


@pytest.mark.parametrize('body', [b'<html>', b'', b'{"error": 3}', b'[3]', b'null'])
def test_not_triton(triton, images, body):
    triton.body = body
    assert triton.url in fails(images[0], '--url', triton.url)
    assert triton.url in fails(images[0], '--url', triton.url, '--model', 'cifar')


def test_labels_do_not_write_to_the_terminal(triton, images):
    triton.labels = ['a\x1b[31m\x07', 'b\nc']
    code, out, _ = run(images[0], '--url', triton.url)
    assert code == 0
    assert '  a?[31m?\n' in out
    assert '  b c\n' in out


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--url', 'https://x'), 'without https://'),
        (('--url', 'x:99999'), 'is no address of a server'),
        (('--url', 'x/path'), 'HOST:PORT'),
        (('--url', ''), 'no server at 127.0.0.1:'),
        (('--protocol', 'smtp'), 'unknown protocol'),
        (('--timeout', '0'), '--timeout'),
        (('--json', '/nix/rows.json'), 'does not exist'),
        (('--json', 'rows.txt'), 'must end in .json'),
    ],
)
def test_wrong_options(images, arguments, words, monkeypatch):
    port = int(free_address().rpartition(':')[2])
    monkeypatch.setattr('inference.serving.client.PORTS', {'http': port, 'grpc': port})
    assert words in fails(images[0], *arguments)


def test_without_tritonclient(images, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tritonclient.http', None)
    assert fails(images[0]) == "tritonclient is not installed: pip install 'timm-hetconv[serve]'"


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp('triton'), None, '--shared-memory') as server:
        yield server


class TestServer:
    """The real one."""

    pytestmark = MARKS

    @pytest.mark.parametrize('shared', [(), SHARED])
    @pytest.mark.parametrize('protocol', PROTOCOLS)
    def test_answers(self, server, tmp_path, regions, protocol, shared):
        paths = [tmp_path / f'{i}.png' for i in range(3)]
        for seed, path in enumerate(paths):
            path.write_bytes(encoded(seed))
        (tmp_path / 'words.png').write_bytes(JUNK)
        url = f'127.0.0.1:{getattr(server.ports, protocol)}'
        arguments = ('--url', url, '--protocol', protocol, *shared, '--json', '-')
        code, out, err = run(paths[0], tmp_path / 'words.png', *paths[1:], *arguments)
        rows = json.loads(out)
        assert code == 2
        assert err.count('\n') == 1
        assert 'words.png: in ensemble' in err
        assert 'no image' in rows[1]['error']
        for row in (rows[0], *rows[2:]):
            assert len(row['labels']) == 5
            assert all(LABELS[label['class']] == label['label'] for label in row['labels'])
        client = server.client(protocol)[1]
        status = client.get_system_shared_memory_status()
        assert not (status if protocol == 'http' else status.regions)

    @pytest.mark.parametrize('protocol', PROTOCOLS)
    def test_unknown_models(self, server, tmp_path, protocol):
        (tmp_path / 'a.png').write_bytes(encoded(0))
        arguments = (tmp_path / 'a.png', '--url', f'127.0.0.1:{getattr(server.ports, protocol)}')
        arguments += ('--protocol', protocol)
        assert 'did you mean net?' in fails(*arguments, '--model', 'nett')
        assert 'takes no encoded images; there are net' in fails(*arguments, '--model', 'net_engine')
        assert run(*arguments)[0] == 0

    @pytest.mark.parametrize('protocol', PROTOCOLS)
    def test_the_wrong_port(self, server, tmp_path, protocol):
        (tmp_path / 'a.png').write_bytes(encoded(0))
        other = server.ports.grpc if protocol == 'http' else server.ports.http
        assert f'127.0.0.1:{other}' in fails(
            tmp_path / 'a.png', '--url', f'127.0.0.1:{other}', '--protocol', protocol, '--timeout', 5
        )

    @pytest.mark.parametrize('protocol', PROTOCOLS)
    def test_a_server_without_shared_memory(self, tmp_path, regions, protocol):
        path = tmp_path / 'a.png'
        path.write_bytes(encoded(0))
        with Server(tmp_path) as server:
            url = f'127.0.0.1:{getattr(server.ports, protocol)}'
            text = fails(path, path, '--url', url, '--protocol', protocol, *SHARED)
        assert (
            text
            == f'{path}: {url} shares no memory with clients: `hetconv serve --shared-memory` allows it; 1 not sent'
        )
