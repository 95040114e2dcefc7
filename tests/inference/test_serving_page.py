"""`hetconv page`: what its server forwards and what not; and, in Chromium, what a visitor sees."""

import http.client
import json
import re
import shutil
import socket
import sys
import threading
import time
from contextlib import redirect_stderr
from io import StringIO

import pytest
from fake_triton import JUNK, FakeTriton, serving
from triton_server import LABELS, MARKS, Server, encoded, quietly

from inference.errors import UserError
from inference.serving import page, page_request
from inference.serving.address import answers
from inference.serving.page import PageServer
from inference.serving.page_request import MAX_BODY
from inference.serving.repository import deploy

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
HEAD = json.dumps({'inputs': [dict(name='image', shape=[1, 1], datatype='BYTES', parameters={'binary_data_size': 7})]})
BODY, LENGTH = HEAD.encode() + b'\3\0\0\0abc', {'Inference-Header-Content-Length': str(len(HEAD))}


@pytest.fixture
def triton():
    with serving(FakeTriton()) as server:
        yield server


@pytest.fixture
def pages(triton):
    with serving(PageServer(triton.url, port=0)) as server:
        yield server


def ask(pages, method, path, body=None, headers=None, connection=None):
    """Status, headers and body."""
    connection = connection or connected(pages)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def connected(pages):
    return http.client.HTTPConnection('127.0.0.1', pages.server_address[1], timeout=10)


def test_the_page_is_all_there_is(pages):
    status, headers, body = ask(pages, 'GET', '/')
    assert (status, body) == (200, page.PAGE.read_bytes())
    assert headers['Content-Type'] == 'text/html; charset=utf-8'
    assert headers['X-Content-Type-Options'] == 'nosniff'
    policy = headers['Content-Security-Policy']
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert 'unsafe' not in policy
    assert not re.search(r'(src|href)=["\'](?!data:)|@import|url\(', body.decode())
    assert 'Python' not in headers['Server']
    assert ask(pages, 'HEAD', '/?x=1')[2] == b''


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/page.html', 404),
        ('GET', '/../page.py', 404),
        ('GET', '/v2', 404),
        ('GET', '/metrics', 404),
        ('GET', '/v2/models/cifar', 404),
        ('GET', '/v2/models/a%2Fb/config', 404),
        ('POST', '/v2/repository/models/cifar/unload', 404),
        ('POST', '/v2/systemsharedmemory/region/a/register', 404),
        ('POST', '/v2/models/cifar/versions/1/infer', 404),
        ('POST', '/', 405),
        ('POST', '/v2/health/ready', 405),
        ('GET', '/v2/models/cifar/infer', 405),
        ('DELETE', '/v2/models/cifar/config', 405),
        ('OPTIONS', '/v2/repository/index', 405),
        ('BREW', '/', 501),
    ],
)
def test_nothing_else_is_forwarded(pages, triton, method, path, status):
    found, headers, body = ask(pages, method, path, b'{}' if method == 'POST' else None)
    assert found == status
    assert json.loads(body)['error']
    assert headers['Content-Security-Policy'] == "default-src 'none'"
    assert (headers['Allow'] is not None) == (status == 405)
    assert triton.asked == []


def test_what_is_forwarded(pages, triton):
    connection = connected(pages)
    status, headers, body = ask(pages, 'POST', '/v2/repository/index', b'{}', connection=connection)
    assert (status, json.loads(body)) == (200, triton.index())
    assert headers['Content-Type'] == 'application/json'
    status, headers, body = ask(pages, 'POST', '/v2/models/cifar/infer', BODY, LENGTH, connection)
    assert status == 200
    assert json.loads(body)['outputs'][1]['data'] == triton.labels
    assert float(re.fullmatch(r'triton;dur=([\d.]+)', headers['Server-Timing'])[1]) > 0
    assert triton.images == [('cifar', b'abc')]
    for path in ('/v2/health/ready', '/v2/models/cifar_engine/config', '/v2/models/cifar_engine/stats'):
        assert ask(pages, 'GET', path, connection=connection)[0] == 200
    assert ask(pages, 'GET', '/v2/models/nix_engine/config', connection=connection)[0] == 404


