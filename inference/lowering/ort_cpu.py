"""An exported model for ONNX Runtime with this project's CPU kernels: NHWC throughout, epilogues fused."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ['join_layers', 'to_ort_cpu']


def to_ort_cpu(proto: 'onnx.ModelProto', *, joined: bool = True) -> 'onnx.ModelProto':
    """Lower what `export_model` made.

    Args:
        joined: Make one node of neighbouring layers, which is faster; else each has its own, for ONNX Runtime's
            profiler and for `inference.tune`, after which `join_layers` does it.

    Returns:
        A new model with the same inputs, outputs and metadata (and `plugin`, what it needs), on operators of the domain
        `hetconv.nhwc`, which `inference.kernels.cpu.library()` brings to ONNX Runtime.
    """
    import json
    from importlib.metadata import version

    import onnx
    import onnx_ir as ir
    from onnxscript import rewriter

    from ..hetconv_op import NHWC_DOMAIN
    from . import epilogue
    from .nhwc import to_nhwc
    from .quantized import fuse_quantized, is_quantized
    from .sequence import join

    model = ir.from_proto(proto)
    model.functions.clear()
    model.opset_imports.pop('hetconv', None)
    fuse_quantized(model)
    to_nhwc(model)
    rewriter.rewrite(model, pattern_rewrite_rules=epilogue.rules())
    if is_quantized(model.graph):
        for node in model.graph:
            if (node.domain, node.op_type) == (NHWC_DOMAIN, 'Conv'):
                node.op_type = 'FloatConv'  # see ort_ops.cpp
    model.metadata_props['plugin'] = json.dumps(
        {'library': 'libhetconv.so', 'domain': NHWC_DOMAIN, 'version': version('timm-hetconv')}, sort_keys=True
    )
    if joined:
        join(model)
    lowered = ir.to_proto(model)
    onnx.checker.check_model(lowered)
    return lowered


def join_layers(lowered: 'onnx.ModelProto') -> 'onnx.ModelProto':
    """A model of `to_ort_cpu(..., joined=False)`, joined."""
    import onnx_ir as ir

    from .sequence import join

    model = ir.from_proto(lowered)
    join(model)
    return ir.to_proto(model)
