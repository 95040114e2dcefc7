"""Real engines of TensorRT-RTX, built without a GPU; and TensorRT's own options, with TensorRT-RTX in its place."""

import dataclasses
import os
import signal
import threading

import numpy as np
import pytest
import timm
from needs import needs_rtx
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
from inference.tensorrt.layers import inspect
from inference.tensorrt.options import BuildOptions, resolve

SMALL = 'hetconv_resnet20_cifar_p4'
SMS = (75, 80, 86, 89, 120)
BYTES = {'fp32': 4, 'fp16': 2, 'bf16': 2}


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
@pytest.mark.slow
@pytest.mark.parametrize('name', timm.list_models('hetconv_*'))
def test_every_model_builds_for_all_gpus_at_once(name):
    model = create_model(name)
    proto = export_model(model)
    check(build_engine(proto, rtx(sms=SMS)), proto, model)


@needs_rtx
@pytest.mark.long
@pytest.mark.parametrize('name', timm.list_models('hetconv_*'))
def test_every_model_builds_for_each_gpu(name):
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
    (dict(sms=(90,)), 'not for 90: on such a GPU, --engine tensorrt'),
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
