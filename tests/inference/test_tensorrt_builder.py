"""Real engines of TensorRT-RTX, built without a GPU; and TensorRT's own options, with TensorRT-RTX in its place."""

import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
from fake_cuda import FakeGpu, FakeLibcuda, installed
from onnx import TensorProto, helper, numpy_helper

import timm_hetconv
from inference.build import MAX_PRECISION_ERROR, build_tensorrt
from inference.errors import UserError
from inference.export import export_model, save_model
from inference.lowering.portable import to_portable
from inference.models import create_model
from inference.tensorrt import builder as builder_module
from inference.tensorrt import flavour, gpu
from inference.tensorrt.builder import Lowered, build_engine, build_lowered, lower
from inference.tensorrt.layers import from_json, from_log, inspect
from inference.tensorrt.options import BuildOptions, resolve

SMALL = 'hetconv_resnet20_cifar_p4'
SMS = (75, 80, 86, 89, 120)
BYTES = {'fp32': 4, 'fp16': 2, 'bf16': 2}

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec('tensorrt_rtx') is None,
    reason='TensorRT-RTX is not installed',
)


def rtx(**settings):
    return BuildOptions('tensorrt-rtx', **settings)


def check(built, proto, model, precision='fp16'):
    """What an engine must be, and would not be with a layer or a weight left out."""
    weights = sum(np.prod(i.dims) for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT)
    assert len(built.plan) >= weights * BYTES[precision]
    layers = timm_hetconv.count(model).layers
    expected = sum({'conv': 1, 'hetconv': 2}.get(layer.kind, 0) for layer in layers)
    assert built.network['CONVOLUTION'] == expected
    assert built.network['MATRIX_MULTIPLY'] == sum(layer.kind == 'linear' for layer in layers)
    done = {node for layer in built.layers for node in layer.nodes}
    graph = to_portable(proto).graph
    computing = {node.name for node in graph.node if node.op_type in ('Conv', 'Gemm', 'AveragePool', 'MaxPool')}
    assert computing <= done, 'the engine has no layer for these nodes'
    assert 'correlation' in {layer.type for layer in built.layers}


@needs_rtx
@pytest.mark.parametrize('sms', [(75,), (86, 120), ()], ids=str)
@pytest.mark.parametrize('name', [SMALL, 'hetconv_vgg16_cifar_p8_se'])
def test_an_engine_without_a_gpu(name, sms, exported):
    model, proto = exported(name)
    built = build_engine(proto, rtx(sms=sms))
    check(built, proto, model)
    known = flavour.architectures(flavour.load('tensorrt-rtx'))
    assert built.options.sms == (sms or tuple(sm for sm in known if sm >= 80))
    assert built.options.lowering == 'portable'
    assert not built.plugins
    assert not built.notes


@needs_rtx
@pytest.mark.long
@pytest.mark.parametrize('name', timm.list_models('hetconv_*'))
def test_every_model_builds_for_every_gpu(name):
    model = create_model(name)
    proto = export_model(model)
    lowered = lower(proto, rtx())
    for sms in (*((sm,) for sm in SMS), lowered.options.sms):
        built = build_lowered(dataclasses.replace(lowered, options=dataclasses.replace(lowered.options, sms=sms)))
        check(built, proto, model)


@needs_rtx
@pytest.mark.long
@pytest.mark.parametrize('precision', MAX_PRECISION_ERROR)
@pytest.mark.parametrize('name', [SMALL, 'hetconv_mobilenet_p4', 'hetconv_resnet50_p4_se', 'hetconv_vgg16_p4'])
def test_every_precision(name, precision):
    """The whole way: export, comparison, build."""
    built, info, error = build_tensorrt(name, rtx(precision=precision, sms=(80, 86, 89, 120)))
    assert 0 <= error <= MAX_PRECISION_ERROR[precision]
    model = create_model(name)
    assert info['macs'] == timm_hetconv.count(model).macs
    check(built, export_model(model), model, precision)


