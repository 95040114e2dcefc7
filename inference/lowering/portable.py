"""HetConv2d as standard operators, for engines that refuse model-local functions (OpenVINO, TensorRT, MNN, ncnn)."""

from typing import TYPE_CHECKING

from ..hetconv_op import DOMAIN

if TYPE_CHECKING:
    import onnx

__all__ = ['fix_batch', 'to_portable']


def to_portable(proto: 'onnx.ModelProto') -> 'onnx.ModelProto':
    """Inline the model-local functions: every HetConv2d becomes a grouped Conv, a 1x1 Conv and an Add.

    TensorRT's parser ignores attributes that a function passes on by reference, hence inlining, which resolves them.

    Returns:
        A new model of standard operators only, with the same weights, inputs, outputs and metadata.
    """
    import onnx
    import onnx.inliner

    inlined = onnx.inliner.inline_local_functions(proto)
    kept = [entry for entry in inlined.opset_import if entry.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    onnx.checker.check_model(inlined, full_check=True)
    return inlined


def fix_batch(proto: 'onnx.ModelProto', batch: int) -> 'onnx.ModelProto':
    """A copy with a fixed batch size, for converters that do not know a dynamic one."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    for value in [*fixed.graph.input, *fixed.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del fixed.graph.value_info[:]  # shapes of the inside speak of the dynamic batch
    return onnx.shape_inference.infer_shapes(fixed)
