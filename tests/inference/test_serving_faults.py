"""What the real server does when something breaks, on loopback: TRITON_PYTHON names a Python with nvidia-pytriton."""

import contextlib
import io
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from triton_server import MARKS, Server, encoded, network, quietly

from inference.serving.config import Settings
from inference.serving.repository import activate

pytestmark = MARKS


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    # A busy machine must not be taken for a fault.
    with Server(tmp_path_factory.mktemp('triton'), Settings(timeout_ms=20_000)) as server:
        yield server


class Clients:
    """Three of them, who ask until they are told to stop; as a context."""

    def __init__(self, server, count=3, protocol='http'):
        self.server, self.protocol = server, protocol
        self.answers, self.failures, self.stop = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]

    def ask(self):
        image = np.array([[encoded(3)]], dtype=object)
        client = self.server.client(self.protocol)
        while not self.stop.is_set():
            start = time.monotonic()
            try:
                answer = self.server.ask(self.protocol, 'net', image, 'BYTES', ['class'], client)[0]
                self.answers.append((time.monotonic(), time.monotonic() - start, answer))
            except Exception as error:
                self.failures.append((time.monotonic(), time.monotonic() - start, str(error)))
                time.sleep(0.02)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)


def right(server):
    """Classes of the image that the clients send."""
    return server.ask('http', 'net', np.array([[encoded(3)]], dtype=object), 'BYTES', ['class'])[0]


def stubs(server):
    return [child for child in psutil.Process(server.process.pid).children(recursive=True) if 'stub' in child.name()]


def stub_of(server, model):
    return next(child for child in stubs(server) if f'/{model}/' in ' '.join(child.cmdline()))


def test_a_killed_backend_comes_back(server):
    """kill -9 of a model's process: requests under way fail in words, and a few seconds later all are answered."""
    wanted = right(server)
    with Clients(server) as clients:
        time.sleep(1)
        stub_of(server, 'net_engine').kill()
        time.sleep(8)
        end = time.monotonic()
        time.sleep(2)
    assert all(np.array_equal(answer, wanted) for _, _, answer in clients.answers)
    assert sum(at > end for at, _, _ in clients.answers) > 10, clients.failures[-3:]
    assert not [words for at, _, words in clients.failures if at > end]
    said = {words for _, _, words in clients.failures}
    assert all('Stub process' in words or 'Request timeout expired' in words for words in said), said
    assert 'the process of net_engine version 1 has died: loaded anew' in server.log.read_text(errors='replace')


def test_a_corrupt_version_is_refused_and_the_old_one_serves_on(server):
    wanted, client = right(server), server.client('http')[1]
    changed = network('hetconv_resnet20_cifar_p8')
    with Clients(server) as clients:
        number = server.deploy(changed)
        path = server.repository / 'net_engine' / str(number) / 'network.onnx'
        server.wait(lambda: client.is_model_ready('net_engine', str(number)))
        activate(server.repository, 'net', 1)
        server.wait(lambda: client.is_model_ready('net_engine', '1'))
        path.write_bytes(path.read_bytes()[:1000])
        # As somebody does who passes `activate` by, which would have looked at the checksum.
        config = server.repository / 'net_engine' / 'config.pbtxt'
        config.write_text(config.read_text().replace('versions: [1]', f'versions: [{number}]'))
        time.sleep(5)
        assert not client.is_model_ready('net_engine', str(number))
        assert f"failed to load 'net_engine' version {number}" in server.log.read_text(errors='replace')
        assert np.array_equal(right(server), wanted)
        activate(server.repository, 'net', 1)
        time.sleep(3)
    assert not clients.failures, clients.failures[:3]


def raw(server, *parts, wait=0.0):
    """A connection to HTTP that has sent these bytes."""
    connection = socket.create_connection(('127.0.0.1', server.ports.http), timeout=10)
    for part in parts:
        connection.sendall(part)
        time.sleep(wait)
    return connection