@needs_rtx
def test_precision_is_that_of_the_weights_in_the_engine(exported):
    model, proto = exported('hetconv_vgg16_cifar_p8_se')
    sizes = {}
    for precision in BYTES:
        built = build_engine(proto, rtx(precision=precision, sms=(86,)))
        check(built, proto, model, precision)
        sizes[precision] = len(built.plan)
    weights = sum(np.prod(i.dims) for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT)
    for precision in ('fp16', 'bf16'):
        assert sizes['fp32'] - sizes[precision] > 1.5 * weights


@needs_rtx
def test_weights_that_are_left_out_are_noticed(exported):
    """`check` can fail: an engine of another model, or of half of the weights."""
    model, proto = exported(SMALL)
    built = build_engine(proto, rtx(sms=(86,)))
    others, _ = exported('hetconv_vgg16_cifar_p8_se')
    with pytest.raises(AssertionError):
        check(built, proto, others)
    with pytest.raises(AssertionError):
        check(dataclasses.replace(built, plan=built.plan[:100_000]), proto, model)
    without = [layer for layer in built.layers if not any('pointwise' in node for node in layer.nodes)]
    with pytest.raises(AssertionError, match='no layer for these nodes'):
        check(dataclasses.replace(built, layers=without), proto, model)


@needs_rtx
@pytest.mark.parametrize('precision', BYTES)
def test_a_wrong_graph_is_found_before_it_is_built(precision, exported, tmp_path, monkeypatch):
    """One layer without its bias."""

    def lower_wrongly(proto, options):
        lowered = lower(proto, options)
        bias = next(i for i in lowered.proto.graph.initializer if i.name.endswith('.bias') and len(i.dims) == 1)
        bias.raw_data = bytes(len(bias.raw_data))
        return lowered

    path = save_model(exported(SMALL)[1], tmp_path / 'model.onnx')
    assert build_tensorrt(str(path), rtx(precision=precision))[0].plan
    monkeypatch.setattr(builder_module, 'lower', lower_wrongly)
    with pytest.raises(UserError, match=f'in {precision} the graph differs from the exported model by'):
        build_tensorrt(str(path), rtx(precision=precision))


@needs_rtx
def test_profiles(exported):
    """Each profile has layers of its own."""
    _, proto = exported(SMALL)
    one = build_engine(proto, rtx(sms=(86,), profiles=((1, 1, 1),)))
    two = build_engine(proto, rtx(sms=(86,), profiles=((1, 1, 1), (2, 8, 64)), weight_streaming=True))
    assert len(two.layers) > 1.5 * len(one.layers)


@needs_rtx
def test_the_log_is_not_the_only_report(exported):
    """Where the engine cannot be loaded, `inspect` says why."""
    try:
        gpu.local_sm()
    except UserError:
        _, proto = exported(SMALL)
        plan = build_engine(proto, rtx(sms=(86,))).plan
        with pytest.raises(UserError, match=r'cannot be loaded on this machine to list its layers: .*CUDA'):
            inspect(plan, 'tensorrt-rtx')
    else:
        pytest.skip('there is a GPU')


