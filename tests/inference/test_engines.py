"""Every engine, one suite: the interface, and the right result."""

import importlib

import numpy as np
import pytest
import torch

from calib.for_bench import quantize_for_bench
from inference.engines import ENGINES, Engine, ModelFiles, installed_engines, load_engine
from inference.engines.torch_eager import TorchEager
from inference.errors import UserError
from inference.export import save_model
from inference.lowering.portable import fix_batch, to_portable
from inference.subjects import model_subjects

ON_A_GPU = [name for name, (module, _) in ENGINES.items() if module.endswith('_gpu')]  # tests/gpu
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


@pytest.mark.parametrize('name', [name for name in ENGINES if name != 'torch-compile' and name not in ON_A_GPU])
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


@pytest.mark.parametrize('name', ['ort-cpu', 'onnxruntime', 'openvino'])
def test_result_in_int8(name, tmp_path):
    """Close to the float network, and not it: the engine got, and ran, the one in INT8."""
    engine = _load(name)
    ((_, p4),) = model_subjects([MODELS[0]])
    files, samples = p4.write(tmp_path, 3, 0, quantize_for_bench)
    data = np.load(samples)
    active = engine(files, threads=1, batch=3, precision='int8')
    active.activate()
    error = np.abs(active.infer(data['x']) - data['y']).max() / np.abs(data['y']).max()
    active.deactivate()
    assert 1e-3 < error < 5e-2


@pytest.mark.parametrize('name', ENGINES)
def test_every_engine_says_what_it_is(name):
    engine = _class(name)
    assert issubclass(engine, Engine)
    assert engine.name == name
    assert engine.lowering in ('native', 'portable', 'plugin')
    assert engine.packages
    assert engine.distributions
    assert engine.install.startswith('timm-hetconv')


def _class(name):
    module, attribute = ENGINES[name]
    return getattr(importlib.import_module(f'inference.engines.{module}'), attribute)


@pytest.mark.parametrize('name', ENGINES)
def test_device_and_precisions(name):
    engine = _class(name)
    assert (engine.device == 'cuda') == (name in ON_A_GPU)
    assert engine.precisions[0] == 'fp32'
    assert set(engine.precisions) <= {'fp32', 'int8', 'fp16', 'bf16'}


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_pytorch_on_a_gpu_as_far_as_a_cpu_goes(written, monkeypatch, precision):
    """Types and layouts are a CPU's too."""
    engine = _class('torch-cuda')
    monkeypatch.setattr(engine, 'device', 'cpu')
    model, files = written(MODELS[0], 2)
    active = engine(files, 1, 2, precision)
    active.activate()
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    output = active.infer(x)
    active.deactivate()
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    assert output.dtype == np.float32
    assert np.abs(output - expected).max() <= {'fp32': 1e-4, 'bf16': 5e-2}[precision] * np.abs(expected).max()


@pytest.mark.parametrize(('name', 'lowering'), [('tensorrt', 'plugin'), ('tensorrt-portable', 'portable')])
def test_tensorrt_builds_for_its_batch_and_runs_that(written, monkeypatch, name, lowering):
    import inference.build
    import inference.tensorrt.manifest
    import inference.tensorrt.runtime

    asked, calls = [], []

    class Runner:
        def __init__(self, path, graphs):
            calls.append(('runner', path.suffix, graphs))

        def __getattr__(self, method):
            return lambda *arguments: calls.append((method, *arguments)) or [1.0]

    monkeypatch.setattr(
        inference.build, 'build_tensorrt', lambda *arguments: asked.append(arguments) or ('built', {}, 0.0)
    )
    monkeypatch.setattr(inference.tensorrt.manifest, 'save_engine', lambda path, *built: calls.append(('save', *built)))
    monkeypatch.setattr(inference.tensorrt.runtime, 'EngineRunner', Runner)
    _, files = written(MODELS[0], 4)
    active = _class(name)(files, 1, 4, 'fp16')
    active.activate()
    assert active.time('x', 3) == [1.0]
    active.deactivate()
    ((source, options),) = asked
    assert source == str(files.onnx)
    assert (options.engine, options.precision, options.lowering) == ('tensorrt', 'fp16', lowering)
    assert options.profiles == ((4, 4, 4),)
    assert calls == [
        ('save', 'built', {}, 0.0), ('runner', '.engine', [4]), ('open',), ('infer', 'x'), ('time', 'x', 3), ('close',)
    ]  # fmt: skip


def test_unknown_engine():
    with pytest.raises(UserError, match=r'unknown engine .tflite.; there are torch,'):
        load_engine('tflite')


def test_engines_that_have_the_precisions():
    assert 'torch' in installed_engines()
    assert 'torch' not in installed_engines('cpu', ['int8'])
    assert 'onnxruntime' in installed_engines('cpu', ['int8'])
    assert 'torch' in installed_engines('cpu', ['fp32', 'int8'])


def test_engine_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr(TorchEager, 'packages', ('surely_not_installed',))
    with pytest.raises(UserError, match=r"engine torch needs surely_not_installed: pip install 'timm-hetconv'"):
        load_engine('torch')
    assert 'torch' not in installed_engines()
