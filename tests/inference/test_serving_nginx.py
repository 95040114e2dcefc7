"""nginx runs with nginx.conf of docs/serving, before a server that stands in."""

import contextlib
import http.client
import http.server
import json
import time

import pytest
from serving_examples import (
    MIB,
    TOKEN,
    Proxy,
    StandIn,
    free_port,
    needs_nginx,
)

INFER = '/v2/models/net/infer'


@pytest.fixture(scope='module')
def stand_in():
    server = StandIn()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def proxy(stand_in, tmp_path_factory):
    proxy = Proxy(tmp_path_factory.mktemp('nginx'), stand_in.server_address[1], free_port())
    yield proxy
    proxy.stop()


@pytest.fixture
def seen(stand_in):
    stand_in.seen.clear()
    return stand_in.seen


@needs_nginx
@pytest.mark.parametrize('token', [None, 'wrong', TOKEN[:-1], TOKEN + '0'])
def test_without_a_token_there_is_no_answer(proxy, seen, token):
    for path, method in ((INFER, 'POST'), ('/v2/health/ready', 'GET'), ('/v2/repository/index', 'POST')):
        status, headers, body = proxy.ask(path, method, b'{}' if method == 'POST' else None, token)
        assert status == 401
        assert headers['WWW-Authenticate'] == 'Bearer'
        assert 'token' in json.loads(body)['error']
    assert not seen


@needs_nginx
@pytest.mark.parametrize(
    ('path', 'method'),
    [
        (INFER, 'POST'),
        ('/v2/models/net_engine/versions/3/infer', 'POST'),
        ('/v2/models/a.b-c_d/ready', 'GET'),
        ('/v2/models/net/versions/1/ready', 'GET'),
        ('/v2/health/live', 'GET'),
        ('/v2/health/ready', 'GET'),
    ],
)
def test_inference_and_health_are_let_through(proxy, seen, path, method):
    status, _, body = proxy.ask(path, method, b'{"inputs":[]}' if method == 'POST' else None)
    assert (status, body) == (200, b'{}')
    (request,) = seen
    assert request[0] == path
    assert 'Authorization' not in request[1], 'the server has no use for the token'


# What tritonserver answers at besides; the last are none of its paths.
FORBIDDEN = [
    '/v2/repository/index', '/v2/repository/models/net/load', '/v2/repository/models/net/unload',
    '/v2/repository/any/index', '/v2/systemsharedmemory/status', '/v2/systemsharedmemory/region/a/register',
    '/v2/cudasharedmemory/status', '/v2/cudasharedmemory/region/a/register', '/v2/logging', '/v2/trace/setting',
    '/v2/models/net/trace/setting', '/v2/models/stats', '/v2/models/net/stats', '/v2/models/net/config',
    '/v2/models/net/generate', '/v2/models/net/generate_stream', '/v2/models/net', '/v2', '/metrics', '/', '/v2/health',
]  # fmt: skip
TRICKS = [
    '/v2/models/../repository/index', '/v2/models/net/../../repository/index', '/v2/models/net/infer/../config',
    '/v2/models/%2e%2e/repository/index', '/v2/models%2fnet%2fconfig', '/v2/models/..%2frepository/index',
    '/v2/models/x%2f..%2f..%2frepository%2findex', '/v2/models/net/infer%0a', '/v2/models/net/infer%0d%0aX:y',
    '/v2/models/net/infer%00', '/v2/models/net/infer;/../config', '/v2/models/a%20b/infer', '/v2/models//infer',
    '/V2/models/net/infer', '/v2/models/net/versions/x/infer', '/v2/models/net/infer/', '/v2/health/ready/..',
    'http://127.0.0.1/v2/repository/index', '/v2/models/net/config?/infer', '/v2/models/net/config%3f/infer',
    '/v2/models/net/config%23/infer', '/v2/models/net%252fconfig/infer', r'/v2/models/..\..\repository/infer',
]  # fmt: skip


@needs_nginx
@pytest.mark.parametrize('path', FORBIDDEN + TRICKS)
def test_nothing_else_is(proxy, seen, path):
    for method in ('GET', 'POST'):
        status, _, body = proxy.ask(path, method, b'{}' if method == 'POST' else None)
        assert status in (400, 403, 404), (method, status)
        assert status == 400 or json.loads(body)['error']
    assert not seen


