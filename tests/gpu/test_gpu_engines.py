"""TensorRT with our plugin on a GPU: what could not be proved without one, each by its name."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from inference.build import build_tensorrt
from inference.engines import ENGINES, load_engine
from inference.errors import UserError
from inference.tensorrt.manifest import read_manifest
from inference.tensorrt.options import BuildOptions
from inference.tensorrt.runtime import EngineRunner
from timm_hetconv import HetConv2d

MODEL = 'hetconv_resnet20_cifar_p4'
TOLERANCE = {'fp32': 1e-2, 'fp16': 1e-2, 'bf16': 5e-2}  # of the logits, relative to the largest
PACKAGES = ['cuda-core', 'pycuda']


def error(y, logits):
    return float(np.abs(y - logits).max() / np.abs(logits).max())


@pytest.fixture(scope='module')
def plugin_engine(engine_of):
    return engine_of(MODEL, precision='fp16', lowering='plugin')


@pytest.mark.parametrize('precision', TOLERANCE)
def test_tensorrt_accepts_our_ptx_and_the_plugin_engine_equals_pytorch(engine_of, expected, precision, record_property):
    path = engine_of(MODEL, precision=precision, lowering='plugin')
    x, logits = expected(MODEL)
    with EngineRunner(path) as runner:
        found = error(runner.infer(x), logits)
    record_property('max_error', found)
    assert len(plugin_layers(path)) == sum(read_manifest(path).plugins.values())
    assert found <= TOLERANCE[precision]


@pytest.mark.parametrize('name', ['hetconv_resnet34_p4', 'hetconv_vgg16_p8', 'hetconv_mobilenet_p32'])
def test_models_at_224_equal_pytorch(engine_of, expected, name, record_property):
    x, logits = expected(name, 2)
    with EngineRunner(engine_of(name, precision='fp16', lowering='plugin')) as runner:
        found = error(runner.infer(x), logits)
    record_property('max_error', found)
    assert found <= TOLERANCE['fp16']


def information(path, batch=8):
    """The inspector's JSON of an engine, with the shapes of a batch: formats are not told of dynamic ones."""
    import tensorrt as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    name = engine.get_tensor_name(0)
    assert context.set_input_shape(name, (batch, *engine.get_tensor_shape(name)[1:]))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def plugin_layers(path):
    layers = [layer for layer in information(path)['Layers'] if isinstance(layer, dict)]
    return [layer for layer in layers if 'plugin' in json.dumps(layer).lower()]


def test_hwc8_is_chosen_for_the_plugin(plugin_engine, record_property):
    layers = plugin_layers(plugin_engine)
    assert layers, 'the inspector shows no plugin layer'
    formats = sorted({tensor['Format/Datatype'] for layer in layers for tensor in layer['Outputs']})
    record_property('formats', formats)
    assert not any('N/A' in form for form in formats), 'the inspector does not tell the formats'
    # TensorRT's words for HWC8: "Channel major FP16 format where channel % 8 == 0" and the like.
    words = ('% 8', 'hwc8', 'channel last')
    assert all(any(word in form.lower() for word in words) for form in formats), formats


def test_no_reformatting_between_plugin_layers(plugin_engine, record_property):
    kinds = [layer.get('LayerType', '') for layer in information(plugin_engine)['Layers'] if isinstance(layer, dict)]
    assert any(kinds), 'the inspector does not tell the types of layers'
    reformats = sum('reformat' in kind.lower() for kind in kinds)
    record_property('reformats', reformats)
    assert reformats < sum(read_manifest(plugin_engine).plugins.values()) / 2


def test_the_engine_needs_no_code_of_ours(plugin_engine):
    """A process with NVIDIA's packages only, as a server has them, deserialises and can make a context."""
    code = (
        'import sys, tensorrt as trt\n'
        'logger = trt.Logger(trt.Logger.ERROR)\n'
        'engine = trt.Runtime(logger).deserialize_cuda_engine(open(sys.argv[1], "rb").read())\n'
        'assert engine is not None and engine.create_execution_context() is not None\n'
        'loaded = {name.split(".")[0] for name in sys.modules}\n'
        'assert not loaded & {"inference", "timm_hetconv", "torch", "triton"}\n'
    )
    subprocess.run([sys.executable, '-I', '-c', code, str(plugin_engine)], check=True)


@pytest.mark.parametrize('package', PACKAGES)
def test_runners(plugin_engine, expected, package):
    x, logits = expected(MODEL, 8)
    with EngineRunner(plugin_engine, package) as runner:
        for batch in (8, 1, 3, 8):  # dynamic shapes
            assert error(runner.infer(x[:batch]), logits[:batch]) <= TOLERANCE['fp16']


