"""Engines in Triton's own backend of ONNX Runtime, in the real server: TRITON_BACKENDS names a folder that has it."""

import os

import numpy as np
import onnxruntime
import pytest
from triton_server import LABELS, MARKS, MODEL, Server, encoded

from inference.build import exported_of
from inference.engines.ort_cpu import make_session
from inference.export import INPUT, metadata
from inference.lowering.ort_cpu import to_ort_cpu
from inference.lowering.portable import to_portable
from inference.serving.repository import activate, deploy
from inference.serving.steps.prepare import prepare

BACKENDS = os.environ.get('TRITON_BACKENDS')
pytestmark = [
    *MARKS,
    pytest.mark.skipif(not BACKENDS, reason="TRITON_BACKENDS names no folder with Triton's backend of ONNX Runtime"),
]
ENGINES = ['portable', 'ort-cpu-native']


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp('triton'), None, '--backends', BACKENDS) as server:
        yield server


def network(engine):
    """What is deployed, and a session of it offline."""
    exported = exported_of(MODEL, None)
    lowered = to_ort_cpu(exported) if engine == 'ort-cpu-native' else to_portable(exported)
    data = lowered.SerializeToString()
    if engine == 'ort-cpu-native':
        return lowered, metadata(exported), make_session(data, 1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    return lowered, metadata(exported), session


def tensors(batch):
    return np.random.default_rng(batch).standard_normal((batch, 3, 32, 32), np.float32)


@pytest.mark.parametrize('engine', ENGINES)
def test_answers_are_those_of_the_network_offline(server, engine):
    """Tensors at the engine, images through all three steps."""
    lowered, facts, session = network(engine)
    deploy(lowered, facts, server.repository, engine, engine, LABELS)
    client = server.client('http')[1]
    server.wait(lambda: client.is_model_ready(engine))
    for protocol in ('http', 'grpc'):
        for batch in (1, 3, 8):
            x = tensors(batch)
            (logits,) = server.ask(protocol, f'{engine}_engine', x, 'FP32', ['logits'])
            # Our kernels give the same bits whatever ONNX Runtime is around them; its own change from one to another.
            tolerance = 0 if engine == 'ort-cpu-native' else 1e-4
            np.testing.assert_allclose(logits, session.run(None, {INPUT: x})[0], rtol=tolerance, atol=tolerance)
        image = encoded(7)
        given = np.array([[image]], dtype=object)
        classes, labels = server.ask(protocol, engine, given, 'BYTES', ['class', 'label'])
        (logits,) = session.run(None, {INPUT: prepare(image, facts)[None]})
        order = np.argsort(-logits[0], kind='stable')[:5]
        np.testing.assert_array_equal(classes[0], order)
        assert [text.decode() for text in labels[0]] == [LABELS[i] for i in order]


def test_a_version_with_a_library_of_its_own_comes_and_goes(server):
    """The path of the library is that of the version which is served; nothing fails meanwhile."""
    lowered, facts, session = network('ort-cpu-native')
    assert deploy(lowered, facts, server.repository, 'versions', 'ort-cpu-native', LABELS) == 1
    connection = server.client('http')
    server.wait(lambda: connection[1].is_model_ready('versions'))
    config = server.repository / 'versions_engine' / 'config.pbtxt'
    x = tensors(1)
    wanted = session.run(None, {INPUT: x})[0]

    def serves(version):
        (logits,) = server.ask('http', 'versions_engine', x, 'FP32', ['logits'], connection)
        np.testing.assert_array_equal(logits, wanted)
        return connection[1].is_model_ready('versions_engine', str(version))

    # The same network, so that every answer can be compared whichever version gave it.
    lowered.doc_string = 'the second'
    assert deploy(lowered, facts, server.repository, 'versions', 'ort-cpu-native', LABELS) == 2
    assert '/2/libhetconv.so' in config.read_text()
    server.wait(lambda: serves(2))
    activate(server.repository, 'versions', 1)
    assert '/1/libhetconv.so' in config.read_text()
    server.wait(lambda: serves(1))
