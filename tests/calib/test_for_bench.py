"""What a bench in INT8 gives to the engines."""

import numpy as np
import onnxruntime
import pytest
from networks import SIZE, network

from calib.for_bench import quantize_for_bench
from inference.export import INPUT
from inference.lowering.portable import fix_batch, to_portable


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).standard_normal((4, *SIZE), np.float32)


@pytest.fixture(scope='module')
def forms(images):
    proto = network()
    return proto, *quantize_for_bench(proto, fix_batch(to_portable(proto), len(images)), images)


def _run(proto, images):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {INPUT: images})[0]


def test_both_forms_are_the_network(forms, images):
    proto, ours, other = forms
    expected = _run(proto, images)
    for form in (ours, other):
        error = np.abs(_run(form, images) - expected).max() / np.abs(expected).max()
        assert 0 < error < 0.05


def test_ours_keeps_hetconv_whole_and_the_other_has_every_convolution_in_integers(forms, tmp_path):
    """The second is the fair peer: ONNX Runtime makes integer convolutions of it."""
    _, ours, other = forms
    assert [node.op_type for node in ours.graph.node].count('HetConv2d') == 1
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    onnxruntime.InferenceSession(other.SerializeToString(), options, providers=['CPUExecutionProvider'])
    import onnx

    kinds = [node.op_type for node in onnx.load(tmp_path / 'optimised.onnx').graph.node]
    assert kinds.count('QLinearConv') == 4  # the stem, the shortcut and both halves
    assert 'Conv' not in kinds
    assert 'FusedConv' not in kinds
