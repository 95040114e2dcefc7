"""A stand-in for Triton's HTTP: models of `hetconv deploy`, system shared memory, and ways to misbehave."""

import json
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

JUNK = b'just words'
MACS = {'cifar': '10000000', 'dense': '40000000'}
IMAGE = [{'name': 'image', 'datatype': 'BYTES', 'shape': [-1, 1]}]
TENSOR = [{'name': 'input', 'datatype': 'FP32', 'shape': [-1, 3, 32, 32]}]


class FakeTriton(ThreadingHTTPServer):
    """Attributes say what it has, what it was asked, and what goes wrong.

    Attributes:
        models: Seconds that an answer takes, by name of the ensemble.
        labels: Of each answer, best first.
        images: That came, with their models.
        regions: Names of the shared memory that is registered now.
        body: What every path answers instead; None for the truth.
        vanish_after: Images after which it is gone without an answer.
        opens: Can it open shared memory?
        lists: Does it say which models it has?
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.models, self.labels = {'cifar': 0.0}, ['cat', 'dog', 'frog']
        self.images, self.regions, self.asked, self.busy = [], [], [], []
        self.body, self.vanish_after, self.opens, self.lists = None, None, True, True
        self.runs = {}
        self.url = f'127.0.0.1:{self.server_address[1]}'

    def index(self):
        names = [f'{name}{step}' for name in self.models for step in ('', '_engine')]
        return [{'name': name, 'version': '1', 'state': 'READY'} for name in [*names, 'another']]

    def handle_error(self, request, client_address):
        """Clients go as they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        if self.server.body is not None:
            return self._send(200, self.server.body)
        parts = self.path.split('/')[2:]
        if parts[:2] == ['repository', 'index']:
            if not self.server.lists:
                return self._send(403, {'error': 'This API is restricted, expecting header'})
            return self._send(200, self.server.index())
        if parts[0] == 'health':
            return self._send(200, b'')
        if parts[0] == 'systemsharedmemory':
            return self._share(parts[2], parts[3])
        name, _, step = parts[1].partition('_')
        if name not in self.server.models:
            return self._send(404, {'error': f"Request for unknown model: '{parts[1]}' is not found"})
        if len(parts) == 2:
            outputs = [{'name': n, 'datatype': 'BYTES', 'shape': [-1, 3]} for n in ('class', 'label', 'score')]
            return self._send(200, {'name': name, 'inputs': TENSOR if step else IMAGE, 'outputs': outputs})
        if parts[2] == 'config':
            parameters = {'macs': {'string_value': MACS[name]}} if name in MACS else {}
            inputs = [{'name': 'image', 'dims': [1]}, {'name': 'input', 'dims': [3, 32, 32]}]
            return self._send(200, {'name': parts[1], 'input': inputs, 'parameters': parameters})
        if parts[2] == 'stats':
            count, ns = self.server.runs.get(name, (0, 0))
            return self._send(
                200, {'model_stats': [{'inference_stats': {'compute_infer': {'count': count, 'ns': ns}}}]}
            )
        return self._run(name, body) if step else self._infer(name, body)

    do_POST = do_GET

    def _share(self, name, action):
        if not self.server.opens:
            return self._send(400, {'error': f"Unable to open shared memory region: '{name}'"})
        if action == 'register':
            self.server.regions.append(name)
        elif name in self.server.busy:
            return self._send(
                500, {'error': f"Cannot unregister shared memory region '{name}', it is currently in use."}
            )
        else:
            self.server.regions.remove(name)
        return self._send(200, {})

    def _run(self, name, body):
        """The network alone, which takes half of the time of an answer."""
        length = int(self.headers['Inference-Header-Content-Length'])
        given = json.loads(body[:length])['inputs'][0]
        assert (given['name'], given['datatype'], given['shape']) == ('input', 'FP32', [1, 3, 32, 32])
        assert len(body) - length == given['parameters']['binary_data_size'] == 4 * 3 * 32 * 32
        seconds = self.server.models[name] / 2
        time.sleep(seconds)
        count, ns = self.server.runs.get(name, (0, 0))
        self.server.runs[name] = count + 1, ns + int(seconds * 1e9)
        return self._send(200, {'model_name': name, 'outputs': [{'name': 'logits', 'data': [0.0] * 10}]})

    def _infer(self, name, body):
        length = int(self.headers.get('Inference-Header-Content-Length', len(body)))
        given = json.loads(body[:length])['inputs'][0]
        assert given['name'] == 'image'
        assert given['datatype'] == 'BYTES'
        assert given['shape'] == [1, 1]
        region = given['parameters'].get('shared_memory_region')
        data = Path('/dev/shm', region).read_bytes() if region else body[length:]
        image = data[4 : 4 + struct.unpack_from('<I', data)[0]]
        assert region or len(body) == length + given['parameters']['binary_data_size'] == length + 4 + len(image)
        if len(self.server.images) == self.server.vanish_after:
            self.server.socket.close()
            self.close_connection = True
            return self.connection.close()
        self.server.images.append((name, image))
        if image == JUNK:
            return self._send(400, {'error': f"in ensemble '{name}', no image, or a damaged one"})
        seconds = self.server.models[name]
        self.server.busy.append(region)
        time.sleep(seconds)
        self.server.busy.remove(region)
        labels = self.server.labels
        scores = [0.75, 0.2, 0.05][: len(labels)]
        values = [('class', 'INT32', [*range(len(labels))]), ('label', 'BYTES', labels), ('score', 'FP32', scores)]
        outputs = [{'name': n, 'datatype': t, 'shape': [1, len(v)], 'data': v} for n, t, v in values]
        return self._send(200, {'model_name': name, 'outputs': outputs})

    def _send(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


@contextmanager
def serving(server):
    """In a thread of its own, until the end."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
