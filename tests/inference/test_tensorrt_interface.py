"""TensorRT itself, of which TensorRT-RTX has the interface: what is asked of it, and what is checked before."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import FakeGpu, FakeLibcuda, installed
from needs import needs_rtx

from inference.errors import UserError
from inference.tensorrt import builder as builder_module
from inference.tensorrt import flavour, gpu
from inference.tensorrt.builder import build_engine, lower
from inference.tensorrt.options import BuildOptions, resolve

SMALL = 'hetconv_resnet20_cifar_p4'


@pytest.fixture
def stand_in(monkeypatch):
    """TensorRT-RTX as TensorRT on a GPU of SM 86; it times nothing, but reads and writes timing caches."""
    module = flavour.load('tensorrt-rtx')
    monkeypatch.setattr(builder_module, 'load', lambda engine: module)
    monkeypatch.setattr(builder_module, 'inspect', lambda plan, engine: [])
    monkeypatch.setattr(gpu, 'local_sm', lambda: 86)
    return module


@needs_rtx
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_timing_cache_is_written_and_a_damaged_one_begun_anew(stand_in, exported, tmp_path):
    _, proto = exported(SMALL)
    cache = tmp_path / 'times.cache'
    settings = BuildOptions('tensorrt', lowering='portable', timing_cache=cache)
    assert not build_engine(proto, settings).notes
    written = cache.read_bytes()
    assert len(written) > 16
    cache.write_bytes(b'rubbish' * 30)
    assert build_engine(proto, settings).notes == [f'{cache} is damaged, or of another TensorRT or GPU: begun anew']
    assert len(cache.read_bytes()) == len(written)
    assert list(tmp_path.iterdir()) == [cache]
    cache.unlink()
    cache.mkdir()
    with pytest.raises(UserError, match=r'times.cache: Is a directory'):
        build_engine(proto, settings)


@pytest.mark.parametrize('hardware', [None, 'ampere-plus'])
def test_the_graph_for_the_plugin(hardware, exported, monkeypatch):
    """Every HetConv layer is a node of it, for this GPU or for the oldest that may load the engine."""
    pytest.importorskip('inference.lowering.tensorrt')
    monkeypatch.setattr(builder_module, 'load', lambda engine: None)
    monkeypatch.setattr(gpu, 'local_sm', lambda: 86)
    lowered = lower(exported(SMALL)[1], BuildOptions('tensorrt', hardware_compatible=hardware))
    assert sum(lowered.plugins.values()) == 18
    assert all(name.startswith('hetconv::HetConv2d') for name in lowered.plugins)
    nodes = [node for node in lowered.proto.graph.node if node.domain]
    sms = {attr.i for node in nodes for attr in node.attribute if attr.name == 'sm'}
    assert sms == {80 if hardware else 86}
    assert not lowered.notes
    dense = lower(exported('hetconv_resnet20_cifar_p1')[1], BuildOptions('tensorrt'))
    assert dense.notes == ['no layer of this model is one for the plugin: built from standard operators']
    assert not dense.plugins
    assert dense.options.lowering == 'portable'


@pytest.mark.parametrize(
    ('taken', 'warning', 'is_anew'),
    [(True, '', False), (False, '', True), (True, 'Failed to deserialize timing cache', True)],
)
@needs_rtx
def test_which_timing_cache_is_of_use(taken, warning, is_anew, tmp_path):
    """As TensorRT says it: one of another GPU is not taken; for a damaged one there is an empty one and a warning."""
    trt = flavour.load('tensorrt-rtx')
    log = flavour.log_of(trt)

    class Config:
        def create_timing_cache(self, data):
            if data and warning:
                log.log(trt.ILogger.Severity.WARNING, warning)
            return data

        def set_timing_cache(self, cache, ignore_mismatch):
            self.cache = cache
            return taken or not cache

    path = tmp_path / 'cache'
    path.write_bytes(b'times')
    config = Config()
    cache, notes = builder_module._read_timing_cache(config, log, BuildOptions('tensorrt', timing_cache=path))
    assert bool(notes) == is_anew
    assert cache == config.cache == (b'times' if taken else b'')


@pytest.mark.parametrize(
    ('sm', 'settings', 'lowering', 'note'),
    [
        (86, {}, 'plugin', None),
        (80, {}, 'plugin', None),
        (86, dict(lowering='portable'), 'portable', None),
        (75, dict(lowering='portable'), 'portable', None),
        (75, dict(lowering='plugin'), 'portable', 'the plugin needs SM 80, this GPU is SM 75'),
        (75, {}, 'portable', 'the plugin needs SM 80, this GPU is SM 75'),
    ],
    ids=str,
)
def test_lowering_by_gpu(sm, settings, lowering, note, monkeypatch):
    monkeypatch.setattr(gpu, 'local_sm', lambda: sm)
    resolved, notes = resolve(BuildOptions('tensorrt', **settings), None)
    assert (resolved.lowering, resolved.sms) == (lowering, (sm,))
    assert [text.startswith(note) for text in notes] == ([True] if note else [])


@pytest.mark.parametrize(
    ('sm', 'settings', 'words'),
    [
        (86, dict(sms=(75,)), 'the GPU that is there, SM 86, not for SM 75'),
        (75, dict(precision='bf16'), 'SM 75 has no bf16'),
        (75, dict(hardware_compatible='ampere-plus'), 'needs an Ampere GPU or a newer one, this one is SM 75'),
    ],
    ids=str,
)
def test_what_this_gpu_cannot(sm, settings, words, monkeypatch):
    monkeypatch.setattr(gpu, 'local_sm', lambda: sm)
    with pytest.raises(UserError, match=words):
        resolve(BuildOptions('tensorrt', **settings), None)


def test_the_gpu_is_asked(monkeypatch):
    with installed(monkeypatch, FakeLibcuda(FakeGpu(), sm=121)):
        assert gpu.local_sm() == 121
    with installed(monkeypatch, None), pytest.raises(UserError, match=r'no NVIDIA driver .* builds without a GPU'):
        gpu.local_sm()


BINDINGS = """
from types import SimpleNamespace