@pytest.mark.parametrize(
    ('headers', 'status'),
    [
        ({'Content-Length': str(MAX_BODY + 1)}, 413),
        ({'Content-Length': str(MAX_BODY + 1), 'Expect': '100-continue'}, 413),
        ({'Content-Length': '-1'}, 400),
        ({'Content-Length': '9' * 100}, 400),
        ({'Transfer-Encoding': 'chunked'}, 411),
        ({}, 411),
    ],
)
def test_bodies_that_are_not_read(pages, triton, headers, status):
    with socket.create_connection(pages.server_address, timeout=10) as s:
        lines = [f'{key}: {value}' for key, value in headers.items()]
        s.sendall('\r\n'.join(['POST /v2/models/cifar/infer HTTP/1.1', *lines, '', '']).encode())
        assert s.recv(1000).startswith(f'HTTP/1.1 {status} '.encode())
    assert triton.asked == []


def test_a_client_that_sends_too_much_hears_why(pages):
    """Not a reset connection."""
    assert ask(pages, 'POST', '/v2/models/cifar/infer', bytes(MAX_BODY + 1))[0] == 413


def test_a_body_of_get_is_no_second_request(pages, triton):
    inner = b'GET /v2/health/live HTTP/1.1\r\n\r\n'
    assert ask(pages, 'GET', '/v2/health/ready', inner)[0] == 400
    assert triton.asked == []


@pytest.mark.parametrize(
    ('headers', 'status'),
    [
        ({'Host': 'attacker.example'}, 403),
        ({'Host': 'attacker.example:80'}, 403),
        ({'Sec-Fetch-Site': 'cross-site'}, 403),
        ({'Host': 'localhost:8080'}, 200),
        ({'Host': '[::1]:8080'}, 200),
        ({'Sec-Fetch-Site': 'same-origin'}, 200),
    ],
)
def test_other_sites_are_not_answered(pages, headers, status):
    assert ask(pages, 'GET', '/v2/health/ready', headers=headers)[0] == status


def test_triton_goes_and_comes_back(triton):
    """Over one connection of the client."""
    with serving(PageServer(triton.url, port=0)) as pages:
        connection = connected(pages)
        assert ask(pages, 'GET', '/v2/health/ready', connection=connection)[0] == 200
        triton.vanish_after = 0
        for _ in range(2):
            status, _, body = ask(pages, 'POST', '/v2/models/cifar/infer', BODY, LENGTH, connection)
            assert status == 502
            assert json.loads(body)['error'].startswith(f'no Triton at {triton.url}: ')
        with serving(FakeTriton()) as other:
            pages.triton = other.url
            assert ask(pages, 'POST', '/v2/models/cifar/infer', BODY, LENGTH, connection)[0] == 200


def test_a_late_answer(pages, triton, monkeypatch):
    monkeypatch.setattr(page_request, 'ANSWER', 0.1)
    triton.models['cifar'] = 0.3
    status, _, body = ask(pages, 'POST', '/v2/models/cifar/infer', BODY, LENGTH)
    assert status == 504
    assert json.loads(body) == {'error': f'no answer from Triton at {triton.url} in 0.1 s'}


def test_slow_clients_do_not_block_others_and_have_an_end(pages, monkeypatch):
    """Whatever they are in the middle of, and however often they send a byte."""
    monkeypatch.setattr(page_request, 'ARRIVE', 0.5)
    beginnings = [b'', b'GET / HT', b'POST /v2/models/cifar/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\n']
    slow = [socket.create_connection(pages.server_address, timeout=10) for _ in beginnings]
    ends = [0.0] * len(slow)

    def drip(i):
        start = time.monotonic()
        try:
            slow[i].sendall(beginnings[i])
            while time.monotonic() - start < 5:
                time.sleep(0.05)
                if beginnings[i]:
                    slow[i].sendall(b'x')
                slow[i].settimeout(0.01)
                try:
                    if not slow[i].recv(1000):
                        break
                except TimeoutError:
                    pass
        except OSError:
            pass
        ends[i] = time.monotonic() - start

    threads = [threading.Thread(target=drip, args=(i,)) for i in range(len(slow))]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    start = time.monotonic()
    assert ask(pages, 'GET', '/')[0] == 200
    assert time.monotonic() - start < 0.4
    for thread in threads:
        thread.join()
    for s in slow:
        s.close()
    assert max(ends) < 4


