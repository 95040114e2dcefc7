"""The layer that INT8 hurts is found, and no more layers stay in float than hold the bound."""

import pytest
from networks import SIZE, images, network

from calib.data import Arrays
from calib.evaluate import Comparison
from calib.layers import Layer, find_layers, tensors_of
from calib.presets import PRESETS
from calib.ranges import collect_ranges
from calib.sensitivity import Sensitivity, choose_float, measure_sensitivity


def layer(name, macs):
    return Layer(name, name, 'Conv', 'x', 'y', ('w',), macs)


# Noise at the logits 1 %, 0.1 % and 1 %; the first takes ten times as long in float as the others.
A, B, C = layer('a', 1000), layer('b', 100), layer('c', 100)
MEASURED = [Sensitivity(A, 20.0), Sensitivity(C, 20.0), Sensitivity(B, 30.0)]


def chosen(drops, bound=1.0):
    """`drops`: points that INT8 costs with these layers in float."""
    asked = []

    def evaluate(kept):
        names = ''.join(sorted(layer.name for layer in kept))
        asked.append(names)
        return Comparison(1000, True, 900, 900 - round(10 * drops[names]), 0)

    kept, comparison = choose_float(MEASURED, bound, evaluate([]), evaluate)
    return ''.join(sorted(layer.name for layer in kept)), comparison.drop, asked


def test_nothing_stays_in_float_where_nothing_must():
    assert chosen({'': 0.9}) == ('', pytest.approx(0.9), [''])


def test_the_most_noise_for_the_least_time_comes_first():
    assert chosen({'': 5, 'c': 0.5})[::2] == ('c', ['', 'c'])
    assert chosen({'': 5, 'c': 3, 'ac': 0.5, 'a': 2})[2] == ['', 'c', 'ac', 'a']


def test_a_layer_that_is_not_needed_goes_back():
    """'c' was tried first, and 'a' alone is enough."""
    assert chosen({'': 5, 'c': 4.9, 'ac': 0.6, 'a': 0.8})[:2] == ('a', pytest.approx(0.8))


def test_the_best_choice_where_none_is_good_enough():
    assert chosen({'': 5, 'c': 4, 'ac': 3})[:2] == ('ac', pytest.approx(3))
    assert chosen({'': 5, 'c': 2, 'ac': 3})[:2] == ('c', pytest.approx(2))
    assert chosen({'': 5, 'c': 6, 'ac': 7})[:2] == ('', pytest.approx(5))


def test_the_layer_whose_input_has_an_outlier_is_the_noisiest():
    proto, x = network(), Arrays(images(32))
    layers = find_layers(proto)
    ranges = collect_ranges(proto, tensors_of(proto, layers), x, SIZE)
    ranges['f'] = (0.0, 200 * ranges['f'][1])  # of the last layer: two steps are left for what there is
    found = measure_sensitivity(proto, layers, ranges, PRESETS['cpu'], list(x), SIZE)
    assert [item.decibel for item in found] == sorted(item.decibel for item in found)
    assert sorted(item.layer.name for item in found) == ['fc', 'mix', 'shortcut', 'stem']
    assert found[0].layer.name == 'fc'
    assert found[0].decibel < 15 < 25 < found[1].decibel
    assert found[0].noise == pytest.approx(10 ** (-found[0].decibel / 10))