from qdp_harness import load_bindings

trt = load_bindings()
from inference.tensorrt.builder import _configure
from inference.tensorrt.flavour import load, log_of
from inference.tensorrt.options import BuildOptions
from inference.tensorrt.progress import monitor_of

assert load('tensorrt') is trt
log = log_of(trt)
log.log(trt.ILogger.Severity.ERROR, 'IBuilder::build: Error Code 2: Internal (no. In f at /_src/a.cpp:1)')
assert log.words() == 'Internal (no.)', log.words()
monitor = monitor_of(trt, print)
monitor.phase_start('Building', None, 2)
assert monitor.step_complete('Building', 0)
monitor.stopped.set()
assert not monitor.step_complete('Building', 1)
flags = []
config = SimpleNamespace(set_flag=flags.append)
for hardware in ('ampere-plus', 'same-sm'):
    settings = dict(refit=True, version_compatible=True, hardware_compatible=hardware, weight_streaming=True)
    _configure(trt, config, BuildOptions('tensorrt', sms=(86,), **settings))
assert all(isinstance(flag, trt.BuilderFlag) for flag in flags) and len(set(flags)) == 3
assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
for name in vars(config):
    assert hasattr(trt.IBuilderConfig, name), name
names = {
    trt.Builder: 'create_network create_builder_config create_optimization_profile build_serialized_network',
    trt.IBuilderConfig: 'progress_monitor add_optimization_profile create_timing_cache set_timing_cache',
    trt.NetworkDefinitionCreationFlag: 'STRONGLY_TYPED PREFER_AOT_PYTHON_PLUGINS',
    trt.OnnxParser: 'parse get_error num_errors',
    trt.ParserError: 'code desc node_name node_operator',
    trt.INetworkDefinition: 'num_layers get_layer num_inputs get_input',
    trt.Runtime: 'deserialize_cuda_engine',
    trt.ICudaEngine: 'create_engine_inspector',
    trt.EngineInspector: 'get_engine_information',
    trt.LayerInformationFormat: 'JSON',
}
missing = [name for kind, text in names.items() for name in text.split() if not hasattr(kind, name)]
assert not missing, missing
"""


@pytest.mark.skipif(
    importlib.util.find_spec('tensorrt_bindings') is None or shutil.which('cc') is None,
    reason="NVIDIA's bindings are not installed: tensorrt-cu13-bindings; or no C compiler",
)
def test_names_are_those_of_tensorrts_own_bindings():
    """TensorRT without its libraries, which are stubs: what it is asked for is there, and takes what it is given."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = os.environ | {'PYTHONPATH': paths}
    result = subprocess.run([sys.executable, '-c', BINDINGS], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture
def for_plugin(exported):
    """A graph with plugin nodes."""
    from inference.lowering.tensorrt import to_tensorrt

    _, proto = exported('hetconv_resnet20_cifar_p4')
    return to_tensorrt(proto, 'fp16', 86)


def options_for(batch):
    return BuildOptions('tensorrt', lowering='plugin', sms=(86,), profiles=((1, 1, batch),))


def test_tensors_that_are_too_large_for_the_plugin_are_told_before_the_build(for_plugin):
    pytest.importorskip('triton')
    most = 2**31 // (16 * 32 * 32)
    builder_module._check_plugins(for_plugin, options_for(most - 1))
    with pytest.raises(UserError, match=rf'has more than 2\^31 values at batch {most}, more than the plugin takes'):
        builder_module._check_plugins(for_plugin, options_for(most))


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (ModuleNotFoundError("No module named 'triton'"), 'pip install triton'),
        (RuntimeError('PassManager::run failed\nat line 3'), r'not compile the plugin \(PassManager::run failed at'),
    ],
)
def test_what_triton_says_is_told(for_plugin, monkeypatch, error, words):
    def fail(*_):
        raise error

    monkeypatch.setattr('inference.kernels.gpu.aot.compile_kernel', fail)
    with pytest.raises(UserError, match=words):
        builder_module._check_plugins(for_plugin, options_for(8))
