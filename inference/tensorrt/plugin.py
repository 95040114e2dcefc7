"""HetConv2d as a quickly deployable plugin of TensorRT, compiled ahead of time: its PTX is in the engine.

An engine with it needs neither Python nor a library of ours. TensorRT asks, while it builds, which formats and tiles
there are (`autotune`), gets PTX and launch parameters for each (`aot_impl`), measures them on the GPU, and keeps one.

Inputs are x (B, M, H, W), w (rows, columns) as `tiles.pack` gives it, epilogue (1, N) or for INT8 (3, N) in float32,
and for `HetConv2dResidual` the residual, of the shape of the output (B, N, OH, OW). The kernel's own parameters are
these pointers, 32-bit integers, and the pointer of the output: the order in which TensorRT passes them.
"""

import functools
import inspect
from typing import Any

from ..errors import UserError
from ..kernels.gpu.aot import Variant, compile_kernel, for_target
from ..kernels.gpu.tiles import ITEM, TILES, Layer, Tile, candidates, constants, is_even, tile_count
from ..lowering.tensorrt_plugin import NAMESPACE, PLUGINS

__all__ = ['FORMATS', 'combinations', 'register', 'tactics']

# TensorRT's types -> ours, and the formats in which channels come last, or in blocks of 32.
PRECISIONS = {'FLOAT': 'fp32', 'HALF': 'fp16', 'BF16': 'bf16', 'INT8': 'int8'}
TYPES = {'fp32': 'FP32', 'fp16': 'FP16', 'bf16': 'BF16', 'int8': 'INT8'}
FORMATS = {'fp32': ('HWC',), 'fp16': ('HWC8',), 'bf16': ('HWC8',), 'int8': ('CHW32', 'HWC16')}
CHANNEL_BLOCK = {'CHW32': 32}


def tactics(layer: Layer, precision: str, layout: str) -> dict[int, Tile]:
    """Tiles that TensorRT may choose from, by a number that means the same tile in every layer."""
    numbers = {tile: number for number, tile in enumerate(TILES[ITEM[precision]], start=1)}
    fitting = candidates(layer.merged(), ITEM[precision])
    if layout in CHANNEL_BLOCK:
        fitting = tuple(tile for tile in fitting if tile.k == CHANNEL_BLOCK[layout])
    return {numbers.get(tile, len(numbers) + 1): tile for tile in fitting}


def combinations(layer: Layer, precision: str, known: Any, residual: bool) -> list[tuple[str, str, list[int]]]:
    """Types, formats and tactics of all inputs and the output, as `AutoTuneCombination` takes them.

    Args:
        layer: Not merged.
        precision: A key of `FORMATS`.
        known: Formats that this TensorRT has.
        residual: Whether there is one.
    """
    result = []
    for layout in FORMATS[precision]:
        blocks = layer.in_channels % 32 == 0 and layer.merged().group_in % 32 == 0 and layer.out_channels % 32 == 0
        numbers = sorted(tactics(layer, precision, layout))
        if not numbers or layout not in known or (layout == 'CHW32' and not blocks):
            continue
        if layout == 'HWC16' and (layer.in_channels % 16 or layer.out_channels % 16):
            continue
        image = TYPES[precision]
        types = [image, image, 'FP32', *([image] * residual), image]
        layouts = [layout, 'LINEAR', 'LINEAR', *([layout] * residual), layout]
        result.append((', '.join(types), ', '.join(layouts), numbers))
    return result


def _layer(x: Any, epilogue: Any, attributes: dict[str, Any]) -> Layer:
    kernel, stride, dilation = (
        (int(attributes[name][0]), int(attributes[name][1])) for name in ('kernel_shape', 'strides', 'dilations')
    )
    return Layer(x.shape[1], epilogue.shape[1], int(attributes['part'][0]), kernel, stride, dilation)


def _describe(inputs: tuple, attributes: dict[str, Any]) -> tuple:
    """The output's shape and type."""
    x, _, epilogue = inputs[:3]
    y = x.like()
    y.shape_expr[1] = epilogue.shape_expr[1]
    for axis, stride in enumerate(attributes['strides'], start=2):
        y.shape_expr[axis] = (x.shape_expr[axis] - 1) // int(stride) + 1
    return (y,)