@pytest.mark.parametrize('package', PACKAGES)
def test_concurrent_contexts(plugin_engine, expected, package):
    x, _ = expected(MODEL, 8)
    wrong = []
    with EngineRunner(plugin_engine, package, contexts=4) as runner:
        alone = [runner.infer(image[None]) for image in x]

        def work(index):
            for _ in range(50):
                if not np.array_equal(runner.infer(x[index][None]), alone[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize('package', PACKAGES)
def test_cuda_graphs(plugin_engine, expected, package, record_property):
    x, logits = expected(MODEL, 8)
    with EngineRunner(plugin_engine, package, graphs=[1, 8]) as runner:
        assert not runner.notes
        for batch in (1, 8, 1):
            assert error(runner.infer(x[:batch]), logits[:batch]) <= TOLERANCE['fp16']
        record_property('ms_graph', float(np.median(runner.time(x[:1], 50))))
    with EngineRunner(plugin_engine, package) as runner:
        record_property('ms', float(np.median(runner.time(x[:1], 50))))


class Bounded(nn.Module):
    """Layers that are clamped on no side, on both, and above zero only."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(HetConv2d(32, 32, 3, part=2) for _ in range(3))

    def forward(self, x):
        x = torch.clamp(self.layers[0](x), -1.0, 1.0)
        return torch.nn.functional.relu6(self.layers[1](x)).add(self.layers[2](x)).mean((2, 3))


def test_bounds_reach_the_kernel(tmp_path):
    """They are numbers of 32 bits in TensorRT's expressions of sizes."""
    from inference.export import export_model, save_model
    from inference.tensorrt.manifest import save_engine

    model = Bounded().eval()
    source = save_model(export_model(model, (32, 12, 12)), tmp_path / 'bounded.onnx')
    save_engine(tmp_path / 'bounded.engine', *build_tensorrt(str(source), BuildOptions('tensorrt', lowering='plugin')))
    x = torch.randn(4, 32, 12, 12)
    with torch.no_grad(), EngineRunner(tmp_path / 'bounded.engine') as runner:
        assert error(runner.infer(x.numpy()), model(x).numpy()) <= TOLERANCE['fp16']


def test_a_batch_outside_the_profile_is_refused(plugin_engine, expected):
    x, _ = expected(MODEL, 8)
    with EngineRunner(plugin_engine) as runner, pytest.raises(UserError, match='65'):
        runner.infer(np.repeat(x[:1], 65, axis=0))


@pytest.mark.parametrize(
    'options',
    [
        {'lowering': 'portable'},
        {'refit': True},
        {'weight_streaming': True},
        {'version_compatible': True, 'lowering': 'portable'},
        {'version_compatible': True, 'lowering': 'plugin'},
        {'hardware_compatible': 'ampere-plus'},
        {'hardware_compatible': 'same-sm'},
        {'profiles': ((1, 1, 4), (8, 8, 16))},
    ],
    ids=str,
)
def test_builder_options(engine_of, expected, options):
    x, logits = expected(MODEL)
    with EngineRunner(engine_of(MODEL, precision='fp16', **options)) as runner:
        assert error(runner.infer(x), logits) <= TOLERANCE['fp16']


def test_timing_cache_makes_the_second_build_quicker(tmp_path, record_property):
    options = BuildOptions('tensorrt', timing_cache=tmp_path / 'cache')
    first, second = (build_tensorrt(MODEL, options)[0].seconds for _ in range(2))
    record_property('seconds', [first, second])
    assert (tmp_path / 'cache').stat().st_size > 0
    assert second < first


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'bf16'])
@pytest.mark.parametrize('name', [name for name, (module, _) in ENGINES.items() if module.endswith('_gpu')])
def test_engines_of_the_bench(name, precision, tmp_path):
    """Right, and timed, on a model and on its dense twin."""
    from inference.bench import Condition
    from inference.subjects import model_subjects
    from inference.worker_process import WorkerProcess

    if precision not in load_engine(name).precisions:
        pytest.skip(f'{name} has no {precision}')
    for subject in model_subjects([MODEL])[0]:
        files, samples = subject.write(tmp_path, 4, 0)
        worker = WorkerProcess(0)  # as the bench has it: a process in which nothing else loads libraries
        try:
            worker.activate(name, files, Condition(0, 4, precision), samples)
            times = worker.time(5)
        finally:
            worker.close()
        assert len(times) == 5
        assert min(times) > 0


def test_an_int8_engine_with_the_plugin_equals_the_graph(tmp_path, engine_of, record_property):
    """Of a network of `hetconv calibrate --preset tensorrt`, as ONNX Runtime computes it."""
    from calib.layers import find_layers, tensors_of
    from calib.presets import PRESETS
    from calib.quantize import quantize
    from calib.ranges import collect_ranges, session_of
    from inference.export import INPUT, export_model, metadata, save_model
    from inference.models import create_model

    proto = export_model(create_model(MODEL))
    size = metadata(proto)['input_size']
    x = np.random.default_rng(0).standard_normal((8, *size), np.float32)
    layers = find_layers(proto)
    ranges = collect_ranges(proto, tensors_of(proto, layers), [(x, None)], size, symmetric=True)
    graph = quantize(proto, layers, ranges, PRESETS['tensorrt'], facts={'preset': 'tensorrt'})
    save_model(graph, tmp_path / 'int8.onnx')
    path = engine_of(str(tmp_path / 'int8.onnx'))
    assert sum(read_manifest(path).plugins.values()) == 15
    wanted = session_of(graph, optimised=False).run(None, {INPUT: x})[0]
    with EngineRunner(path) as runner:
        found = error(runner.infer(x), wanted)
    record_property('error', found)
    assert found < 0.05


def test_an_engine_of_tensorrt_rtx_runs(gpu, engine_of, expected):
    pytest.importorskip('tensorrt_rtx', reason='TensorRT-RTX is not installed')
    if gpu.sm not in (75, 80, 86, 89, 120):
        pytest.skip(f'TensorRT-RTX has no engines for SM {gpu.sm}')
    x, logits = expected(MODEL)
    with EngineRunner(engine_of(MODEL, engine='tensorrt-rtx', sms=(gpu.sm,))) as runner:
        assert error(runner.infer(x), logits) <= TOLERANCE['fp16']