@needs_nginx
def test_what_is_let_through_is_what_was_compared(proxy, seen):
    for path in (
        '/v2/models/x/../net/infer',
        '/v2/./models//net/infer',
        '/v2/models/n%65t/infer?a=/config',
        '//v2/models/net/infer',
    ):
        assert proxy.ask(path, 'POST', b'{}')[0] == 200
    assert [path for path, _, _ in seen] == [INFER] * 4


@needs_nginx
def test_other_methods_are_refused(proxy, seen):
    for path, method in ((INFER, 'GET'), (INFER, 'PUT'), (INFER, 'DELETE'), ('/v2/health/ready', 'POST')):
        assert proxy.ask(path, method, b'{}')[0] == 403
    assert not seen


@needs_nginx
def test_the_size_of_a_request_is_limited(proxy, seen):
    assert proxy.ask(INFER, 'POST', bytes(32 * MIB + 1000))[0] == 200
    assert [size for _, _, size in seen] == [32 * MIB + 1000]
    assert proxy.ask(INFER, 'POST', bytes(40 * MIB))[0] == 413
    chunks = (bytes(MIB) for _ in range(40))
    assert _status_of_chunks(proxy, chunks) == 413
    assert len(seen) == 1


@needs_nginx
def test_chunks_become_one_body(proxy, seen):
    """An older server has trouble with many small ones (CVE-2025-23310)."""
    assert _status_of_chunks(proxy, (b'{' + bytes(9) for _ in range(1000))) == 200
    ((_, headers, size),) = seen
    assert size == 10000
    assert headers['Content-Length'] == '10000'
    assert 'Transfer-Encoding' not in headers


@needs_nginx
def test_a_compressed_request_is_refused(proxy, seen):
    assert proxy.ask(INFER, 'POST', b'x', Content_Encoding='gzip')[0] == 415
    assert proxy.ask(INFER, 'POST', b'x', grpc_encoding='gzip')[0] == 415
    assert not seen


@needs_nginx
def test_a_slow_client_holds_up_nobody_and_is_cut_off(proxy, seen):
    with proxy.connect() as slow:
        slow.sendall(_head(1000))
        end, answers = time.monotonic() + 3, 0
        while time.monotonic() < end:  # longer than the timeout, which is that of a pause
            slow.sendall(b'x')
            assert proxy.ask(INFER, 'POST', b'{}')[0] == 200
            answers += 1
            time.sleep(0.2)
        assert answers == len(seen) > 3, 'the server heard of the slow one'
        assert 1 < _seconds_until_closed(slow) < 8
    assert len(seen) == answers
    with proxy.connect() as silent:  # not even a whole header
        silent.sendall(b'POST /v2/models/net/infer HTTP/1.1\r\nHost:')
        assert 1 < _seconds_until_closed(silent) < 8


@needs_nginx
def test_a_client_has_so_many_requests_at_a_time(proxy, seen):
    connections = []
    try:
        for _ in range(32):
            connections.append(proxy.connect())
            connections[-1].sendall(_head(1000))
        time.sleep(0.3)
        assert proxy.ask(INFER, 'POST', b'{}')[0] == 429
        assert not seen
    finally:
        for connection in connections:
            connection.close()


@needs_nginx
def test_plain_http_is_refused(proxy, seen):
    connection = http.client.HTTPConnection('127.0.0.1', proxy.port, timeout=10)
    connection.request('GET', '/v2/health/ready', headers={'Authorization': f'Bearer {TOKEN}'})
    assert connection.getresponse().status == 400
    connection.close()
    assert not seen


def _seconds_until_closed(connection):
    start = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b'', 'a connection that is cut off has no answer'
    return time.monotonic() - start


def _head(length):
    return (
        f'POST {INFER} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n'
    ).encode()


def _status_of_chunks(proxy, chunks):
    connection = proxy.connect()
    try:
        connection.sendall(_head(0).replace(b'Content-Length: 0', b'Transfer-Encoding: chunked'))
        try:
            for chunk in chunks:
                connection.sendall(b'%x\r\n%b\r\n' % (len(chunk), chunk))
            connection.sendall(b'0\r\n\r\n')
        except OSError:
            pass  # refused while it was sent: the answer is there
        return int(connection.recv(1000).split()[1])
    finally:
        connection.close()
