"""Times of layers beside what the layers are."""

from types import SimpleNamespace

import numpy as np
import pytest

import inference.tensorrt.manifest
import inference.tensorrt.runtime
from inference.errors import UserError
from inference.show import show_layers
from inference.tensorrt.layers import Layer
from inference.tensorrt.profile import profile_engine


@pytest.fixture
def engine(monkeypatch):
    """An engine of two layers, one of which its JSON does not know; gives what was asked of it."""
    asked, model = [], {'input_size': [3, 8, 8]}

    class Runner:
        def __init__(self, path):
            asked.append(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            asked.append('closed')

        def profile(self, x, n):
            asked.append((x.shape, x.dtype, n))
            return {'conv [1]': [3.0, 1.0, 2.0], 'reformat': [2.0, 2.0, 9.0]}

    layers = [Layer(name='conv [1]', type='correlation', nodes=['node_conv', 'node_relu'])]
    manifest = SimpleNamespace(model=model, layers=layers)
    monkeypatch.setattr(inference.tensorrt.manifest, 'check', lambda path, batch: manifest)
    monkeypatch.setattr(inference.tensorrt.runtime, 'EngineRunner', Runner)
    return asked, model


def test_layers_in_their_order(engine):
    first, second = profile_engine('m.engine', batch=4, runs=3)
    assert (first.ms, first.share, first.type, first.nodes) == (2.0, 0.5, 'correlation', ['node_conv', 'node_relu'])
    assert (second.name, second.ms, second.share, second.type, second.nodes) == ('reformat', 2.0, 0.5, '', [])
    assert engine[0] == ['m.engine', ((4, 3, 8, 8), np.dtype(np.float32), 3), 'closed']


def test_what_is_shown(engine, capsys):
    show_layers(profile_engine('m.engine', 4, 3), 4, 3)
    shown = capsys.readouterr().out
    assert '2.0000' in shown
    assert '50%' in shown
    assert 'node_conv, node_relu' in shown
    assert 'reformat' in shown
    assert '4.0000 ms in 2 layers, each timed alone: median of 3 executions with random images, batch 4' in shown


def test_a_model_without_a_size_is_told(engine):
    engine[1].clear()
    with pytest.raises(UserError, match='has no input_size'):
        profile_engine('m.engine')
