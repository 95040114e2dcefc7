"""The files of docs/serving around the real server: TRITON_PYTHON names a Python with nvidia-pytriton."""

import re
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from serving_examples import (
    MIB,
    TOKEN,
    Proxy,
    expressions,
    needs_nginx,
    resource,
)
from triton_server import MARKS, PYTHON, Server, encoded

from inference.serving.server import command_of


class Measured(Server):
    """With the arguments of kserve.yaml after ours."""

    def start(self):
        backends = self.repository.parent / 'backends'
        backends.mkdir()
        command, environment = command_of(self.repository, self.ports, python=Path(PYTHON), links=backends)
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
