"""`fuse` in Triton's interpreter, on a CPU, as a process: prints what `test_torch_cuda.py` looks at, as JSON."""

import copy
import json
import os

import torch
import triton_interpreter  # noqa: F401  before anything else of Triton
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import timm_hetconv
from inference.errors import UserError
from inference.torch_cuda import FusedHetConv2d, fuse
from timm_hetconv import HetConv2d


def error(y, expected):
    return float((y.float() - expected.float()).abs().max() / expected.float().abs().max())


def said(function):
    try:
        function()
    except (UserError, RuntimeError, ValueError) as caught:
        return f'{type(caught).__name__}: {caught}'
    return ''


torch.manual_seed(0)
report = {}
with torch.inference_mode():
    layers = {
        'stride': HetConv2d(32, 64, 3, stride=2, part=4),
        'no bias': HetConv2d(16, 16, 5, part=2, bias=False),
        'dilation': HetConv2d(24, 24, (3, 5), dilation=2, part=3),
        'few channels': HetConv2d(16, 16, 3, part=16),
        'P1': HetConv2d(8, 16, 3, part=1),
    }
    for name, layer in layers.items():
        layer.eval()
        x = torch.randn(2, layer.in_channels, 7, 6)
        report[name] = error(fuse(layer)(x), layer(x))

model = nn.Sequential(
    HetConv2d(16, 16, 3, part=2), nn.BatchNorm2d(16), nn.ReLU(), HetConv2d(16, 32, 3, stride=2, part=4)
).eval()
fused = fuse(model)
x = torch.randn(2, 16, 8, 8)
with torch.no_grad():
    expected = model(x)
    report['model'] = error(fused(x), expected)
    report['channels_last'] = fused(x).is_contiguous(memory_format=torch.channels_last)
    report['empty batch'] = list(fused(x[:0]).shape)
    report['compiled'] = error(torch.compile(fused, backend='aot_eager', fullgraph=True)(x), expected)
    report['graph breaks'] = torch._dynamo.explain(fused)(x).graph_break_count
    with FlopCounterMode(display=False) as counter:
        fused(x)
    report['flops'] = counter.get_total_flops()
    torch.library.opcheck(
        torch.ops.hetconv.fused_conv2d.default, (x, fused[0].packed, fused[0].bias, fused[0].geometry),
        test_utils=('test_schema', 'test_faketensor', 'test_aot_dispatch_dynamic'),
    )  # fmt: skip
    half = copy.deepcopy(model).half()
    report['half'] = error(fuse(half)(x.half()), expected)
    report['bfloat16'] = error(fuse(copy.deepcopy(model).bfloat16())(x.bfloat16()), expected)
report['left as it was'] = all(not isinstance(module, FusedHetConv2d) for module in model.modules())
report['macs'] = timm_hetconv.count(model, (16, 8, 8)).macs
report['refused'] = dict(
    training=said(lambda: fuse(copy.deepcopy(model).train())),
    plain=said(lambda: fuse(nn.Conv2d(8, 8, 3).eval())),
    padding=said(lambda: fuse(HetConv2d(8, 8, 3, padding=0, part=2).eval())),
    double=said(lambda: fuse(copy.deepcopy(model).double())),
    types=said(lambda: fused(x.half())),
    gradient=said(lambda: fused(x.requires_grad_()).sum().backward()),
)
os.environ['TRITON_INTERPRET'] = '0'
report['refused']['cpu'] = said(lambda: fused(torch.randn(1, 16, 4, 4)))
print(json.dumps(report))
