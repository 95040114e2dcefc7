"""Ranges: exact where they are the extremes, sensible where they are not, and refused where there are none."""

import numpy as np
import onnxruntime
import pytest
from networks import SIZE, images, network

from calib.data import Arrays
from calib.layers import find_layers, tensors_of
from calib.ranges import METHODS, _least_error, check_ranges, collect_ranges, tapped_session
from inference.errors import UserError

TENSORS = ['input', 'b', 's']


def ranges(method='minmax', x=None, proto=None, **options):
    source = Arrays(images() if x is None else x, batch_size=7)
    return collect_ranges(proto or network(), TENSORS, source, SIZE, method, **options)


def test_extremes_are_those_of_all_images():
    x = images()
    found = ranges(x=x)
    b, s = tapped_session(network(), ['b', 's']).run(['b', 's'], {'input': x})
    for name, values in {'input': x, 's': s}.items():
        assert found[name] == pytest.approx((values.min(), values.max()), rel=1e-6)
    assert found['b'] == pytest.approx((0, b.max()), rel=1e-6)  # rectified


@pytest.mark.parametrize('method', METHODS)
def test_no_method_reaches_beyond_the_extremes(method):
    outer = ranges()
    for name, (low, high) in ranges(method).items():
        assert outer[name][0] - 1e-6 <= low <= 0 < high <= outer[name][1] + 1e-6


@pytest.mark.parametrize('method', METHODS)
def test_symmetric_ranges(method):
    for low, high in ranges(method, symmetric=True).values():
        assert low == -high < 0


def test_one_outlier_does_not_take_all_steps():
    """One value a hundred times as large as the others: the extremes have it, a percentile does not."""
    x = images(96)
    x[50, 0, 3, 3] = 400
    assert ranges('minmax', x)['input'][1] == 400
    assert ranges('percentile', x)['input'][1] < 400


def test_the_least_error_is_found_end_by_end():
    """Of ten million values between -1 and 1 and one of 100."""
    counts, edges = np.histogram(np.linspace(-1, 1, 10_000), 2048, (-100, 100))
    counts = 1000 * counts
    counts[-1] = 1
    low, high = _least_error(counts, edges, -1, 100, False)
    # The slopes of (100 - b)^2 / 1e7 and of ((b + 1) / 255)^2 / 12 cancel out at b = 6.3.
    assert high == pytest.approx(6.3, abs=0.5)
    assert low == pytest.approx(-1, abs=0.06)
    low, high = _least_error(counts, edges, -1, 100, True)
    assert -low == high == pytest.approx(1.9, abs=0.1)  # of (100 - b)^2 / 1e7 and (2 b / 255)^2 / 12


@pytest.mark.parametrize('method', METHODS)
def test_pale_images_first(method):
    """Bins do not grow with what comes later, and no order of the images matters."""
    x = np.concatenate([images(14) / 1e5, images(14, 2)])
    found, turned = ranges(method, x), ranges(method, x[::-1].copy())
    for name, ends in found.items():
        assert ends == pytest.approx(turned[name], rel=1e-5)


@pytest.mark.parametrize('method', METHODS)
def test_a_tensor_of_few_values_has_a_range(method):
    """All but one of a million are zero: a percentile would cut off the one."""
    x = np.zeros((48, *SIZE), np.float32)
    x[7, 1, 2, 3] = 1
    assert ranges(method, x)['input'][1] > 0


def test_an_iterator_is_enough():
    assert collect_ranges(network(), TENSORS, iter([images()]), SIZE, 'mse') == ranges('mse')


def test_images_are_read_in_batches_of_any_size():
    assert ranges(x=images(24)) == ranges(x=images(24)[::-1].copy())


def test_what_is_refused():
    with pytest.raises(UserError, match="unknown method 'minmx'; did you mean minmax"):
        ranges('minmx')
    with pytest.raises(UserError, match='no images'):
        ranges(x=images(0))
    with pytest.raises(UserError, match=r'batch 0 has the shape \(7, 3, 9, 8\)'):
        ranges(x=np.zeros((7, 3, 9, 8), np.float32))
    with pytest.raises(UserError, match='batch 1 has values that are not finite'):
        ranges(x=np.where(np.arange(24)[:, None, None, None] == 8, np.nan, images()))
    with pytest.raises(UserError, match='activation b is the same on all images'):
        check_ranges(ranges(proto=network(zero=True)), ['input', 'b'])
    check_ranges(ranges(proto=network(zero=True)), ['input'])  # nobody asks for b where its reader stays in float
    huge = images()
    huge[9] = 3e38
    with pytest.raises(UserError, match='activation b is not finite on image 7 or one of the next 7'):
        ranges(x=huge)


def test_nothing_is_printed(capfd):
    for method in METHODS:
        ranges(method)
    assert capfd.readouterr() == ('', '')


def test_every_tensor_that_is_asked_for_has_a_range():
    proto = network()
    tensors = tensors_of(proto, find_layers(proto))
    assert set(collect_ranges(proto, tensors, Arrays(images()), SIZE)) == set(tensors)
    assert onnxruntime.InferenceSession(proto.SerializeToString()).get_outputs()[0].name == 'logits'