def test_slow_and_half_open_and_vanishing_clients_hold_nobody_up(server):
    wanted = right(server)
    head = b'POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n'
    slow = [raw(server, b'GET /v2/health') for _ in range(50)]
    slow += [raw(server, head, b'\r\n{') for _ in range(50)]
    with Clients(server) as clients:
        for _ in range(100):  # gone in the middle of the request, and before the answer
            raw(server, head + b'\r\n' + b'{' * 50_000).close()
            body = b'{"inputs":[{"name":"image","shape":[1,1],"datatype":"BYTES","data":["x"]}]}'
            raw(server, head.replace(b'100000', b'%d' % len(body)) + b'\r\n' + body).close()
        time.sleep(2)
    for connection in slow:
        connection.close()
    assert not clients.failures, clients.failures[:3]
    assert all(np.array_equal(answer, wanted) for _, _, answer in clients.answers)
    assert max(seconds for _, seconds, _ in clients.answers) < 5
    assert np.array_equal(right(server), wanted)


def test_a_batch_beyond_memory_is_refused(server):
    """16 million images by the shape, 206 GB, with no byte of them: nothing is set aside for it."""
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    module, client = server.client('http')
    tensor = module.InferInput('input', [1 << 24, 3, 32, 32], 'FP32')
    tensor._raw_data, tensor._data = b'', None
    tensor._parameters['binary_data_size'] = 0
    before = memory(server)
    with pytest.raises(error):
        client.infer('net_engine', [tensor])
    assert memory(server) < before + 100e6
    right(server)


def memory(server):
    process = psutil.Process(server.process.pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])


def bomb():
    """An image of a few kilobytes that decodes to gigabytes."""
    data = io.BytesIO()
    Image.new('1', (30_000, 30_000)).save(data, 'PNG')
    return data.getvalue()


def test_ten_thousand_malformed_requests(server):
    """Each is answered in words, the server's memory stays as it was, and right answers stay right."""
    utils = pytest.importorskip('tritonclient.utils')
    wanted, (module, client) = right(server), server.client('http')
    random = np.random.default_rng(0)
    good, bombs = encoded(3), bomb()
    prepared = np.zeros((1, 3, 32, 32), np.float32)

    def image(data):
        return 'net', 'image', np.array([[data]], dtype=object), 'BYTES'

    def broken():
        data = bytearray(good)
        for at in random.integers(0, 60, 4):  # of the head, so that no image is left
            data[at] = random.integers(256)
        return bytes(data[: random.integers(60)])

    kinds = [
        lambda: image(b''),
        lambda: image(bombs),
        lambda: image(broken()),
        lambda: image(good[: random.integers(1, len(good) - 100)]),
        lambda: image(random.bytes(random.integers(1, 2000))),
        lambda: ('net', 'image', prepared, 'FP32'),
        lambda: ('net', 'picture', np.array([[good]], dtype=object), 'BYTES'),
        lambda: ('net_engine', 'input', prepared.astype(np.float64), 'FP64'),
        lambda: ('net_engine', 'input', np.zeros((1, 3, 32, random.integers(1, 31)), np.float32), 'FP32'),
        lambda: ('net_engine', 'input', np.zeros((9, 3, 32, 32), np.float32), 'FP32'),
        lambda: ('net_engine', 'input', np.zeros((0, 3, 32, 32), np.float32), 'FP32'),
        lambda: ('../net', 'image', np.array([[good]], dtype=object), 'BYTES'),
        lambda: ('net/versions/9', 'image', np.array([[good]], dtype=object), 'BYTES'),
        lambda: ('..%2f..%2fetc', 'image', np.array([[good]], dtype=object), 'BYTES'),
        lambda: ('', 'image', np.array([[good]], dtype=object), 'BYTES'),
    ]

    def send(model, name, tensor, kind):
        given = module.InferInput(name, list(tensor.shape), kind)
        given.set_data_from_numpy(tensor)
        return client.infer(model, [given])

    before, words = None, {}
    for i in range(10_000):
        number = i % len(kinds)
        with pytest.raises(utils.InferenceServerException) as caught:
            send(*kinds[number]())
        words.setdefault(number, str(caught.value))
        if i % 500 == 0:
            assert np.array_equal(right(server), wanted)
        if i == 1000:
            before = memory(server)
    assert len(words) == len(kinds)
    assert not any('Traceback' in text or 'File "' in text for text in words.values()), words
    assert memory(server) < 1.05 * before
    assert server.process.poll() is None


