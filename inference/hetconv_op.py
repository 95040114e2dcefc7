"""The ONNX operator `hetconv::HetConv2d`: schema, meaning as a model-local function, and how PyTorch's op becomes it.

    Y = HetConv2d(X, W, W_kxk, B)    attributes: part, kernel_shape, strides, pads, dilations

X is (B, M, H, W), W (N, M, 1, 1) the centre taps of all kernels, W_kxk (N, M/P, K, K) the kernels of the P groups,
whose own centre is zero as exported, and B (N,), optional. The operator is the sum of the 1x1 convolution with W and of
the convolution in P groups with W_kxk, plus B, whatever the values are: a kernel may move a centre tap from one weight
to the other, but may not ignore one. Padding is 'same', dilation * (K // 2); the exporter writes anything else with
standard operators.

The model-local function of the same name says just that in standard operators, so an engine that has no kernel for the
operator inlines the function, and one file serves both.
"""

from typing import Any

__all__ = ['DOMAIN', 'NHWC_DOMAIN', 'OPSET', 'OP_TYPE', 'PLUGIN_DOMAIN', 'VERSION', 'function', 'translate']

DOMAIN = 'hetconv'
NHWC_DOMAIN = 'hetconv.nhwc'  # of the CPU kernels; see lowering/nhwc.py
PLUGIN_DOMAIN = 'hetconv.tensorrt'  # of the TensorRT plugin; see lowering/tensorrt.py
OP_TYPE = 'HetConv2d'
VERSION = 1
OPSET = 18


def schema() -> Any:
    """The operator's `onnx.defs.OpSchema`."""
    from onnx.defs import OpSchema

    ints = OpSchema.AttrType.INTS
    optional = OpSchema.FormalParameterOption.Optional
    return OpSchema(
        OP_TYPE,
        DOMAIN,
        VERSION,
        doc=__doc__,
        inputs=[
            OpSchema.FormalParameter('X', 'T'),
            OpSchema.FormalParameter('W', 'T'),
            OpSchema.FormalParameter('W_kxk', 'T'),
            OpSchema.FormalParameter('B', 'T', param_option=optional),
        ],
        outputs=[OpSchema.FormalParameter('Y', 'T')],
        type_constraints=[('T', ['tensor(float)', 'tensor(float16)', 'tensor(bfloat16)', 'tensor(double)'], '')],
        attributes=[
            OpSchema.Attribute('part', OpSchema.AttrType.INT),
            OpSchema.Attribute('kernel_shape', ints),
            OpSchema.Attribute('strides', ints),
            OpSchema.Attribute('pads', ints),
            OpSchema.Attribute('dilations', ints),
        ],
    )


def function() -> Any:
    """The operator as an `onnx.FunctionProto` over opset 18: grouped Conv + 1x1 Conv."""
    from onnx import AttributeProto, helper

    def conv(inputs: list[str], output: str, constant: dict[str, Any], **references: str) -> Any:
        node = helper.make_node('Conv', inputs, [output], name=output, **constant)
        for name, reference in references.items():
            kind = AttributeProto.INT if name == 'group' else AttributeProto.INTS
            node.attribute.append(AttributeProto(name=name, ref_attr_name=reference, type=kind))
        return node

    nodes = [
        conv(
            ['X', 'W_kxk', 'B'],
            'grouped',
            {},
            kernel_shape='kernel_shape',
            strides='strides',
            pads='pads',
            dilations='dilations',
            group='part',
        ),
        conv(['X', 'W'], 'pointwise', dict(kernel_shape=[1, 1]), strides='strides'),
        helper.make_node('Add', ['grouped', 'pointwise'], ['Y'], name='sum'),
    ]
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        ['X', 'W', 'W_kxk', 'B'],
        ['Y'],
        nodes,
        [helper.make_opsetid('', OPSET)],
        ['part', 'kernel_shape', 'strides', 'pads', 'dilations'],
    )


def translate(x: Any, weight: Any, weight_kxk: Any, bias: Any, kernel_size, stride, padding, dilation) -> Any:
    """`torch.ops.hetconv.conv2d` in ONNX, for the `custom_translation_table` of `torch.onnx.export`."""
    import numpy as np
    import onnx_ir as ir
    from onnxscript import opset18 as op
    from onnxscript import values

    n, m = weight.shape[0], weight.shape[1]
    group_channels, taps = weight_kxk.shape[1], weight_kxk.shape[2]
    half = op.Constant(value_ints=[taps // 2])
    end = op.Constant(value_ints=[taps])
    start = op.Constant(value_ints=[0])
    axis = op.Constant(value_ints=[2])
    zero = op.Constant(value=ir.Tensor(np.zeros((n, group_channels, 1), weight_kxk.dtype.numpy())))
    kernel = op.Concat(op.Slice(weight_kxk, start, half, axis), zero, op.Slice(weight_kxk, half, end, axis), axis=2)
    kernel = op.Reshape(kernel, op.Constant(value_ints=[n, group_channels, *kernel_size]))
    part = m // group_channels

    offset = [d * (k // 2) - p for d, k, p in zip(dilation, kernel_size, padding)]
    pads = [*padding, *padding]
    if offset == [0, 0]:
        het = values.Op(values.Opset(DOMAIN, VERSION), OP_TYPE, schema())
        return het(
            x, weight, kernel, bias,
            part=part, kernel_shape=kernel_size, strides=stride, pads=pads, dilations=dilation,
        )  # fmt: skip
    grouped = op.Conv(
        x, kernel, bias, kernel_shape=kernel_size, strides=stride, pads=pads, dilations=dilation, group=part
    )
    border = [max(o, 0) for o in offset]
    if any(border):  # the centre taps do not reach the border: cut it off
        starts = op.Constant(value_ints=border)
        # An end that counts from the back, or past the end where nothing is cut.
        ends = op.Constant(value_ints=[-b if b else 2**31 - 1 for b in border])
        x = op.Slice(x, starts, ends, op.Constant(value_ints=[2, 3]))
    centre_pads = [max(-o, 0) for o in offset]
    pointwise = op.Conv(x, weight, None, kernel_shape=[1, 1], strides=stride, pads=[*centre_pads, *centre_pads])
    return op.Add(grouped, pointwise)
