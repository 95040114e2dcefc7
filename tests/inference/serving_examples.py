"""The files of docs/serving, and nginx with its own, for the tests of them."""

import getpass
import http.client
import http.server
import json
import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / 'docs' / 'serving'


EXAMPLES = Path(__file__).parents[2] / 'docs' / 'serving'
PATH = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])  # where Debian has nginx
NGINX, OPENSSL, PROMTOOL = (shutil.which(name, path=PATH) for name in ('nginx', 'openssl', 'promtool'))
TOKEN = 'd41f' * 16
MIB = 1 << 20


needs_nginx = pytest.mark.skipif(not (NGINX and OPENSSL), reason='nginx or openssl is not installed')


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def replaced(text, pairs):
    """An example as it is, but for what a test cannot have; a line that is not there is an error."""
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class StandIn(socketserver.ThreadingTCPServer):
    """Answers everything, and keeps what it was asked."""

    request_queue_size = 64
    daemon_threads = True

    def __init__(self):
        self.seen = []
        super().__init__(('127.0.0.1', 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.server.seen.append((self.path, dict(self.headers), len(body)))
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'{}')

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_):
        pass


class Proxy:
    """nginx with our example, as the current user and in a folder of its own."""

    def __init__(self, folder: Path, server_http: int, server_grpc: int):
        self.port, self.folder = free_port(), folder
        subprocess.run(
            [OPENSSL, 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days',
             '1', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', folder / 'key',
             '-out', folder / 'crt'],
            check=True, capture_output=True,
        )  # fmt: skip
        (folder / 'tokens').write_text(f'"Bearer {TOKEN}" tests;\n')
        example = replaced(
            (EXAMPLES / 'nginx.conf').read_text(),
            [
                ('127.0.0.1:8000', f'127.0.0.1:{server_http}'),
                ('127.0.0.1:8001', f'127.0.0.1:{server_grpc}'),
                ('listen 443', f'listen 127.0.0.1:{self.port}'),
                ('/etc/nginx/triton-tokens', str(folder / 'tokens')),
                ('/etc/nginx/triton.crt', str(folder / 'crt')),
                ('/etc/nginx/triton.key', str(folder / 'key')),
                ('/var/log/nginx/triton.log', str(folder / 'access')),
                ('client_body_timeout 5s', 'client_body_timeout 2s'),
                ('client_header_timeout 5s', 'client_header_timeout 2s'),
            ],
        )
        kinds = ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi')
        folders = '\n'.join(f'{kind}_temp_path {folder / kind};' for kind in kinds)
        user = f'user {getpass.getuser()};\n' if os.getuid() == 0 else ''
        (folder / 'nginx.conf').write_text(
            f'{user}daemon off;\nworker_processes 1;\npid {folder / "pid"};\nerror_log {folder / "error"};\n'
            f'events {{}}\nhttp {{\n{folders}\n{example}}}\n'
        )
        command = [NGINX, '-p', folder, '-e', folder / 'error', '-c', folder / 'nginx.conf']
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, self.process.stderr.read()
                assert time.monotonic() < end, 'nginx does not listen'
                time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.process.stderr.close()

    def connect(self):
        context = ssl.create_default_context(cafile=self.folder / 'crt')
        return context.wrap_socket(socket.create_connection(('127.0.0.1', self.port), 10), server_hostname='localhost')

    def ask(self, path, method='GET', body=None, token=TOKEN, **headers):
        """Status, headers and body of the answer; the path goes out as it is."""
        context = ssl.create_default_context(cafile=self.folder / 'crt')
        connection = http.client.HTTPSConnection('localhost', self.port, timeout=20, context=context)
        if token:
            headers['Authorization'] = f'Bearer {token}'
        try:
            connection.request(method, path, body, {key.replace('_', '-'): value for key, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


DASHBOARD = json.loads((EXAMPLES / 'grafana.json').read_text())
ALERTS = [rule for group in yaml.safe_load((EXAMPLES / 'alerts.yml').read_text())['groups'] for rule in group['rules']]


def expressions():
    """Where, and what: of the dashboard with a time and a model in place of what Grafana puts there."""
    for panel in DASHBOARD['panels']:
        for target in panel['targets']:
            text = target['expr'].replace('$__rate_interval', '1m')
            yield panel['title'], text.replace('$instance', '.+').replace('$model', '.+')
    for rule in ALERTS:
        yield rule['alert'], rule['expr']
    for trigger in resource('autoscale.yaml')['spec']['triggers']:
        if trigger['type'] == 'prometheus':
            yield 'autoscale.yaml', trigger['metadata']['query']


def resource(name):
    """The only one in a file."""
    (found,) = yaml.safe_load_all((EXAMPLES / name).read_text())
    return found


def missing(want, have, path=''):
    """What one JSON has and another has not."""
    if isinstance(want, dict) and isinstance(have, dict):
        return [
            text
            for key, value in want.items()
            for text in (missing(value, have[key], f'{path}.{key}') if key in have else [f'{path}.{key}'])
        ]
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [text for i, (a, b) in enumerate(zip(want, have)) for text in missing(a, b, f'{path}[{i}]')]
    return [] if want == have else [path]