def test_pixels_that_are_not_numbers_are_answered_as_offline(server):
    pixels = np.zeros((1, 3, 32, 32), np.float32)
    pixels[0, 1, 5] = np.nan
    (logits,) = server.ask('http', 'net_engine', pixels, 'FP32', ['logits'])
    assert np.isnan(logits).any()
    right(server)


@pytest.mark.parametrize('protocol', ['http', 'grpc'])
def test_no_client_changes_the_servers_settings(server, protocol):
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    client = server.client(protocol)[1]
    for forbidden in (
        lambda: client.register_system_shared_memory('x', '/triton_python_backend_shm_region', 1),
        lambda: client.update_log_settings({'log_verbose_level': 9}),
        lambda: client.update_trace_settings(settings={'trace_level': ['TIMESTAMPS']}),
        lambda: client.load_model('net'),
        lambda: client.unload_model('net'),
    ):
        with pytest.raises(error):
            forbidden()
    right(server)


def test_a_full_queue_answers_at_once_and_the_admitted_wait_no_longer_than_it(tmp_path):
    """Forty clients before a queue of four: refusals are quick, and answers are right."""
    with Server(tmp_path, Settings(queue=4, max_batch=1)) as server:
        wanted = right(server)
        with Clients(server, count=40, protocol='grpc') as clients:
            time.sleep(8)
        assert len(clients.answers) > 100
        assert len(clients.failures) > 20
        assert all('Exceeds maximum queue size' in words for _, _, words in clients.failures), clients.failures[:3]
        assert all(np.array_equal(answer, wanted) for _, _, answer in clients.answers)
        waited = sorted(seconds for _, seconds, _ in clients.answers)
        refused = sorted(seconds for _, seconds, _ in clients.failures)
        assert refused[len(refused) // 2] < 1
        assert waited[int(0.99 * len(waited))] < 2


def triton_of(server):
    return next(
        child for child in psutil.Process(server.process.pid).children(recursive=True) if child.name() == 'tritonserver'
    )


def regions():
    return set(Path('/dev/shm').glob('triton_python_backend_shm_region_*'))


def test_a_killed_server_starts_again(tmp_path):
    """kill -9 of it under load: it is ready again within 10 s, and nothing of the old one stays behind."""
    with Server(tmp_path) as server:
        wanted = right(server)
        children = stubs(server)
        own = [word for child in children for word in child.cmdline() if 'shm_region' in word]
        with Clients(server) as clients:
            time.sleep(1)
            triton_of(server).kill()
            killed = time.monotonic()
            server.wait(lambda: any(at > killed + 0.5 for at, _, _ in clients.answers))
            ready = time.monotonic() - killed
            time.sleep(2)
        assert ready < 10
        assert sum(at > killed + ready for at, _, _ in clients.answers) > 10
        assert all(np.array_equal(answer, wanted) for _, _, answer in clients.answers)
        assert not psutil.wait_procs(children, 20)[1]
        assert own
        assert not {path.name for path in regions()} & set(own)


def test_a_request_that_ends_the_server_does_not_end_the_service(tmp_path):
    """Triton 2.51 does not survive a body of very many chunks (CVE-2025-23310): it is started again, however often."""
    with Server(tmp_path) as server:
        wanted = right(server)
        head = b'POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n'
        for _ in range(4):
            with contextlib.suppress(OSError):  # gone before it had all
                raw(server, head + b'1\r\nA\r\n' * 700_000 + b'0\r\n\r\n').close()
            time.sleep(1)
            server.wait(lambda: quietly(lambda: np.array_equal(right(server), wanted)), 60)


def test_it_ends_with_what_looks_after_it(tmp_path):
    """kill -9 of `hetconv serve` itself."""
    with Server(tmp_path) as server:
        triton = triton_of(server)
        server.process.kill()
        assert not psutil.wait_procs([triton], 20)[1]


def test_it_ends_when_it_is_told_to(tmp_path):
    with Server(tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert quietly(server.client('http')[1].is_server_live) is False