def one_node(op, domain='', x=('b', 3, 8, 8), weights=None, **attributes):
    """A file of others: one node from x to y."""
    inputs = ['x', *(weights or {})]
    opsets = [helper.make_opsetid('', 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(op, inputs, ['y'], name=f'the_{op}', domain=domain, **attributes)],
            'one',
            [helper.make_tensor_value_info('x', TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info('y', TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
        ),
        opset_imports=opsets,
        ir_version=10,
    )


@needs_rtx
@pytest.mark.parametrize(
    ('proto', 'words'),
    [
        (one_node('Det'), r"^the ONNX parser of tensorrt-rtx refuses Det 'the_Det': unsupported node \(false\)$"),
        (one_node('Secret', domain='com.example'), r"refuses Secret 'the_Secret': invalid node \(.*Plugin not found"),
        (
            one_node('Conv', weights={'w': np.zeros((4, 5, 3, 3), np.float32)}),
            r"refuses Conv 'the_Conv': invalid node .*Kernel weight dimension",
        ),
        (one_node('Relu', x=(2, 3, 8, 8)), r"input 'x' has the shape \(2, 3, 8, 8\): only the batch may be dynamic"),
        (one_node('Relu', x=('b', 3, 'h', 8)), r'only the batch may be dynamic'),
    ],
    ids=['operator that it has not', 'foreign operator', 'wrong shapes', 'fixed batch', 'dynamic size'],
)
def test_a_refused_graph_is_told_in_the_parsers_words(proto, words):
    with pytest.raises(UserError, match=words) as caught:
        build_lowered(Lowered(proto, resolve(rtx(), flavour.load('tensorrt-rtx'))[0]))
    assert '\n' not in str(caught.value)


@needs_rtx
def test_a_network_that_the_builder_refuses(exported, monkeypatch):
    """fp32 for Turing, which is refused before; the builder knows too, and its words get through."""
    _, proto = exported(SMALL)
    lowered = lower(proto, rtx(precision='fp32', sms=(86,)))
    turing = dataclasses.replace(lowered, options=dataclasses.replace(lowered.options, sms=(75,)))
    with pytest.raises(UserError, match=r'tensorrt-rtx \S+ cannot build this network: .*Turing') as caught:
        build_lowered(turing)
    assert '/_src/' not in str(caught.value)


REFUSED = [
    (dict(lowering='plugin'), 'TensorRT-RTX has no plugins'),
    (dict(sms=(90,)), 'not for 90: --engine tensorrt'),
    (dict(sms=(75,), precision='bf16'), 'SM 75 has no bf16'),
    (dict(sms=(75, 86), precision='fp32'), 'no fp32 networks on SM 75'),
    (dict(version_compatible=True), 'has no --version-compatible'),
    (dict(hardware_compatible='same-sm'), 'has no --hardware-compatible'),
    (dict(timing_cache='cache'), 'has no --timing-cache'),
]


@needs_rtx
@pytest.mark.parametrize(('settings', 'words'), REFUSED, ids=[words for _, words in REFUSED])
def test_what_tensorrt_rtx_has_not_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        resolve(rtx(**settings), flavour.load('tensorrt-rtx'))


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(engine='onnxruntime'), 'unknown engine'),
        (dict(precision='int8'), 'unknown precision'),
        (dict(lowering='native'), 'unknown lowering'),
        (dict(hardware_compatible='all'), 'there are ampere-plus, same-sm'),
        (dict(optimization_level=6), 'not one of 0 to 5'),
        (dict(optimization_level=-1), 'not one of 0 to 5'),
        (dict(profiles=()), 'needs a profile'),
        (dict(profiles=((8, 1, 64),)), 'and not 8,1,64'),
        (dict(profiles=((0, 1, 2),)), 'and not 0,1,2'),
        (dict(profiles=((1, 2),)), 'and not 1,2'),
    ],
    ids=str,
)
def test_options_that_make_no_sense(settings, words):
    with pytest.raises(UserError, match=words):
        BuildOptions(**{'engine': 'tensorrt', **settings})


@needs_rtx
def test_refit_needs_a_gpu(monkeypatch):
    def none():
        raise UserError('no driver')

    trt = flavour.load('tensorrt-rtx')
    monkeypatch.setattr(gpu, 'local_sm', none)
    with pytest.raises(UserError, match='--refit needs a GPU where the engine is built'):
        resolve(rtx(refit=True), trt)
    monkeypatch.setattr(gpu, 'local_sm', lambda: 86)
    assert resolve(rtx(refit=True), trt)[0].refit


# Progress and Ctrl-C


@needs_rtx
def test_progress(exported):
    said = []
    build_engine(exported(SMALL)[1], rtx(), lambda *step: said.append(step))
    done = [step[1] for step in said]
    assert done == sorted(done)
    assert len(said) >= 5
    assert {total for *_, total in said} == {100}
    assert done[-1] <= 100


@needs_rtx
def test_what_report_raises_stops_the_build(exported):
    def report(what, done, total):
        if done >= 30:
            raise RuntimeError('the terminal is gone')

    with pytest.raises(RuntimeError, match='the terminal is gone'):
        build_engine(exported(SMALL)[1], rtx(), report)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a test run in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@needs_rtx
