"""A comparison counts what it should, on a network against itself and against a spoilt one."""

import numpy as np
import onnx
import pytest
from networks import SIZE, images, network

from calib.data import Arrays
from calib.evaluate import Comparison, compare, signal_to_noise
from inference.errors import UserError


def shifted(by):
    """The network with other biases at its end, so that `by` decides the class."""
    proto = network()
    for tensor in proto.graph.initializer:
        if tensor.name == 'fc.bias':
            value = onnx.numpy_helper.to_array(tensor) + np.array(by, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    return proto


def test_a_network_agrees_with_itself():
    x = images(20)
    labels = np.zeros(20, np.int64)
    found = compare(network(), network(), Arrays(x, labels, 7), SIZE)
    assert (found.images, found.agreement, found.drop) == (20, 100, 0)
    assert signal_to_noise(network(), network(), ['c', 'logits'], Arrays(x), SIZE) == {'c': np.inf, 'logits': np.inf}


def test_what_is_lost_and_won():
    """One network says 1 of everything, the other 2."""
    labels = np.array([1] * 12 + [2] * 5 + [3] * 3)
    one, two = shifted([0, 99, 0, 0]), shifted([0, 0, 99, 0])
    found = compare(one, two, Arrays(images(20), labels, 6), SIZE)
    assert (found.float_correct, found.int8_correct, found.agree) == (12, 5, 0)
    assert found.top1 == (60, 25)
    assert found.drop == 35
    assert compare(two, one, Arrays(images(20), labels), SIZE).drop == -35


def test_the_float_network_is_not_run_again():
    labels = np.array([1] * 12 + [2] * 5 + [3] * 3)
    one, two = shifted([0, 99, 0, 0]), shifted([0, 0, 99, 0])
    before = compare(one, one, Arrays(images(20), labels, 6), SIZE)
    again = compare(None, two, Arrays(images(20), labels, 7), SIZE, before=before)
    assert again == compare(one, two, Arrays(images(20), labels, 6), SIZE)
    assert (again.float_classes == 1).all()


def test_without_labels_the_drop_is_what_it_can_be_at_most():
    assert compare(shifted([0, 99, 0, 0]), shifted([0, 0, 99, 0]), Arrays(images(4)), SIZE).drop == 100
    assert Comparison(200, False, 0, 0, 197).drop == pytest.approx(1.5)


def test_signal_to_noise_by_hand():
    """The same difference added to every logit."""
    x = images(6)
    from calib.ranges import tapped_session

    logits = tapped_session(network(), []).run(None, {'input': x})[0].astype(np.float64)
    expected = 10 * np.log10((logits**2).sum() / (24 * 0.5**2))
    found = signal_to_noise(network(), shifted([0.5] * 4), ['logits'], Arrays(x, batch_size=4), SIZE)
    assert found['logits'] == pytest.approx(expected, abs=1e-3)


def test_no_images():
    with pytest.raises(UserError, match='no images to evaluate on'):
        compare(network(), network(), Arrays(images(0)), SIZE)
