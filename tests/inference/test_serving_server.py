"""The real server with our repository: TRITON_PYTHON names a Python with nvidia-pytriton, see docs/serving.md."""

import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.build import compare, exported_of
from inference.engines.ort_cpu import make_session
from inference.export import INPUT, metadata
from inference.lowering.ort_cpu import to_ort_cpu
from inference.serving.repository import activate, deploy
from inference.serving.server import Ports
from inference.serving.steps.prepare import prepare

PYTHON = os.environ.get('TRITON_PYTHON')
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason='TRITON_PYTHON names no Python with nvidia-pytriton'),
    pytest.mark.xdist_group('server'),
]
MODEL = 'hetconv_resnet20_cifar_p4'
LABELS = [f'label {i}' for i in range(10)]


def free_ports():
    sockets = [socket.socket() for _ in range(3)]
    for s in sockets:
        s.bind(('127.0.0.1', 0))
    numbers = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return Ports(*numbers)


def encoded(seed):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)).save(data, 'PNG')
    return data.getvalue()


class Server:
    """Ours, with a network in it, and clients of both protocols."""

    def __init__(self, folder: Path):
        self.repository, self.ports = folder / 'models', free_ports()
        self.exported = exported_of(MODEL, None)
        self.network, self.facts = to_ort_cpu(self.exported), metadata(self.exported)
        assert compare(self.exported, self.network) < 1e-4
        self.deploy()
        ports = [f'--{name}={number}' for name, number in vars(self.ports).items()]
        with (folder / 'log').open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'inference', 'serve', self.repository, '--python', PYTHON, *ports],
                stdout=log, stderr=log,
            )  # fmt: skip
        self.log = folder / 'log'

    def deploy(self):
        return deploy(self.network, self.facts, self.repository, 'net', labels=LABELS)

    def client(self, protocol):
        module = pytest.importorskip(f'tritonclient.{protocol}')
        return module, module.InferenceServerClient(f'127.0.0.1:{getattr(self.ports, protocol)}')

    def ask(self, protocol, name, tensor, kind, outputs, client=None):
        module, client = client or self.client(protocol)
        given = module.InferInput({'net': 'image', 'net_engine': 'input'}[name], list(tensor.shape), kind)
        given.set_data_from_numpy(tensor)
        result = client.infer(name, [given])
        return [result.as_numpy(output) for output in outputs]

    def wait(self, ready, seconds=60):
        end = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.log.read_text(errors='replace')[-3000:]
            assert time.monotonic() < end, self.log.read_text(errors='replace')[-3000:]
            time.sleep(0.1)


def quietly(question):
    try:
        return question()
    except Exception:  # no connection yet
        return False


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp('triton'))
    try:
        client = server.client('http')[1]
        server.wait(lambda: quietly(client.is_server_ready) and quietly(lambda: client.is_model_ready('net')))
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


@pytest.mark.parametrize('protocol', ['http', 'grpc'])
def test_what_it_answers_is_what_the_network_says(server, protocol):
    """Bit for bit, in a batch of the same size: in another the order of sums may differ."""
    images = [encoded(seed) for seed in range(5)]
    offline = make_session(server.network.SerializeToString(), 1)
    prepared = np.stack([prepare(image, server.facts) for image in images])
    (wanted,) = offline.run(None, {INPUT: prepared})
    (logits,) = server.ask(protocol, 'net_engine', prepared, 'FP32', ['logits'])
    np.testing.assert_array_equal(logits, wanted)
    batch = np.array(images, dtype=object)[:, None]
    classes, labels, scores = server.ask(protocol, 'net', batch, 'BYTES', ['class', 'label', 'score'])
    np.testing.assert_array_equal(classes, np.argsort(-wanted, 1, kind='stable')[:, :5])
    assert [[text.decode() for text in row] for row in labels] == [[LABELS[i] for i in row] for row in classes]
    powers = np.exp(wanted.astype(np.float64))
    np.testing.assert_allclose(scores[:, 0], (powers / powers.sum(1, keepdims=True)).max(1), rtol=1e-5)


@pytest.mark.parametrize('protocol', ['http', 'grpc'])
@pytest.mark.parametrize(
    ('image', 'words'),
    [(b'', 'is empty'), (b'junk', 'no image'), (encoded(0)[:500], 'damaged')],
    ids=['empty', 'junk', 'truncated'],
)
def test_bad_images_are_answered_and_the_server_goes_on(server, protocol, image, words):
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    with pytest.raises(error, match=words):
        server.ask(protocol, 'net', np.array([[image]], dtype=object), 'BYTES', ['class'])
    server.ask(protocol, 'net', np.array([[encoded(1)]], dtype=object), 'BYTES', ['class'])


@pytest.mark.parametrize(
    ('shape', 'kind', 'type_'),
    [((1, 3, 32, 31), 'FP32', np.float32), ((1, 3, 32, 32), 'FP64', np.float64), ((9, 3, 32, 32), 'FP32', np.float32)],
)
def test_wrong_tensors_are_refused(server, shape, kind, type_):
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    with pytest.raises(error, match=r'unexpected shape|data-type|batch-size'):
        server.ask('http', 'net_engine', np.zeros(shape, type_), kind, ['logits'])


def test_clients_cannot_unload_a_model(server):
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    with pytest.raises(error):
        server.client('http')[1].unload_model('net')


def test_it_listens_at_loopback_alone(server):
    lines = Path('/proc/net/tcp').read_text().splitlines()[1:]
    listening = [line.split()[1].split(':') for line in lines if line.split()[3] == '0A']
    own = {address for address, port in listening if int(port, 16) in vars(server.ports).values()}
    assert own == {'0100007F'}


def test_a_version_is_changed_under_load_without_a_failed_request(server):
    """Forward, back, forward."""
    stop, answers, failures = threading.Event(), [], []
    image = np.array([[encoded(3)]], dtype=object)
    (wanted,) = server.ask('http', 'net', image, 'BYTES', ['class'])

    def load():
        client = server.client('http')
        while not stop.is_set():
            try:
                answers.append(server.ask('http', 'net', image, 'BYTES', ['class'], client)[0])
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    client = server.client('http')[1]
    try:
        assert server.deploy() == 2
        for version, gone in ((2, 1), (1, 2), (2, 1)):
            activate(server.repository, 'net', version)
            server.wait(
                lambda new=version, old=gone: (
                    client.is_model_ready('net_engine', str(new)) and not client.is_model_ready('net_engine', str(old))
                )
            )
            time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, (len(failures), len(answers), failures[0])
    assert len(answers) > 50
    assert all(np.array_equal(answer, wanted) for answer in answers)
