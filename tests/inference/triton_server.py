"""The real server with a repository of ours in it: TRITON_PYTHON names a Python with nvidia-pytriton."""

import functools
import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.build import compare, exported_of
from inference.export import metadata
from inference.lowering.ort_cpu import to_ort_cpu
from inference.serving.config import Settings
from inference.serving.repository import deploy
from inference.serving.server import Ports

PYTHON = os.environ.get('TRITON_PYTHON')
# Of each module that starts a server; one at a time.
MARKS = [
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


@functools.cache
def network(model=MODEL):
    """What is served: a network on our kernels, and its metadata."""
    exported = exported_of(model, None)
    lowered = to_ort_cpu(exported)
    assert compare(exported, lowered) < 1e-4
    return lowered, metadata(exported)


class Server:
    """Ours, with a network in it, and clients of both protocols; as a context it waits until it is ready."""

    def __init__(self, folder: Path, settings: Settings | None = None, *options: str):
        self.repository, self.ports, self.settings = folder / 'models', free_ports(), settings
        self.options = options
        self.network, self.facts = network(MODEL)
        self.log = folder / 'log'
        self.deploy()
        self.start()

    def __enter__(self):
        self.wait_until_ready()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        ports = [f'--{name}={number}' for name, number in vars(self.ports).items()]
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'inference', 'serve', self.repository, '--python', PYTHON]
                + [*ports, *self.options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self):
        self.process.terminate()
        self.process.wait(30)

    def wait_until_ready(self):
        client = self.client('http')[1]
        self.wait(lambda: quietly(client.is_server_ready) and quietly(lambda: client.is_model_ready('net')))

    def deploy(self, what=None):
        what = what or (self.network, self.facts)
        return deploy(*what, self.repository, 'net', labels=LABELS, settings=self.settings)

    def client(self, protocol):
        module = pytest.importorskip(f'tritonclient.{protocol}')
        return module, module.InferenceServerClient(f'127.0.0.1:{getattr(self.ports, protocol)}')

    def ask(self, protocol, name, tensor, kind, outputs, client=None):
        module, client = client or self.client(protocol)
        given = module.InferInput('image' if kind == 'BYTES' else 'input', list(tensor.shape), kind)
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
