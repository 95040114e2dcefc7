"""The kernel as PTX and machine code, ahead of time: for any NVIDIA GPU since Ampere, on a machine without one.

Compiled code does not depend on a layer's channels, stride or P, which are arguments. So there are few variants, all of
which can be checked. Triton keeps what it compiled in its own cache (TRITON_CACHE_DIR).
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from .tiles import ANY, ITEM, TILES, Tile

__all__ = ['SMS', 'Kernel', 'Variant', 'compile_kernel', 'for_sm', 'for_target', 'strip_hidden_parameters', 'variants']

# Compute capabilities, and for each the oldest PTX version that has it, in Triton's form (80 is 8.0, CUDA 12.0): a
# driver refuses newer ones than its own.
PTX_VERSIONS = {80: 80, 86: 80, 89: 80, 90: 80, 100: 86, 120: 87}
SMS = tuple(PTX_VERSIONS)
_TYPES = {'fp32': 'fp32', 'fp16': 'fp16', 'bf16': 'bf16', 'int8': 'i8'}
# Arguments that are multiples of 16 in every variant, and those that are in an even one.
_ALIGNED = ('x_ptr', 'w_ptr', 'epilogue_ptr', 'residual_ptr', 'y_ptr', 'pad_in', 'pad_group', 'columns')
_ALIGNED_IF_EVEN = ('in_channels', 'out_channels', 'group_in', 'group_out')


@dataclass(frozen=True)
class Variant:
    """What differs in the compiled code.

    Attributes:
        precision: 'fp32' (tensor cores in TF32), 'fp16', 'bf16' or 'int8'.
        tile: Block sizes.
        residual: Whether a residual is added.
        even: See `tiles.is_even`.
        kernel_size: Height and width.
        channel_block: 0 for channels last, 32 for CHW32.
    """

    precision: str
    tile: Tile
    residual: bool
    even: bool = True
    kernel_size: tuple[int, int] = (3, 3)
    channel_block: int = 0


@dataclass(frozen=True)
class Kernel:
    """A compiled variant.

    Attributes:
        name: Entry point.
        ptx: With the parameters of `kernel.hetconv_kernel` only: pointers (of the residual if there is one), integers,
            the pointer of the output.
        cubin: Machine code, with Triton's hidden parameters still there.
        shared: Bytes of dynamic shared memory.
        threads: Threads a block.
        sm: What it is compiled for.
    """

    name: str
    ptx: str
    cubin: bytes
    shared: int
    threads: int
    sm: int


def for_sm(tile: Tile, sm: int) -> Tile:
    """The tile with the number of stages that fits into shared memory: barriers take a little of it on SM 100."""
    return replace(tile, stages=tile.stages - 1) if sm == 100 and tile.stages > 2 else tile


def for_target(sm: int) -> int:
    """The one of `SMS` whose code runs on a GPU: its own, or an older one's whose PTX newer GPUs take too.

    Raises:
        ValueError: There is none, the GPU is older than Ampere.
    """
    forward = [target for target in (80, 86, 89) if target <= sm]
    if not forward:
        raise ValueError(f'SM {sm} is older than {SMS[0]}, for which the kernel is compiled')
    return sm if sm in SMS else forward[-1]


def variants() -> list[Variant]:
    """All that autotuning may pick for 3x3 kernels, channels last."""
    result = []
    for precision, item in ITEM.items():
        for residual in (False, True):
            result += [Variant(precision, tile, residual) for tile in TILES[item]]
            result.append(Variant(precision, ANY[item], residual, even=False))
    return result


def _source(variant: Variant) -> Any:
    from triton.compiler import ASTSource

    from .kernel import hetconv_kernel

    constexprs: dict[str, Any] = dict(
        KERNEL_H=variant.kernel_size[0],
        KERNEL_W=variant.kernel_size[1],
        EVEN=variant.even,
        CHANNEL_BLOCK=variant.channel_block,
        BLOCK_PIXELS=variant.tile.pixels,
        BLOCK_N=variant.tile.n,
        BLOCK_K=variant.tile.k,
        PRECISION='tf32',
    )
    if not variant.residual:
        constexprs['residual_ptr'] = None
    names = hetconv_kernel.arg_names
    pointer = f'*{_TYPES[variant.precision]}'
    signature = {
        name: 'constexpr' if name in constexprs else 'i32' if not name.endswith('_ptr') else pointer for name in names
    }
    signature['epilogue_ptr'] = '*fp32'
    aligned = {*_ALIGNED, *(_ALIGNED_IF_EVEN if variant.even else ())} - constexprs.keys()
    attributes = {(names.index(name),): [['tt.divisibility', 16]] for name in sorted(aligned)}
    return ASTSource(fn=hetconv_kernel, signature=signature, constexprs=constexprs, attrs=attributes)


def compile_kernel(variant: Variant, sm: int) -> Kernel:
    """Compile a variant for a compute capability, 80 for 8.0.

    Raises:
        ValueError: `sm` is not in `SMS`.
        RuntimeError: The kernel would need memory of its own, which a plugin cannot give it.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    if sm not in SMS:
        raise ValueError(f'SM {sm} is not among those that are compiled for: {", ".join(map(str, SMS))}')
    tile = for_sm(variant.tile, sm)
    source = _source(variant)
    compiled = triton.compile(
        source,
        target=GPUTarget('cuda', sm, 32),
        options=dict(num_warps=tile.warps, num_stages=tile.stages, ptx_version=PTX_VERSIONS[sm]),
    )
    metadata = compiled.metadata
    visible = sum(kind != 'constexpr' for kind in source.signature.values())
    return Kernel(
        name=metadata.name,
        ptx=strip_hidden_parameters(compiled.asm['ptx'], visible),
        cubin=compiled.asm['cubin'],
        shared=metadata.shared,
        threads=metadata.num_warps * 32,
        sm=sm,
    )


def strip_hidden_parameters(ptx: str, visible: int) -> str:
    """Without the pointers to scratch memory that Triton adds after a kernel's parameters, so that any launcher fits.

    Raises:
        RuntimeError: One is read: the kernel needs that memory.
    """
    entry = re.search(r'(\.visible \.entry \w+\()(.*?)(\n?\))', ptx, re.DOTALL)
    if entry is None:
        raise RuntimeError('the PTX has no entry point')
    parameters = [parameter.strip() for parameter in entry[2].split(',')]
    for hidden in parameters[visible:]:
        name = hidden.split()[-1]
        if re.search(rf'\[{re.escape(name)}\b', ptx):
            raise RuntimeError(f'the kernel reads {name}: it needs scratch memory')
    kept = ',\n\t'.join(parameters[:visible])
    return f'{ptx[: entry.start(2)]}\n\t{kept}{entry[3]}{ptx[entry.end() :]}'
