"""The real server with our repository: TRITON_PYTHON names a Python with nvidia-pytriton, see docs/serving.md."""

import io
import platform
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from PIL import Image
from triton_server import LABELS, MARKS, MODEL, Server, encoded, network

from inference.build import exported_of
from inference.engines.ort_cpu import make_session
from inference.export import INPUT
from inference.lowering.ort_cpu import to_ort_cpu
from inference.lowering.portable import to_portable
from inference.serving.config import Settings
from inference.serving.repository import activate, deploy
from inference.serving.steps.prepare import prepare

pytestmark = MARKS


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp('triton')) as server:
        yield server


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


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a setting of glibc')
def test_photographs_find_their_memory(server):
    """In the processes of a small network; where there are large blocks glibc keeps them by itself."""
    steps = [child for child in psutil.Process(server.process.pid).children(recursive=True) if 'stub' in child.name()]
    assert len(steps) == 2

    def faults():
        return sum(int(Path(f'/proc/{step.pid}/stat').read_text().rpartition(')')[2].split()[7]) for step in steps)

    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)).save(photo, 'JPEG')
    batch, client = np.array([[photo.getvalue()]], dtype=object), server.client('http')
    for i in range(60):
        if i == 20:
            before = faults()
        server.ask('http', 'net', batch, 'BYTES', ['class'], client)
    assert (faults() - before) / 40 < 50  # 300 were it given back


@pytest.mark.parametrize('protocol', ['http', 'grpc'])
def test_the_engine_takes_images_and_tensors(server, protocol):
    """One of the two, and gives what it is asked for."""
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    module, client = server.client(protocol)
    prepared = prepare(encoded(2), server.facts)[None]
    given = {
        'image': module.InferInput('image', [1, 1], 'BYTES'),
        'input': module.InferInput('input', [1, 3, 32, 32], 'FP32'),
    }
    given['image'].set_data_from_numpy(np.array([[encoded(2)]], dtype=object))
    given['input'].set_data_from_numpy(prepared)
    (wanted,) = make_session(server.network.SerializeToString(), 1).run(None, {INPUT: prepared})
    for tensor in given.values():
        for outputs in (['logits'], ['score', 'class'], ['logits', 'label']):
            answer = client.infer('net_engine', [tensor], outputs=[module.InferRequestedOutput(x) for x in outputs])
            found = answer.get_response()
            found = found['outputs'] if protocol == 'http' else found.outputs
            assert sorted(x['name'] if protocol == 'http' else x.name for x in found) == sorted(outputs)
            if 'logits' in outputs:
                np.testing.assert_array_equal(answer.as_numpy('logits'), wanted)
    with pytest.raises(error, match='image or input has to be given, and not both'):
        client.infer('net_engine', [*given.values()])


def test_a_bad_image_among_others_is_answered_alone(tmp_path):
    """All in one run of the network."""
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    images = [encoded(1), encoded(2)[:300], encoded(3), b'']
    with Server(tmp_path, Settings(max_batch=4, instances=1, delay_us=2_000_000)) as server:
        offline = make_session(server.network.SerializeToString(), 1)
        answers = {}

        def ask(number):
            image = np.array([[images[number]]], dtype=object)
            try:
                answers[number] = server.ask('grpc', 'net_engine', image, 'BYTES', ['logits'])[0]
            except error as words:
                answers[number] = str(words)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in (0, 2):
            (wanted,) = offline.run(None, {INPUT: prepare(images[number], server.facts)[None]})
            np.testing.assert_allclose(answers[number], wanted, rtol=1e-4, atol=1e-5)
        assert 'damaged' in answers[1]
        assert 'is empty' in answers[3]
        (stats,) = server.client('http')[1].get_inference_statistics('net_engine')['model_stats']
        assert (stats['inference_count'], stats['execution_count']) == (5, 2)  # and the warm-up


STAND_IN = """
import os
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'model.onnx')
        self.session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, 'input').as_numpy()
            logits = self.session.run(None, {self.session.get_inputs()[0].name: x})[0]
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor('logits', logits)]))
        return answers
"""


def test_the_steps_around_an_engine_of_tritons_own(server):
    """The backend of ONNX Runtime, which the server here has not, is stood in for by a few lines of Python."""
    exported, facts = exported_of(MODEL, None), network(MODEL)[1]
    lowered = to_portable(exported)
    deploy(lowered, facts, server.repository.parent / 'elsewhere', 'steps', 'portable', LABELS)
    engine = server.repository.parent / 'elsewhere' / 'steps_engine'
    (engine / '1' / 'model.py').write_text(STAND_IN)
    config = (engine / 'config.pbtxt').read_text()
    assert 'backend: "onnxruntime"' in config
    (engine / 'config.pbtxt').write_text(config.replace('backend: "onnxruntime"', 'backend: "python"'))
    for model in ('steps_prepare', 'steps_engine', 'steps_labels', 'steps'):
        (server.repository.parent / 'elsewhere' / model).rename(server.repository / model)
    module, client = server.client('http')
    server.wait(lambda: client.is_model_ready('steps'))
    images = [encoded(5), encoded(6)]
    given = module.InferInput('image', [2, 1], 'BYTES')
    given.set_data_from_numpy(np.array(images, dtype=object)[:, None])
    answer = client.infer('steps', [given])
    session = onnxruntime.InferenceSession(lowered.SerializeToString(), providers=['CPUExecutionProvider'])
    (logits,) = session.run(None, {INPUT: np.stack([prepare(image, facts) for image in images])})
    order = np.argsort(-logits, 1, kind='stable')[:, :5]
    np.testing.assert_array_equal(answer.as_numpy('class'), order)
    assert [[text.decode() for text in row] for row in answer.as_numpy('label')] == [
        [LABELS[i] for i in r] for r in order
    ]
    given.set_data_from_numpy(np.array([[b'junk'], [b'junk']], dtype=object))
    error = pytest.importorskip('tritonclient.utils').InferenceServerException
    with pytest.raises(error, match='no image'):
        client.infer('steps', [given])


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
    lines = [line for file in ('tcp', 'tcp6') for line in Path('/proc/net', file).read_text().splitlines()[1:]]
    listening = [line.split()[1].split(':') for line in lines if line.split()[3] == '0A']
    own = {address for address, port in listening if int(port, 16) in vars(server.ports).values()}
    loopback = {'0100007F', '0000000000000000FFFF00000100007F'}  # the second is the first as IPv6 writes it
    assert own
    assert own <= loopback