def test_connections_are_limited_and_come_free(triton, monkeypatch):
    monkeypatch.setattr(page, 'CONNECTIONS', 2)
    with serving(PageServer(triton.url, port=0)) as pages:
        idle = [socket.create_connection(pages.server_address) for _ in range(2)]
        assert ask(pages, 'GET', '/')[0] == 503
        for s in idle:
            s.close()
        end = time.monotonic() + 5
        while ask(pages, 'GET', '/')[0] == 503:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_where_it_cannot_listen(pages, monkeypatch):
    from inference.cli import main

    with pytest.raises(UserError, match='cannot listen at nosuch'):
        PageServer('127.0.0.1:8000', 'nosuch.invalid', 0)
    with redirect_stderr(StringIO()) as err:
        monkeypatch.setattr(sys, 'argv', ['hetconv', 'page', '--port', str(pages.server_address[1])])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 2
    assert re.fullmatch(r'hetconv: the page cannot listen at 127.0.0.1, port \d+: .*\n', err.getvalue())


def browser_marks(test):
    return pytest.mark.long(pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium')(test))


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """`visit(pages)`: the page at a phone's width, that must not write to the console but for `failures`."""
    contexts, messages, failures = [], [], []

    def visit(pages):
        context = browser.new_context(viewport={'width': 390, 'height': 844})
        contexts.append(context)
        seen = context.new_page()
        seen.set_default_timeout(20_000)
        seen.on('console', lambda message: messages.append(message.text))
        seen.on('pageerror', lambda error: messages.append(str(error)))
        seen.goto(pages.url)
        return seen

    visit.failures = failures
    yield visit
    for context in contexts:
        context.close()
    assert [text for text in messages if not any(words in text for words in failures)] == []


def drop(seen, data, name='a.png', zeros=0):
    """As a visitor drops a file, which has zeros at its end."""
    transfer = seen.evaluate_handle(
        """([bytes, zeros, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes), new Uint8Array(zeros)], name));
            return transfer;
        }""",
        [list(data), zeros, name],
    )
    seen.dispatch_event('#drop', 'drop', {'dataTransfer': transfer})


def fits(seen):
    """At each width: nothing is to be scrolled sideways."""
    for width in (320, 390, 768, 1400):
        seen.set_viewport_size({'width': width, 'height': 844})
        if not seen.evaluate('document.documentElement.scrollWidth <= innerWidth'):
            return False
    return True


def figures(seen, part):
    """measured, promised, realised."""
    texts = seen.locator(f'#{part} dd').all_inner_texts()
    assert [text[-1] for text in texts] == ['×', '×', '%']
    return [float(text[:-1]) for text in texts]


@browser_marks
def test_a_visitor_drops_an_image(pages, triton, visit):
    image = encoded(0)
    seen = visit(pages)
    seen.wait_for_selector('#model:enabled')
    drop(seen, image)
    seen.wait_for_selector('#labels li')
    assert seen.locator('#labels li').all_inner_texts() == ['cat\n75.0%', 'dog\n20.0%', 'frog\n5.0%']
    bar, whole = (seen.locator(f'#labels {part}').first.bounding_box()['width'] for part in ('i', '.bar'))
    assert bar == pytest.approx(0.75 * whole, rel=0.01)
    assert re.fullmatch(r'[\d.]+ ms', seen.inner_text('#latency'))
    assert triton.images == [('cifar', image)]
    assert not seen.is_visible('#comparison')
    assert seen.is_visible('#preview')
    assert fits(seen)


@browser_marks
def test_a_visitor_compares_two_models(pages, triton, visit):
    """Four times as fast in the network as the other, which MACs promise; the request has more in it."""
    triton.models |= {'cifar': 0.01, 'dense': 0.04}
    seen = visit(pages)
    seen.set_input_files('#file', {'name': 'a.png', 'mimeType': 'image/png', 'buffer': encoded(0)})
    seen.wait_for_selector('#labels li')
    seen.click('#compare')
    seen.wait_for_selector('#figures')
    for part in ('request', 'network'):
        measured, promised, realised = figures(seen, part)
        assert promised == 4
        assert 1.5 < measured < 5
        assert realised == pytest.approx(100 * measured / promised, abs=0.6)
    sent = [model for model, _ in triton.images]
    assert sent == ['cifar', *['cifar', 'dense'] * 21]
    times = r'cifar [\d.]+ ms, dense [\d.]+ ms; half of the rounds: [\d.]+ to [\d.]+×'
    assert re.fullmatch(times, seen.inner_text('#request .times'))
    assert fits(seen)


@browser_marks
def test_a_server_that_tells_no_macs(pages, triton, visit):
    triton.models = {'cifar': 0.001, 'plain': 0.002}
    seen = visit(pages)
    seen.wait_for_selector('#model:enabled')
    drop(seen, encoded(0))
    seen.click('#compare')
    seen.wait_for_selector('#figures')
    assert seen.inner_text('#request .promised') == 'unknown'
    assert seen.inner_text('#request .realised') == '–'
    assert seen.inner_text('#request .measured').endswith('×')


@browser_marks
def test_a_visitor_sees_what_went_wrong(pages, triton, visit):
    visit.failures += ['400 (Bad Request)', '502 (Bad Gateway)']
    seen = visit(pages)
    seen.wait_for_selector('#model:enabled')
    drop(seen, JUNK, 'words.txt')
    seen.wait_for_selector('#error')
    assert seen.inner_text('#error') == 'words.txt: no image, or a damaged one'
    assert not seen.is_visible('#preview')
    drop(seen, encoded(0))
    seen.wait_for_selector('#labels li')
    assert not seen.is_visible('#error')
    drop(seen, b'', 'long.png', (32 << 20) + 1)
    seen.wait_for_selector('#error')
    assert seen.inner_text('#error') == 'long.png: more than 32 MiB, which the server does not take.'
    drop(seen, b'', 'exact.png', 32 << 20)
    seen.wait_for_selector('#error', state='hidden')
    assert len(triton.images[-1][1]) == 32 << 20
    triton.vanish_after = len(triton.images)
    drop(seen, encoded(1))
    seen.wait_for_selector('#error')
    assert f'no Triton at {triton.url}' in seen.inner_text('#error')
    assert seen.locator('#labels li').count() == 0


@browser_marks
def test_a_page_waits_for_its_server(triton, visit):
    visit.failures += ['502 (Bad Gateway)']
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        with serving(PageServer(f'127.0.0.1:{closed.getsockname()[1]}', port=0)) as pages:
            assert not answers(pages.triton, '/v2/health/live')
            seen = visit(pages)
            seen.wait_for_selector('#error')
            assert 'no Triton at' in seen.inner_text('#error')
            pages.triton = triton.url
            assert answers(pages.triton, '/v2/health/live')
            seen.wait_for_selector('#model:enabled')
            assert not seen.is_visible('#error')


class TestServer:
    """The real one, with two models."""

    pytestmark = [*MARKS, pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium')]

    def test_labels_and_a_comparison(self, tmp_path, visit):
        visit.failures += ['400 (Bad Request)']
        with Server(tmp_path) as server, serving(PageServer(f'127.0.0.1:{server.ports.http}', port=0)) as pages:
            deploy(server.network, server.facts, server.repository, 'other', labels=LABELS)
            client = server.client('http')[1]
            server.wait(lambda: quietly(lambda: client.is_model_ready('other')))
            seen = visit(pages)
            seen.wait_for_selector('#model:enabled')
            drop(seen, encoded(0))
            seen.wait_for_selector('#labels li')
            assert seen.locator('#labels li').count() == 5
            assert seen.locator('#labels li').first.inner_text().startswith('label ')
            seen.click('#compare')
            seen.wait_for_selector('#figures')
            for part in ('request', 'network'):
                measured, promised, _ = figures(seen, part)
                assert promised == 1
                assert 0.1 < measured < 10
            drop(seen, JUNK, 'words.txt')
            seen.wait_for_selector('#error')
            assert 'words.txt: no image' in seen.inner_text('#error')
