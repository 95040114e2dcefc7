"""Little kernels in PTX, run by the emulator: what its tests share."""

import numpy as np
from ptx_emulator import launch

RANDOM = np.random.default_rng(0)
THREAD = """
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    ld.param.b64 %rd0, [p0];
"""


def kernel(body, parameters='u64', threads=32):
    """PTX of a kernel with parameters p0, p1, ..., and shared memory named `memory`."""
    declared = ',\n'.join(f'.param .{kind} p{i}' for i, kind in enumerate(parameters.split()))
    return f"""
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 memory[];
.visible .entry k({declared})
.reqntid {threads}
{{
    .reg .pred %p<99>;
    .reg .b16 %rs<99>;
    .reg .b32 %r<99>;
    .reg .b64 %rd<99>;
    {THREAD}
    {body}
    ret;
}}
"""


def run(body, *arguments, threads=32, blocks=1, shared=4096):
    kinds = ' '.join('u64' if isinstance(a, np.ndarray) else 'u32' for a in arguments)
    return launch(kernel(body, kinds, threads), blocks, list(arguments), shared=shared)


REGISTERS = {8: '%rs', 16: '%rs', 32: '%r', 64: '%rd'}
