"""From a model or an exported ONNX file to what an engine loads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from .errors import UserError

if TYPE_CHECKING:
    import onnx

__all__ = ['ENGINES', 'build']

ENGINES = ('ort-cpu',)
MAX_BUILD_ERROR = 1e-4


def build(
    source: str,
    engine: str,
    checkpoint: Path | None = None,
    tune_threads: int = 0,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple['onnx.ModelProto', float]:
    """Lower a model for an engine, and compare the result with the exported model in stock ONNX Runtime.

    Args:
        source: A name in timm's registry, or a file of `hetconv export`.
        engine: One of `ENGINES`.
        checkpoint: Weights for a name.
        tune_threads: Choose the layers' algorithms by measuring with so many threads; 0 for the cost model.
        report: Called with what is being done meanwhile, how much is done, and of how much.

    Returns:
        What the engine loads, and the largest difference, relative to the largest value.

    Raises:
        UserError: Unknown engine or model, a file that is not ours, a checkpoint for a file, kernels that are not
            built, or a difference above `MAX_BUILD_ERROR`.
    """
    import numpy as np
    import onnxruntime

    from .engines.ort_cpu import make_session
    from .export import INPUT, export_model, load_onnx, metadata
    from .hetconv_op import NHWC_DOMAIN
    from .kernels.cpu import instruction_sets
    from .lowering.ort_cpu import to_ort_cpu
    from .models import create_model, weights_text
    from .tune import tune

    if engine not in ENGINES:
        raise UserError(f'nothing is built for engine {engine!r}, only for {", ".join(ENGINES)}')
    if Path(source).suffix.lower() == '.onnx':
        if checkpoint is not None:
            raise UserError(f'{source} has its weights already: leave --checkpoint out, or give the name of a model')
        exported = load_onnx(source)
        if any(node.domain == NHWC_DOMAIN for node in exported.graph.node):
            raise UserError(f'{source} is built already; give the file of `hetconv export`, or the name of a model')
    else:
        exported = export_model(create_model(source, checkpoint), weights=weights_text(checkpoint))
    lowered = to_ort_cpu(exported)
    batch = np.random.default_rng(1).standard_normal((2, *metadata(exported)['input_size']), np.float32)
    if tune_threads:
        tuned = tune(lowered, batch[:1], tune_threads, report=report)
        entry = lowered.metadata_props.add()
        entry.key = 'tuned'
        entry.value = json.dumps(
            {'threads': tune_threads, 'isa': instruction_sets()[0], 'layers': tuned}, sort_keys=True
        )
    sessions = (
        onnxruntime.InferenceSession(exported.SerializeToString(), providers=['CPUExecutionProvider']),
        make_session(lowered.SerializeToString()),
    )
    expected, output = (session.run(None, {INPUT: batch})[0] for session in sessions)
    error = float(np.abs(output - expected).max() / np.abs(expected).max())
    if not error <= MAX_BUILD_ERROR:  # also when it is not a number
        raise UserError(f'the built model differs from the exported by {error:.1e}, more than {MAX_BUILD_ERROR:.0e}')
    return lowered, error
