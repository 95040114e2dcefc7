"""The files of docs/serving: nginx runs with its own, promtool reads Prometheus's, resources are held against schemas.

Where these come from is said at each test; CRDS names a folder of CustomResourceDefinitions, docs/serving/README.md.
"""

import contextlib
import getpass
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import types
import urllib.request
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from triton_server import MARKS, PYTHON, Server, encoded

from inference.serving.server import command_of

EXAMPLES = Path(__file__).parents[2] / 'docs' / 'serving'
PATH = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])  # where Debian has nginx
NGINX, OPENSSL, PROMTOOL = (shutil.which(name, path=PATH) for name in ('nginx', 'openssl', 'promtool'))
TOKEN = 'd41f' * 16
MIB = 1 << 20


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


needs_nginx = pytest.mark.skipif(not (NGINX and OPENSSL), reason='nginx or openssl is not installed')
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


# Prometheus and Grafana

DASHBOARD = json.loads((EXAMPLES / 'grafana.json').read_text())
ALERTS = [rule for group in yaml.safe_load((EXAMPLES / 'alerts.yml').read_text())['groups'] for rule in group['rules']]
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason='promtool, of the package prometheus, is not installed')


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


def promtool(*arguments):
    result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_prometheus_takes_its_files(tmp_path):
    promtool('check', 'config', EXAMPLES / 'prometheus.yml')
    # Debian's knows no Kubernetes: the rest of that file is checked.
    text = replaced(
        (EXAMPLES / 'prometheus-kubernetes.yml').read_text(),
        [('kubernetes_sd_configs:\n      - role: pod', "static_configs:\n      - targets: ['a:1']")],
    )
    shutil.copy(EXAMPLES / 'alerts.yml', tmp_path)
    (tmp_path / 'prometheus.yml').write_text(text)
    promtool('check', 'config', tmp_path / 'prometheus.yml')


@needs_promtool
def test_every_expression_is_promql(tmp_path):
    rules = [{'record': f'a:b{i}', 'expr': text} for i, (_, text) in enumerate(expressions())]
    assert len(rules) > 15
    (tmp_path / 'rules.yml').write_text(yaml.safe_dump({'groups': [{'name': 'all', 'rules': rules}]}))
    promtool('check', 'rules', tmp_path / 'rules.yml')


LABELS = 'instance="a:8002", job="triton", version="1"'
ENGINE = f'{LABELS}, model="net_engine"'
ALERT_CASES = {
    'TritonDown': {'up{instance="a:8002", job="triton"}': '0x20'},
    'TritonWaitsTooLong': {f'nv_inference_request_failure{{{ENGINE}, reason="REJECTED"}}': '0+1x20'},
    'TritonRequestsFail': {f'nv_inference_request_failure{{{LABELS}, model="net", reason="OTHER"}}': '0+20x20'},
    'TritonStepFails': {f'nv_inference_request_failure{{{ENGINE}, reason="BACKEND"}}': '0+1x20'},
    'TritonQueueIsLong': {
        f'nv_inference_queue_duration_us{{{ENGINE}}}': '0+2000000x20',
        f'nv_inference_request_success{{{ENGINE}}}': '0+10x20',
    },
    'TritonStandsStill': {
        f'nv_inference_pending_request_count{{{ENGINE}}}': '3x20',
        f'nv_inference_exec_count{{{ENGINE}}}': '7x20',
    },
    'TritonMemoryIsShort': {
        'nv_cpu_memory_used_bytes{instance="a:8002", job="triton"}': '95x20',
        'nv_cpu_memory_total_bytes{instance="a:8002", job="triton"}': '100x20',
    },
}
QUIET = {
    'up{instance="a:8002", job="triton"}': '1x20',
    f'nv_inference_request_failure{{{ENGINE}, reason="REJECTED"}}': '5x20',
    f'nv_inference_request_failure{{{LABELS}, model="net", reason="OTHER"}}': '0+2x20',
    f'nv_inference_request_success{{{LABELS}, model="net"}}': '0+100x20',
    f'nv_inference_queue_duration_us{{{ENGINE}}}': '0+100000x20',
    f'nv_inference_request_success{{{ENGINE}}}': '0+10x20',
    f'nv_inference_pending_request_count{{{ENGINE}}}': '3x20',
    f'nv_inference_exec_count{{{ENGINE}}}': '0+7x20',
    'nv_cpu_memory_used_bytes{instance="a:8002", job="triton"}': '80x20',
    'nv_cpu_memory_total_bytes{instance="a:8002", job="triton"}': '100x20',
}


