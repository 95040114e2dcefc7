"""Exported models, once a session; a machine with a fake GPU."""

import pytest

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')


@pytest.fixture(scope='session')
def exported():
    """`exported(name)`: the model with random weights, and its ONNX form."""
    from inference.export import export_model
    from inference.models import create_model

    cache = {}

    def get(name):
        if name not in cache:
            model = create_model(name)
            cache[name] = model, export_model(model)
        return cache[name]

    return get


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine(...)`: a runner on a fake GPU with a fake TensorRT."""
    from fake_machine import Machine

    machine = Machine(tmp_path, monkeypatch)
    with machine.stack:
        yield machine