def test_ctrl_c_stops_the_build(exported, ctrl_c):
    """TensorRT is in another thread, and has ended when the exception arrives."""
    said = []

    def report(what, done, total):
        said.append(done)
        if done >= 30 and not stopped.is_set():
            ctrl_c()
            stopped.wait(10)  # until the main thread has heard it

    stopped = threading.Event()
    original = builder_module.monitor_of

    def monitor_of(trt, report):
        monitor = original(trt, report)
        monitor.stopped = stopped
        return monitor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder_module, 'monitor_of', monitor_of)
        with pytest.raises(KeyboardInterrupt):
            build_engine(exported(SMALL)[1], rtx(), report)
    assert stopped.is_set()
    assert max(said) < 90
    assert not any(thread.name == 'build' for thread in threading.enumerate())


# The package


def fake_package(folder, name, code):
    (folder / name).mkdir()
    (folder / name / '__init__.py').write_text(code)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder that is looked in first, with no TensorRT imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if re.match(r'tensorrt(_rtx)?(_bindings|_libs)?\b', name)]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_a_package_that_is_not_there(packages, monkeypatch):
    for name in ('tensorrt', 'tensorrt_bindings', 'tensorrt_rtx', 'tensorrt_rtx_bindings'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"^tensorrt is not installed: pip install 'timm-hetconv\[gpu-base\]'$"):
        flavour.load('tensorrt')
    with pytest.raises(UserError, match=r"^tensorrt-rtx is not installed: pip install 'timm-hetconv\[rtx\]'$"):
        flavour.load('tensorrt-rtx')


@pytest.mark.parametrize('name', ['tensorrt', 'tensorrt_bindings'])
def test_a_package_without_its_libraries(name, packages, monkeypatch):
    missing = 'libnvinfer.so.11: cannot open shared object file'
    fake_package(packages, name, f'raise ImportError({missing!r})')
    if name == 'tensorrt_bindings':
        monkeypatch.setitem(sys.modules, 'tensorrt', None)
    with pytest.raises(UserError, match=rf'^{name} is installed but not its libraries \({missing}\): pip install'):
        flavour.load('tensorrt')


def test_a_version_that_is_too_old(packages):
    fake_package(packages, 'tensorrt', '__version__ = "8.6.1"')
    with pytest.raises(UserError, match=r'^tensorrt 8.6.1 is too old, 10.1 or newer is needed: pip install -U'):
        flavour.load('tensorrt')


def test_unknown_engine():
    with pytest.raises(UserError, match='there are tensorrt, tensorrt-rtx'):
        flavour.load('openvino')


def test_errors_are_one_line_without_places_in_sources():
    raw = (
        'IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot\ncompile. In compile at '
        '/_src/optimizer/code.cpp:2012)'
    )
    assert flavour._without_source(raw) == 'Myelin ([pass.cpp:337: check] Cannot compile.)'


# TensorRT, of which TensorRT-RTX has the interface


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


# Layers


def test_layers_of_a_log():
    log = [
        'Layers:\nName: a_myl0_2, LayerType: correlation, Inputs: [ { Name: x }], Constants: [], Outputs: [], '
        'TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: conv][ONNX Layer: relu]\n'
        'Name: b_myl0_3, LayerType: kgen, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata: \n',
        'something else',
    ]
    first, second = from_log(log)
    assert (first.name, first.type, first.nodes, first.tactic) == ('a_myl0_2', 'correlation', ['conv', 'relu'], 'stub')
    assert (second.name, second.type, second.nodes, second.tactic) == ('b_myl0_3', 'kgen', [], '')
    assert from_log(['nothing']) == []


def test_layers_of_the_inspector():
    text = (
        '{"Layers": [{"Name": "conv + relu", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma", '
        '"Metadata": "[ONNX Layer: conv]\\u001e[ONNX Layer: relu]"}, "a name only"], "Bindings": ["input"]}'
    )
    first, second = from_json(text)
    assert (first.type, first.nodes, first.tactic) == ('CaskConvolution', ['conv', 'relu'], 'sm80_xmma')
    assert second.name == 'a name only'


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