def _compile(trtp: Any, inputs: tuple, attributes: dict[str, Any], y: Any, tactic: int) -> tuple:
    """Name and PTX of the kernel, its launch, and the integers it takes."""
    x, _, epilogue, *residual = inputs
    layer, precision, layout = _layer(x, epilogue, attributes), PRECISIONS[x.dtype.name], x.format.name
    tile, merged, item = tactics(layer, precision, layout)[tactic], layer.merged(), ITEM[precision]
    variant = Variant(
        precision,
        tile,
        bool(residual),
        even=is_even(merged, tile, item),
        kernel_size=layer.kernel_size,
        channel_block=CHANNEL_BLOCK.get(layout, 0),
    )
    kernel = compile_kernel(variant, for_target(int(attributes['sm'][0])))
    size, out = x.shape_expr, y.shape_expr
    pixels = out[0] * out[2] * out[3]
    launch = trtp.KernelLaunchParams()
    launch.grid_x = trtp.cdiv(pixels, tile.pixels) * tile_count(merged, tile)
    launch.block_x, launch.shared_mem = kernel.threads, kernel.shared
    fixed = constants(merged, item, float(attributes['low'][0]), float(attributes['high'][0]))
    integers = [trtp.SymInt32(value) for value in (pixels, size[2], size[3], out[2], out[3], *fixed.values())]
    return kernel.name, kernel.ptx, launch, trtp.SymIntExprs.from_tuple(integers)


def _signed(function: Any, parameters: dict[str, Any], returns: Any) -> Any:
    """Give a function of any arguments the signature from which TensorRT reads names and types."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()],
        return_annotation=returns,
    )
    return function


@functools.cache
def register() -> None:
    """Make the plugins known to TensorRT, once.

    Raises:
        UserError: This TensorRT has no plugins that are compiled ahead of time.
    """
    import numpy as np
    import numpy.typing as npt
    import tensorrt as trt
    import tensorrt.plugin as trtp

    if not hasattr(trtp, 'aot_impl'):
        raise UserError(
            f'TensorRT {trt.__version__} has no plugins that are compiled ahead of time: '
            f"pip install -U 'timm-hetconv[gpu-base]', or --lowering portable"
        )
    ints = npt.NDArray[np.int32]
    # Numbers are arrays of one, as the parser gives them: TensorRT before 11.4 makes no number of one with NumPy 2.4.
    floats = npt.NDArray[np.float32]
    attributes = dict(
        part=ints, kernel_shape=ints, strides=ints, dilations=ints, low=floats, high=floats, sm=ints
    )  # fmt: skip
    outputs = tuple[trtp.TensorDesc]
    for name, inputs in zip(PLUGINS, (('x', 'w', 'epilogue'), ('x', 'w', 'epilogue', 'residual'))):
        _register_one(trt, trtp, f'{NAMESPACE}::{name}', dict.fromkeys(inputs, trtp.TensorDesc), attributes, outputs)


def _register_one(
    trt: Any, trtp: Any, plugin: str, inputs: dict[str, Any], attributes: dict[str, Any], outputs: Any
) -> None:
    count = len(inputs)

    def describe(*tensors: Any, **values: Any) -> tuple:
        return _describe(tensors, values)

    def autotune(*arguments: Any) -> list:
        tensors, values = arguments[:count], dict(zip(attributes, arguments[count:-1]))
        x, epilogue = tensors[0], tensors[2]
        found = combinations(
            _layer(x, epilogue, values), PRECISIONS[x.dtype.name], trt.TensorFormat.__members__, residual=count == 4
        )
        return [trtp.AutoTuneCombination(*combination) for combination in found]

    def aot_impl(*arguments: Any) -> tuple:
        tensors, values = arguments[:count], dict(zip(attributes, arguments[count:-2]))
        return _compile(trtp, tensors, values, arguments[-2][0], arguments[-1])

    trtp.register(plugin)(_signed(describe, {**inputs, **attributes}, outputs))
    trtp.autotune(plugin)(
        _signed(autotune, {**inputs, **attributes, 'outputs': outputs}, list[trtp.AutoTuneCombination])
    )
    text = str | bytes
    trtp.aot_impl(plugin)(
        _signed(
            aot_impl,
            {**inputs, **attributes, 'outputs': outputs, 'tactic': int},
            tuple[text, text, trtp.KernelLaunchParams, trtp.SymExprs],
        )
    )