@needs_promtool
def test_alerts_fire_when_they_should_and_else_not(tmp_path):
    """Counters of one server for 20 minutes, each as it is when all but one thing is well."""
    assert set(ALERT_CASES) == {rule['alert'] for rule in ALERTS}
    cases = []
    for wanted, changed in {**ALERT_CASES, None: {}}.items():
        series = [{'series': key, 'values': values} for key, values in {**QUIET, **changed}.items()]
        # How many fire, of each: its labels and text are not the matter here.
        checks = [
            {'expr': f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)', 'eval_time': '18m',
             'exp_samples': [{'labels': '{}', 'value': int(name == wanted)}]}
            for name in ALERT_CASES
        ]  # fmt: skip
        cases.append({'interval': '1m', 'input_series': series, 'promql_expr_test': checks})
    shutil.copy(EXAMPLES / 'alerts.yml', tmp_path)
    text = yaml.safe_dump({'rule_files': ['alerts.yml'], 'evaluation_interval': '1m', 'tests': cases})
    (tmp_path / 'tests.yml').write_text(text)
    promtool('test', 'rules', tmp_path / 'tests.yml')


def test_dashboard_is_for_any_prometheus_and_fits_together():
    panels, variables = DASHBOARD['panels'], {v['name']: v for v in DASHBOARD['templating']['list']}
    assert set(variables) == {'datasource', 'instance', 'model'}
    sources = [panel['datasource'] for panel in panels] + [t['datasource'] for p in panels for t in p['targets']]
    sources += [variables[name]['datasource'] for name in ('instance', 'model')]
    assert all(source == {'type': 'prometheus', 'uid': '${datasource}'} for source in sources)
    assert len({panel['id'] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel['gridPos'] for panel in panels)
        for x in range(grid['x'], grid['x'] + grid['w'])
        for y in range(grid['y'], grid['y'] + grid['h'])
    ]
    assert len(cells) == len(set(cells)), 'panels overlap'
    assert max(x for x, _ in cells) < 24
    assert all(panel['description'] for panel in panels)


def test_dashboard_is_grafanas():
    """PyPI's grafana-foundation-sdk is made from Grafana's schemas: nothing is lost on the way through its classes."""
    dashboard = pytest.importorskip('grafana_foundation_sdk.models.dashboard')
    from grafana_foundation_sdk.cog import encoder, plugins

    plugins.register_default_plugins()
    there = json.loads(encoder.JSONEncoder().encode(dashboard.Dashboard.from_json(DASHBOARD)))
    assert missing(DASHBOARD, there) == []


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


# KServe and KEDA

SERVICES = ['kserve.yaml', 'kserve-gpu.yaml']


@pytest.mark.parametrize('name', SERVICES)
def test_services_are_of_kserves_classes(monkeypatch, name):
    """Those of PyPI's kserve and kubernetes: no unknown field, no value of another type."""
    if not (find_spec('kserve') and find_spec('kubernetes')):
        pytest.skip('kserve is not installed')
    # Without all that its package imports first, a web server among it: pip install --no-deps will do.
    package = types.ModuleType('kserve')
    package.__path__ = list(find_spec('kserve').submodule_search_locations)
    monkeypatch.setitem(sys.modules, 'kserve', package)
    modules = import_module('kserve.models'), import_module('kubernetes.client.models')

    def problems(value, kind, path):
        inner = re.fullmatch(r'(?i)(list|dict)[\[(](?:str, )?(.*)[\])]', kind)
        if inner:
            assert isinstance(value, {'list': list, 'dict': dict}[inner[1].lower()]), path
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return [p for key, v in items for p in problems(v, inner[2], f'{path}.{key}')]
        simple = {'str': str, 'int': int, 'bool': bool, 'ResourceQuantity': str, 'object': object}
        if kind in simple:
            return [] if isinstance(value, simple[kind]) else [f'{path}: {value!r} is no {kind}']
        found = next(getattr(module, kind) for module in modules if hasattr(module, kind))
        kinds = {key: found.openapi_types[attribute] for attribute, key in found.attribute_map.items()}
        unknown = [f'{path}.{key}: unknown' for key in value if key not in kinds]
        return unknown + [p for k, v in value.items() if k in kinds for p in problems(v, kinds[k], f'{path}.{k}')]

    assert problems(resource(name), 'V1beta1InferenceService', name) == []


