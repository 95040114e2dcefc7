"""The choice of algorithms by measuring."""

import json

import numpy as np
import pytest

from inference import tune as tune_module
from inference.build import build
from inference.engines.ort_cpu import make_session
from inference.export import INPUT, export_model
from inference.hetconv_op import NHWC_DOMAIN
from inference.kernels import cpu
from inference.lowering.ort_cpu import join_layers, to_ort_cpu
from inference.models import create_model
from inference.tune import choose, tune

MODEL = 'hetconv_resnet20_cifar_p4'


@pytest.fixture(scope='module')
def lowered():
    return to_ort_cpu(export_model(create_model(MODEL)), joined=False).SerializeToString()


@pytest.fixture
def proto(lowered):
    import onnx

    return onnx.load_from_string(lowered)


def algorithms(proto):
    """The attribute, by node or step of a sequence."""
    found = {}
    for node in proto.graph.node:
        for a in node.attribute:
            step = a.name.removesuffix('algorithm')
            if step != a.name:
                names = {b.name: b.s.decode() for b in node.attribute if b.name.endswith('name')}
                found[names[f'{step}name'] if step else node.name] = a.i
    return {name: number for name, number in found.items() if number}


def test_faster_is_chosen():
    times = {'auto': [9, 10, 11, 10], 'direct': [5, 6, 5, 6], 'winograd4': [7, 7, 8, 7]}
    assert choose({'a': times}) == {'a': 'direct'}


@pytest.mark.parametrize(
    'direct',
    [
        pytest.param([10, 10, 10, 10], id='as fast'),
        pytest.param([9.9, 9.9, 9.9, 9.9], id='hardly faster'),
        pytest.param([5, 5, 12, 12], id='faster half of the time'),
        pytest.param([12, 12, 12, 12], id='slower'),
    ],
)
def test_what_is_not_clearly_faster_is_not_chosen(direct):
    assert choose({'a': {'auto': [10, 10.1, 10, 10.1], 'direct': direct}}) == {}


@pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')
class TestTune:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)

    def test_every_convolution_is_measured_on_every_algorithm(self, proto, monkeypatch):
        seen = []
        monkeypatch.setattr(tune_module, 'choose', lambda times: seen.append(times) or {})
        reports = []
        assert tune(proto, self.x, rounds=2, report=lambda *args: reports.append(args)) == {}
        (times,) = seen
        convolutions = {
            n.name for n in proto.graph.node if n.domain == NHWC_DOMAIN and n.op_type in ('HetConv2d', 'Conv')
        }
        assert set(times) == convolutions
        assert len(convolutions) == 19
        for by_algorithm in times.values():
            assert {name: len(values) for name, values in by_algorithm.items()} == dict.fromkeys(cpu.ALGORITHMS, 6)
        assert reports == [('measuring algorithms', 0, 2), ('measuring algorithms', 1, 2)]
        assert algorithms(proto) == {}

    def test_what_is_chosen_runs(self, proto, lowered, monkeypatch):
        """Every layer that can, by Winograd's algorithm, as the session option has it; and again, from the start."""
        can = {
            n.name
            for n in proto.graph.node
            if n.op_type == 'HetConv2d' and {a.name: list(a.ints) for a in n.attribute}['strides'] == [1, 1]
        }
        monkeypatch.setattr(tune_module, 'choose', lambda times: {name: 'winograd2' for name in times if name in can})
        assert set(tune(proto, self.x, rounds=1)) == can
        assert algorithms(proto) == dict.fromkeys(can, cpu.ALGORITHMS['winograd2'])
        run = {
            name: make_session(model, 1, **config).run(None, {INPUT: self.x})[0]
            for name, model, config in (
                ('tuned', proto.SerializeToString(), {}),
                ('direct', lowered, {'algorithm': 'direct'}),
                ('forbidden', proto.SerializeToString(), {'algorithm': 'direct'}),
            )
        }
        assert not np.array_equal(run['tuned'], run['direct'])
        np.testing.assert_allclose(run['tuned'], run['direct'], rtol=0, atol=1e-4 * np.abs(run['direct']).max())
        assert np.array_equal(run['forbidden'], run['direct'])
        monkeypatch.setattr(tune_module, 'choose', lambda times: {})
        tune(proto, self.x, rounds=1)
        assert algorithms(proto) == {}

    def test_a_float_layer_of_a_quantised_network_is_measured_too(self, proto, monkeypatch):
        """It has a name of its own there."""
        renamed = next(node for node in proto.graph.node if node.op_type == 'Conv')
        renamed.op_type = 'FloatConv'
        seen = []
        monkeypatch.setattr(tune_module, 'choose', lambda times: seen.append(times) or {})
        tune(proto, self.x, rounds=1)
        assert renamed.name in seen[0]

    def test_joined_layers_are_refused(self, proto):
        with pytest.raises(ValueError, match='joined=False'):
            tune(join_layers(proto), self.x)

    def test_a_built_file_says_how_it_was_tuned(self):
        built, error = build(MODEL, 'ort-cpu', tune_threads=1)
        assert error < 1e-4
        (entry,) = (entry for entry in built.metadata_props if entry.key == 'tuned')
        tuned = json.loads(entry.value)
        assert tuned['threads'] == 1
        assert tuned['isa'] == cpu.instruction_sets()[0]
        assert set(tuned['layers']) == set(algorithms(built))
