"""Every engine, one suite: the interface, and the right result."""

import numpy as np
import pytest
import torch

from inference.engines import ENGINES, Engine, ModelFiles, installed_engines, load_engine
from inference.engines.torch_eager import TorchEager
from inference.errors import UserError
from inference.export import save_model
from inference.lowering.portable import fix_batch, to_portable

MODELS = ['hetconv_resnet20_cifar_p4', 'hetconv_vgg16_cifar_gwc4_se', 'hetconv_mobilenet_cifar_p32']


@pytest.fixture(scope='module')
def written(exported, tmp_path_factory):
    def write(name, batch):
        model, proto = exported(name)
        folder = tmp_path_factory.mktemp(name)
        files = ModelFiles(folder / 'm.pt', folder / 'm.onnx', folder / 'm.portable.onnx')
        torch.save(model, files.module)
        save_model(proto, files.onnx)
        save_model(fix_batch(to_portable(proto), batch), files.portable)
        return model, files

    return write


@pytest.mark.parametrize('name', [name for name in ENGINES if name != 'torch-compile'])
@pytest.mark.parametrize('model_name', MODELS)
def test_result(name, model_name, written):
    engine = _load(name)
    _check(engine, written, model_name)


@pytest.mark.long
def test_result_of_torch_compile(written):
    """Compiles for a minute."""
    _check(_load('torch-compile'), written, MODELS[0])


def _load(name):
    module = ENGINES[name][0]
    try:
        return load_engine(name)
    except UserError as error:
        pytest.skip(f'{module}: {error}')


def _check(engine, written, model_name, batch=3):
    model, files = written(model_name, batch)
    active = engine(files, threads=1, batch=batch)
    active.activate()
    try:
        for seed in (0, 1):  # the second call must not remember the first
            x = np.random.default_rng(seed).standard_normal((batch, 3, 32, 32), np.float32)
            with torch.no_grad():
                expected = model(torch.from_numpy(x)).numpy()
            output = active.infer(x)
            kept = output.copy()
            active.infer(x[::-1].copy())
            np.testing.assert_array_equal(output, kept, err_msg="an output is the caller's to keep")
            assert output.dtype == np.float32
            np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    finally:
        active.deactivate()


@pytest.mark.parametrize('name', ENGINES)
def test_every_engine_says_what_it_is(name):
    import importlib

    module, attribute = ENGINES[name]
    engine = getattr(importlib.import_module(f'inference.engines.{module}'), attribute)
    assert issubclass(engine, Engine)
    assert engine.name == name
    assert engine.lowering in ('native', 'portable', 'plugin')
    assert engine.packages
    assert engine.distributions
    assert engine.install.startswith('timm-hetconv')


def test_unknown_engine():
    with pytest.raises(UserError, match=r'unknown engine .tflite.; there are torch,'):
        load_engine('tflite')


def test_engine_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr(TorchEager, 'packages', ('surely_not_installed',))
    with pytest.raises(UserError, match=r"engine torch needs surely_not_installed: pip install 'timm-hetconv'"):
        load_engine('torch')
    assert 'torch' not in installed_engines()