def test_a_version_is_changed_under_load_without_a_failed_request(server):
    """Forward, back, forward, to another network, of other batches and fewer labels; each answer is one of either."""
    stop, answers, failures = threading.Event(), [], []
    image = encoded(3)
    asked = np.array([[image]], dtype=object)
    first, second = network(MODEL), network('hetconv_resnet20_cifar_p8')
    orders = []
    for lowered, facts in (first, second):
        (logits,) = make_session(lowered.SerializeToString(), 1).run(None, {INPUT: prepare(image, facts)[None]})
        orders.append(np.argsort(-logits, 1, kind='stable'))
    wanted = [orders[0][:, :5], orders[1][:, :3]]
    assert not np.array_equal(wanted[0][:, :3], wanted[1])

    def load():
        client = server.client('http')
        while not stop.is_set():
            try:
                answers.append(server.ask('http', 'net', asked, 'BYTES', ['class'], client)[0])
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    client = server.client('http')[1]
    try:
        settings = Settings(max_batch=2, top_k=3)
        assert deploy(*second, server.repository, 'net', labels=LABELS, settings=settings) == 2
        for version, gone in ((2, 1), (1, 2), (2, 1)):
            activate(server.repository, 'net', version)
            server.wait(
                lambda new=version, old=gone: (
                    client.is_model_ready('net_engine', str(new)) and not client.is_model_ready('net_engine', str(old))
                )
            )
            server.wait(lambda new=version: any(np.array_equal(answer, wanted[new - 1]) for answer in answers[-20:]))
            time.sleep(1)
            # The settings came too: what this version takes, no more.
            assert client.get_model_config('net')['max_batch_size'] == {1: 8, 2: 2}[version]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, (len(failures), len(answers), failures[0])
    # While the steps change one after the other, an answer may have the network of one and the length of the other.
    assert all(any(np.array_equal(answer, order[:, : answer.shape[1]]) for order in orders) for answer in answers)


@pytest.mark.parametrize('kind', ['onnxruntime', 'int8'])
def test_other_networks_answer_as_offline(server, kind):
    """Standard operators in stock ONNX Runtime, and eight bits on our kernels."""
    exported, facts = exported_of(MODEL, None), network(MODEL)[1]
    prepared = prepare(encoded(5), facts)[None]
    if kind == 'int8':
        from quantized_networks import quantized

        lowered = to_ort_cpu(quantized(exported, np.concatenate([prepared, -prepared])))
        session, engine = make_session(lowered.SerializeToString(), 1), 'ort-cpu'
    else:
        lowered, engine = to_portable(exported), 'onnxruntime'
        session = onnxruntime.InferenceSession(lowered.SerializeToString(), providers=['CPUExecutionProvider'])
    deploy(lowered, facts, server.repository, kind, engine, LABELS)
    client = server.client('http')[1]
    server.wait(lambda: client.is_model_ready(kind))
    module = server.client('http')[0]
    given = module.InferInput('image', [1, 1], 'BYTES')
    given.set_data_from_numpy(np.array([[encoded(5)]], dtype=object))
    classes = client.infer(kind, [given]).as_numpy('class')
    (logits,) = session.run(None, {INPUT: prepared})
    np.testing.assert_array_equal(classes, np.argsort(-logits, 1, kind='stable')[:, :5])


def test_requests_of_unequal_sizes_make_one_batch(tmp_path):
    """Each gets its own part back."""
    images = np.random.default_rng(7).standard_normal((6, 3, 32, 32), np.float32)
    with Server(tmp_path, Settings(max_batch=6, instances=1, delay_us=2_000_000)) as server:
        (wanted,) = make_session(server.network.SerializeToString(), 1).run(None, {INPUT: images})
        answers = {}

        def ask(first, last):
            answers[first] = server.ask('grpc', 'net_engine', images[first:last], 'FP32', ['logits'])[0]

        threads = [threading.Thread(target=ask, args=cut) for cut in ((0, 1), (1, 3), (3, 6))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for first, last in ((0, 1), (1, 3), (3, 6)):
            np.testing.assert_allclose(answers[first], wanted[first:last], rtol=1e-4, atol=1e-5)
        (stats,) = server.client('http')[1].get_inference_statistics('net_engine')['model_stats']
        assert (stats['inference_count'], stats['execution_count']) == (7, 2)  # and the warm-up
