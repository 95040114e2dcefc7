"""A trained network on real images: INT8 keeps its accuracy, and one that was spoilt on purpose is found out."""

import numpy as np
import onnx
import pytest

from calib.calibrate import Options, calibrate
from calib.data import Arrays
from calib.ranges import METHODS
from inference.errors import UserError

SPOILT = 'stages.1.0.conv2'


@pytest.fixture(scope='session')
def sources(training_images, test_images):
    return Arrays(*training_images), Arrays(*(part[:1000] for part in test_images), 100)


@pytest.fixture(scope='session')
def spoilt(trained):
    """The same function in float: one channel between two layers is 3,000 times as large, and its reader's weights are
    that much smaller. In INT8 the other channels have no steps left."""
    proto = onnx.ModelProto()
    proto.CopyFrom(trained)
    nodes = {node.name: node for node in proto.graph.node}
    writer, reader = nodes['stages.1.0.conv1'], nodes[SPOILT]
    factors = dict.fromkeys(writer.input[1:], 3000.0)
    for tensor in proto.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in factors:
            value[0] *= 3000
        elif tensor.name == reader.input[1]:
            value[:, 0] /= 3000
        elif tensor.name == reader.input[2]:
            value[: len(value) // 4, 0] /= 3000  # of the first group of four
        else:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return proto


@pytest.mark.parametrize('preset', ['cpu', 'tensorrt'])
def test_int8_keeps_the_accuracy(preset, trained, sources):
    result = calibrate(trained, *sources, Options(preset=preset))
    assert result.comparison.images == 1000
    assert result.comparison.top1[0] > 90
    assert abs(result.comparison.drop) < 0.5
    assert result.comparison.agreement > 98
    assert result.passed
    assert result.kept == []
    assert min(result.decibel.values()) > 20


@pytest.mark.parametrize('method', [pytest.param(name, marks=pytest.mark.long) for name in METHODS])
def test_methods(method, trained, sources):
    result = calibrate(trained, *sources, Options(method=method, max_drop=100))
    assert result.comparison.agreement > (60 if method == 'entropy' else 97)  # see docs/int8.md


def test_a_spoilt_network_fails_and_a_layer_in_float_mends_it(spoilt, trained, sources):
    images, evaluation = sources[0], Arrays(sources[1].images[:300], sources[1].labels[:300], 100)
    plain = calibrate(spoilt, images, evaluation, Options())
    assert plain.comparison.top1[0] == pytest.approx(92, abs=5)  # in float it is what it was
    assert plain.comparison.drop > 5
    assert not plain.passed
    said = []
    mixed = calibrate(spoilt, images, evaluation, Options(mixed=True, max_drop=1.5), say=said.append)
    assert mixed.passed
    assert SPOILT in mixed.kept
    assert len(mixed.kept) <= 3
    assert f'{SPOILT} in float' in ' '.join(said)
    chosen = calibrate(spoilt, images, evaluation, Options(keep_float=(SPOILT,), max_drop=1.5))
    assert chosen.passed
    assert chosen.kept == [SPOILT]


def test_labels_of_another_order_are_found_out(trained, sources):
    images = Arrays(sources[0].images[:32])
    wrong = Arrays(sources[1].images[:200], (sources[1].labels[:200] + 1) % 10)
    with pytest.raises(UserError, match='no more than by chance: labels in another order'):
        calibrate(trained, images, wrong, Options())


def test_a_cache_gives_the_same_network(trained, sources, tmp_path):
    images, evaluation = Arrays(sources[0].images[:32]), Arrays(sources[1].images[:32])
    options = Options(cache=tmp_path, max_drop=100)
    first, second = (calibrate(trained, images, evaluation, options) for _ in range(2))
    assert (first.cached, second.cached) == (False, True)
    assert first.model == second.model
    other = calibrate(trained, Arrays(sources[0].images[32:64]), evaluation, options)
    assert not other.cached


def test_reports_of_progress(trained, sources):
    told = []
    images, evaluation = Arrays(sources[0].images[:64]), Arrays(sources[1].images[:64])
    calibrate(trained, images, evaluation, Options(max_drop=100), lambda *step: told.append(step))
    assert ('minmax ranges on 64 images', 32, 64) in told
    assert ('comparison on 64 images', 64, 64) in told
    assert np.all(np.diff([done for what, done, _ in told if 'ranges' in what]) > 0)