def test_scaling_is_of_kedas_classes():
    """Those of PyPI's cloudcoil-models-keda, made from KEDA's schema: nothing is lost on the way through them."""
    keda = pytest.importorskip('cloudcoil.models.keda.v1alpha1')
    scaled = resource('autoscale.yaml')
    there = keda.ScaledObject.model_validate(scaled).model_dump(mode='json', by_alias=True, exclude_none=True)
    # Releases before 2.17 do not know this one.
    assert missing(scaled, there) in ([], ['.spec.fallback.behavior'])


@pytest.mark.parametrize('name', [*SERVICES, 'autoscale.yaml'])
def test_resources_keep_to_the_definitions(name):
    """Those that a cluster has, which know more than classes do: what is needed, which values there are."""
    folder = os.environ.get('CRDS')
    if not folder:
        pytest.skip('CRDS names no folder of CustomResourceDefinitions')
    jsonschema = pytest.importorskip('jsonschema')
    found, schemas = resource(name), {}
    for path in Path(folder).glob('*.yaml'):
        for definition in yaml.load_all(path.read_text(), getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
            for version in definition['spec']['versions']:
                key = f'{definition["spec"]["group"]}/{version["name"]}', definition['spec']['names']['kind']
                schemas[key] = version['schema']['openAPIV3Schema']
    schema = _strict(schemas[found['apiVersion'], found['kind']])
    schema['properties']['metadata'] = {}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(found)
    assert [f'{error.json_path}: {error.message}' for error in errors] == []


def _strict(schema):
    """As the API server has it with strict field validation."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get('x-kubernetes-int-or-string'):
        return {'type': ['integer', 'string']}
    made = {key: _strict(value) for key, value in schema.items()}
    known = isinstance(schema.get('properties'), dict) and schema.get('type') == 'object'
    if known and not schema.get('x-kubernetes-preserve-unknown-fields'):
        made.setdefault('additionalProperties', False)
    return made


def test_resources_speak_of_the_same_things():
    service, scaled = resource('kserve.yaml'), resource('autoscale.yaml')
    predictor, model = service['spec']['predictor'], service['spec']['predictor']['model']
    name, namespace = service['metadata']['name'], service['metadata']['namespace']
    assert scaled['spec']['scaleTargetRef']['name'] == f'{name}-predictor'
    assert scaled['metadata']['namespace'] == namespace
    assert scaled['spec']['maxReplicaCount'] == predictor['maxReplicas']
    assert scaled['spec']['minReplicaCount'] == predictor['minReplicas']
    (query,) = [t['metadata']['query'] for t in scaled['spec']['triggers'] if t['type'] == 'prometheus']
    assert f'namespace="{namespace}"' in query
    assert f'model="{name}"' in query
    assert f'model=~"{name}_(prepare|engine|labels)"' in query
    assert model['readinessProbe']['httpGet']['path'] == f'/v2/models/{name}/ready'
    for other in SERVICES:
        spec = resource(other)['spec']['predictor']
        assert {mount['name'] for mount in spec['model']['volumeMounts']} == {v['name'] for v in spec['volumes']}
        assert spec['model']['resources']['requests'] == spec['model']['resources']['limits']
        seconds = next(int(a.split('=')[1]) for a in spec['model']['args'] if a.startswith('--exit-timeout-secs'))
        assert seconds < spec['terminationGracePeriodSeconds']
        assert spec['model']['args'] == model['args']


# The real server


class Measured(Server):
    """With the arguments of kserve.yaml after ours."""

    def start(self):
        backends = self.repository.parent / 'backends'
        backends.mkdir()
        command, environment = command_of(self.repository, self.ports, python=Path(PYTHON), backends=backends)
        own = ('--http-restricted-api', '--grpc-restricted-protocol')  # once in a command
        command = [word for word in command if not word.startswith(own)]
        command += resource('kserve.yaml')['spec']['predictor']['model']['args']
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def long(test):
    for mark in MARKS:
        test = mark(test)
    return test


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with Measured(tmp_path_factory.mktemp('triton')) as server:
        yield server


@pytest.fixture(scope='module')
def gate(server, tmp_path_factory):
    gate = Proxy(tmp_path_factory.mktemp('gate'), server.ports.http, server.ports.grpc)
    yield gate
    gate.stop()


@long
@pytest.mark.parametrize('protocol', ['http', 'grpc'])
@needs_nginx
def test_a_client_has_the_same_answer_through_nginx(server, gate, protocol):
    module, client = _client(gate, protocol)
    image = module.InferInput('image', [1, 1], 'BYTES')
    image.set_data_from_numpy(np.array([[encoded(1)]], dtype=object))
    result = client.infer('net', [image], headers={'authorization': f'Bearer {TOKEN}'})
    (wanted,) = server.ask(protocol, 'net', np.array([[encoded(1)]], dtype=object), 'BYTES', ['score'])
    np.testing.assert_array_equal(result.as_numpy('score'), wanted)
    assert client.is_model_ready('net', headers={'authorization': f'Bearer {TOKEN}'})
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    with pytest.raises(error) as caught:
        client.infer('net', [image])
    assert caught.value.status() in ('401', 'StatusCode.UNAUTHENTICATED')


@long
@pytest.mark.parametrize('protocol', ['http', 'grpc'])
def test_the_arguments_close_what_nginx_does(server, protocol):
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    client = server.client(protocol)[1]
    questions = (
        client.get_model_repository_index,
        client.get_system_shared_memory_status,
        client.get_log_settings,
        client.get_trace_settings,
    )
    for question in questions:
        with pytest.raises(error, match=r'restricted|expecting header'):
            question()


@long
@pytest.mark.parametrize('protocol', ['http', 'grpc'])
@needs_nginx
def test_a_client_cannot_change_the_server_through_nginx(gate, protocol):
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    client, headers = _client(gate, protocol)[1], {'authorization': f'Bearer {TOKEN}'}
    for question in (
        lambda: client.get_model_repository_index(headers=headers),
        lambda: client.get_system_shared_memory_status(headers=headers),
        lambda: client.register_system_shared_memory('a', '/a', 10, headers=headers),
        lambda: client.get_log_settings(headers=headers),
        lambda: client.get_trace_settings(headers=headers),
        lambda: client.get_inference_statistics(headers=headers),
    ):
        with pytest.raises(error) as caught:
            question()
        assert caught.value.status() in ('404', 'StatusCode.UNIMPLEMENTED')


@long
@needs_nginx
def test_the_size_of_a_message_is_limited(gate):
    module, client = _client(gate, 'grpc')
    image = module.InferInput('image', [1, 1], 'BYTES')
    image.set_data_from_numpy(np.array([[bytes(40 * MIB)]], dtype=object))
    with pytest.raises(pytest.importorskip('tritonclient.utils').InferenceServerException, match='413'):
        client.infer('net', [image], headers={'authorization': f'Bearer {TOKEN}'})


def _client(gate, protocol):
    module = pytest.importorskip(f'tritonclient.{protocol}')
    if protocol == 'grpc':
        options = {'root_certificates': str(gate.folder / 'crt')}
    else:
        options = {'ssl_options': {'ca_certs': str(gate.folder / 'crt')}}
    return module, module.InferenceServerClient(f'localhost:{gate.port}', ssl=True, **options)


@long
def test_metrics_that_are_asked_for_are_there(server):
    server.ask('http', 'net', np.array([[encoded(1)]], dtype=object), 'BYTES', ['class'])
    with urllib.request.urlopen(f'http://127.0.0.1:{server.ports.metrics}/metrics', timeout=10) as answer:
        text = answer.read().decode()
    there = {}
    for line in text.splitlines():
        if not line.startswith('#'):
            name, labels = re.match(r'(\w+)(?:\{(.*)\})?', line).groups()
            there.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ''))
    # `up` and these labels are of Prometheus.
    given = {'job', 'instance', 'namespace'}
    for where, expression in expressions():
        names = set(re.findall(r'\bnv_\w+', expression))
        assert names <= set(there), where
        assert names or expression.startswith('up{'), where
        for name, selected in re.findall(r'\b(nv_\w+)\{([^}]*)\}', expression):
            assert set(re.findall(r'(\w+)=', selected)) <= there[name] | given, where
        grouped = {word for words in re.findall(r'\bby \(([^)]*)\)', expression) for word in words.split(', ')}
        assert all(grouped <= there[name] | given for name in names), where
    for reason in re.findall(r'reason="(\w+)"', ' '.join(text for _, text in expressions())):
        assert f'reason="{reason}"' in text
