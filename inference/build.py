"""From a model or an exported ONNX file to what an engine loads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from .errors import UserError, unknown

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from .tensorrt.builder import Built
    from .tensorrt.options import BuildOptions

__all__ = ['ENGINES', 'TENSORRT', 'build', 'build_tensorrt', 'compare', 'exported_of']

TENSORRT = ('tensorrt', 'tensorrt-rtx')
ENGINES = ('ort-cpu', *TENSORRT)
MAX_BUILD_ERROR = 1e-4
# Quantised: a sum that is a tie here and not there is one step of 255, and the layers after it carry it on: to 4e-7
# with random weights, to 9e-3 with random norms or trained weights. A layer that lacks its bias differs by 6e-3 to
# 0.35.
MAX_INT8_ERROR = 3e-2
# With random weights the registered models differ by up to 1.0e-3 in fp16 and 1.1e-2 in bf16, a ViT by 2e-3 and 1e-2; a
# ResNet-20 that lacks the bias of one convolution, by 2.2e-2 to 1.4e-1.
MAX_PRECISION_ERROR = {'fp32': MAX_BUILD_ERROR, 'fp16': 5e-3, 'bf16': 3e-2}


def build(
    source: str,
    engine: str,
    checkpoint: Path | None = None,
    tune_threads: int = 0,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple['onnx.ModelProto', float]:
    """Lower a model for ONNX Runtime with our kernels, and compare the result with the exported model.

    Args:
        source: A name in timm's registry, or a file of `hetconv export`.
        engine: 'ort-cpu'; the others of `ENGINES` have `build_tensorrt`.
        checkpoint: Weights for a name.
        tune_threads: Choose the layers' algorithms by measuring with so many threads; 0 for the cost model.
        report: Called with what is being done meanwhile, how much is done, and of how much.

    Returns:
        What the engine loads, and the largest difference, relative to the largest value.

    Raises:
        UserError: Unknown engine or model, a file that is not ours, a checkpoint for a file, kernels that are not
            built, or a difference above `MAX_BUILD_ERROR`, of a quantised model `MAX_INT8_ERROR`.
    """
    from .export import metadata
    from .kernels.cpu import instruction_sets
    from .lowering.ort_cpu import join_layers, to_ort_cpu
    from .tune import tune

    if engine != 'ort-cpu':
        raise unknown('engine to build for', engine, ENGINES)
    exported = exported_of(source, checkpoint)
    lowered = to_ort_cpu(exported, joined=False)
    if tune_threads:
        batch = _images(metadata(exported)['input_size'])
        tuned = tune(lowered, batch[:1], tune_threads, report=report)
        entry = lowered.metadata_props.add()
        entry.key = 'tuned'
        entry.value = json.dumps(
            {'threads': tune_threads, 'isa': instruction_sets()[0], 'layers': tuned}, sort_keys=True
        )
    joined = join_layers(lowered)
    return joined, compare(exported, joined)


def compare(exported: 'onnx.ModelProto', lowered: 'onnx.ModelProto') -> float:
    """Run a lowered model, with our kernels or of standard operators, beside the exported one.

    Returns:
        The largest difference, relative to the largest value.

    Raises:
        UserError: It is above `MAX_BUILD_ERROR`, of a quantised model `MAX_INT8_ERROR`.
    """
    import onnxruntime

    from .engines.ort_cpu import make_session
    from .export import metadata
    from .hetconv_op import NHWC_DOMAIN
    from .lowering.quantized import is_quantized

    options = onnxruntime.SessionOptions()
    most = MAX_BUILD_ERROR
    if is_quantized(exported.graph.node):
        # As the graph stands: fused, ONNX Runtime's own kernels saturate on processors without VNNI.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        most = MAX_INT8_ERROR

    def session(proto: 'onnx.ModelProto') -> Any:
        if any(node.domain == NHWC_DOMAIN for node in proto.graph.node):
            return make_session(proto.SerializeToString())
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=['CPUExecutionProvider'])

    error = _difference((session(exported), session(lowered)), _images(metadata(exported)['input_size']))
    if not error <= most:  # also when it is not a number
        raise UserError(f'the built model differs from the exported by {error:.1e}, more than {most:.0e}')
    return error


def build_tensorrt(
    source: str,
    options: 'BuildOptions',
    checkpoint: Path | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple['Built', dict[str, Any], float]:
    """Build an engine of TensorRT or TensorRT-RTX, after its graph has been compared with the exported model.

    The engine needs a GPU to run, so what is compared is the ONNX that TensorRT's parser gets, in ONNX Runtime on the
    CPU, half precision in float32 with every value rounded; of a graph with our plugin, which has no form for the CPU,
    the same with standard operators instead.

    Args:
        source: A name in timm's registry, or a file of `hetconv export`.
        options: What to build.
        checkpoint: Weights for a name.
        report: Called with what is being done, how much is done, and of how much.

    Returns:
        The engine, the model's metadata, and the graph's largest difference, relative to the largest value.

    Raises:
        UserError: See `build` and `inference.tensorrt.builder.build_engine`.
    """
    import onnxruntime

    from .export import metadata
    from .lowering.portable import to_portable
    from .lowering.precision import rounded_to_float32, to_precision
    from .tensorrt.builder import build_lowered, lower
    from .tensorrt.flavour import load
    from .tensorrt.options import resolve

    resolve(options, load(options.engine))  # before the export, which takes longer
    report('export', 0, 100)
    exported = exported_of(source, checkpoint)
    preset = metadata(exported).get('int8', {}).get('preset', 'tensorrt')
    if preset != 'tensorrt':
        raise UserError(
            f'{source} is INT8 for {preset}, with zero points that TensorRT does not take: `hetconv calibrate --preset '
            'tensorrt` makes one for it'
        )
    report('comparison', 10, 100)
    lowered = lower(exported, options)
    graph = lowered.proto if not lowered.plugins else to_precision(to_portable(exported), options.precision)
    if options.precision != 'fp32':
        graph = rounded_to_float32(graph)
    sessions = [
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])
        for proto in (exported, graph)
    ]
    error, most = (
        _difference(sessions, _images(metadata(exported)['input_size'])),
        MAX_PRECISION_ERROR[options.precision],
    )
    del sessions
    if not error <= most:  # also when it is not a number: values beyond fp16
        raise UserError(
            f'in {options.precision} the graph differs from the exported model by {error:.1e}, more than {most:.0e}'
            + (': build with --precision bf16 or fp32' if options.precision == 'fp16' else '')
        )
    built = build_lowered(lowered, lambda what, done, total: report(what, 20 + 80 * done // total, 100))
    return built, metadata(exported), error


def exported_of(source: str, checkpoint: Path | None) -> 'onnx.ModelProto':
    """The model of a name or of a file of `hetconv export`.

    Raises:
        UserError: Unknown model, a file that is not ours, or a checkpoint for a file.
    """
    from .export import export_model, load_onnx
    from .hetconv_op import NHWC_DOMAIN
    from .models import create_model, weights_text

    if Path(source).suffix.lower() in ('.engine', '.json'):
        raise UserError(
            f'{source} is a result of `hetconv build`; give the name of a model, or an ONNX file of `export`'
        )
    if Path(source).suffix.lower() != '.onnx':
        return export_model(create_model(source, checkpoint), weights=weights_text(source, checkpoint))
    if checkpoint is not None:
        raise UserError(f'{source} has its weights already: leave --checkpoint out, or give the name of a model')
    exported = load_onnx(source)
    if any(node.domain == NHWC_DOMAIN for node in exported.graph.node):
        raise UserError(f'{source} is built already; give the file of `hetconv export`, or the name of a model')
    return exported


def _images(input_size: list[int]) -> 'np.ndarray':
    import numpy as np

    return np.random.default_rng(1).standard_normal((2, *input_size), np.float32)


def _difference(sessions: Sequence[Any], batch: 'np.ndarray') -> float:
    """Largest difference of the second session from the first, relative to the largest value of the first."""
    from .export import INPUT

    expected, output = (session.run(None, {INPUT: batch})[0] for session in sessions)
    return float(abs(output - expected).max() / abs(expected).max())
