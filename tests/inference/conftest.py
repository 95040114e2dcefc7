"""Exported models, once a session."""

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
