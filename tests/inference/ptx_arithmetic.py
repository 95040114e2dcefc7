"""What the instructions of the PTX emulator compute, without registers and memory: numpy on arrays of any shape."""

from collections.abc import Callable

import numpy as np
from ptx_parser import PtxError

__all__ = ['MMA', 'PURE', 'TYPES']

TYPES = {
    **{f'{kind}{bits}': np.dtype(f'{code}{bits // 8}') for kind, code in (('b', 'u'), ('u', 'u'), ('s', 'i'))
       for bits in (8, 16, 32, 64)},
    'f16': np.dtype('f2'), 'f32': np.dtype('f4'), 'pred': np.dtype(bool),
}  # fmt: skip


def _shift_left(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    bits = 8 * x.itemsize
    return np.where(n < bits, x << np.minimum(n, bits - 1).astype(x.dtype), 0).astype(x.dtype)


def _shift_right(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    bits = 8 * x.itemsize
    shifted = x >> np.minimum(n, bits - 1).astype(x.dtype)
    return shifted if x.dtype.kind == 'i' else np.where(n < bits, shifted, 0).astype(x.dtype)


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Towards zero."""
    if (y == 0).any():
        raise PtxError('division by zero')
    x, y = x.astype(np.int64), y.astype(np.int64)
    return np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))


def _remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) - _divide(x, y) * y.astype(np.int64)


def _bit_field(x: np.ndarray, position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`bfe` of 32 bits: with the sign of the field's highest bit where x is signed."""
    position, length = (value.astype(np.int64) & 255 for value in (position, length))
    if ((position + length > 32) | (length == 0)).any():
        raise PtxError('bfe of bits that are not there')
    value = (x.astype(np.int64) >> position) & ((1 << length) - 1)
    return value - ((value >> (length - 1) & 1) << length) if x.dtype.kind == 'i' else value


def _permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """`prmt`: bytes of b:a, or copies of their sign."""
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.uint64(0)
    for i in range(4):
        choice = (selector.astype(np.uint64) >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> (np.uint64(8) * (choice & np.uint64(7)))) & np.uint64(255)
        byte = np.where(choice & np.uint64(8), np.uint64(255) * (byte >> np.uint64(7)), byte)
        result = result | byte << np.uint64(8 * i)
    return result.astype(np.uint32)


def _from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    return np.where(np.isnan(x), 0x7FFF, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _to_s16(x: np.ndarray) -> np.ndarray:
    """Towards zero, NaN as 0, saturated."""
    return np.clip(np.trunc(np.nan_to_num(x, nan=0.0)), -32768, 32767).astype(np.int16)


def _fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) * y + z).astype(np.float32)


def _wide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.astype(f'{x.dtype.kind}8') * y.astype(f'{x.dtype.kind}8')


def _select(x: np.ndarray, y: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.where(which, x, y)


def _copy(x: np.ndarray) -> np.ndarray:
    return x


# Type of the result, types of the operands, and what is done. The result is cut to its type.
PURE: dict[str, tuple[str, tuple[str, ...], Callable[..., np.ndarray]]] = {
    **{f'{name}.{t}': (t, (t, t), f) for t in ('s32', 's64') for name, f in (('add', np.add), ('sub', np.subtract))},
    'mul.lo.s32': ('s32', ('s32', 's32'), np.multiply),
    'mul.hi.s32': ('s32', ('s32', 's32'), lambda x, y: _wide(x, y) >> 32),
    'mad.lo.s32': ('s32', ('s32', 's32', 's32'), lambda x, y, z: x * y + z),
    'div.s32': ('s32', ('s32', 's32'), _divide),
    'rem.s32': ('s32', ('s32', 's32'), _remainder),
    'neg.s32': ('s32', ('s32',), np.negative),
    **{f'mul.wide.{t}32': (f'{t}64', (f'{t}32', f'{t}32'), _wide) for t in 'su'},
    **{f'mad.wide.{t}32': (f'{t}64', (f'{t}32', f'{t}32', f'{t}64'), lambda x, y, z: _wide(x, y) + z) for t in 'su'},
    **{f'{name}.{t}': (t, (t, t), f) for t in ('b32', 'pred')
       for name, f in (('and', np.bitwise_and), ('or', np.bitwise_or), ('xor', np.bitwise_xor))},
    **{f'not.{t}': (t, (t,), np.invert) for t in ('b32', 'pred')},
    **{f'shl.{t}': (t, (t, 'u32'), _shift_left) for t in ('b32', 'b64')},
    **{f'shr.{t}': (t, (t, 'u32'), _shift_right) for t in ('s32', 'u32')},
    **{f'bfe.{t}': (t, (t, 'u32', 'u32'), _bit_field) for t in ('s32', 'u32')},
    'prmt.b32': ('b32', ('b32', 'b32', 'b32'), _permute),
    'selp.b32': ('b32', ('b32', 'b32', 'pred'), _select),
    **{f'{name}.s32': ('s32', ('s32', 's32'), f) for name, f in (('min', np.minimum), ('max', np.maximum))},
    **{f'setp.{name}.b32': ('pred', ('b32', 'b32'), f) for name, f in (('eq', np.equal), ('ne', np.not_equal))},
    **{f'setp.{name}.{t}': ('pred', (t, t), f) for t in ('s32', 'u32') for name, f in (
        ('lt', np.less), ('le', np.less_equal), ('gt', np.greater), ('ge', np.greater_equal))},
    'add.f32': ('f32', ('f32', 'f32'), np.add),
    'mul.f32': ('f32', ('f32', 'f32'), np.multiply),
    'neg.f32': ('f32', ('f32',), np.negative),
    'sub.f32': ('f32', ('f32', 'f32'), np.subtract),
    'fma.rn.f32': ('f32', ('f32', 'f32', 'f32'), _fma),
    'max.f32': ('f32', ('f32', 'f32'), np.fmax),
    'min.f32': ('f32', ('f32', 'f32'), np.fmin),
    'max.NaN.f32': ('f32', ('f32', 'f32'), np.maximum),
    'min.NaN.f32': ('f32', ('f32', 'f32'), np.minimum),
    'cvt.f32.f16': ('f32', ('f16',), _copy),
    'cvt.f32.bf16': ('f32', ('b16',), _from_bf16),
    'cvt.rn.f16.f32': ('f16', ('f32',), _copy),
    'cvt.rn.bf16.f32': ('b16', ('f32',), _to_bf16),
    'cvt.rn.f32.s16': ('f32', ('s16',), _copy),
    'cvt.rn.f32.s32': ('f32', ('s32',), _copy),
    'cvt.rzi.s16.f32': ('s16', ('f32',), _to_s16),
    **{f'cvt.{to}.{of}': (to, (of,), _copy) for to, of in (
        ('s16', 's8'), ('s8', 's32'), ('s64', 's32'), ('u64', 'u32'), ('u16', 'u32'), ('u32', 'u16'))},
}  # fmt: skip

# Tensor cores: how a register's bits are values, the type of the sum, and K. A is 16 x K, B is K x 8, C is 16 x 8.
MMA: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, int]] = {
    'm16n8k16.row.col.f32.f16.f16.f32': (lambda bits: bits.view(np.float16).astype(np.float32), 'f32', 16),
    'm16n8k16.row.col.f32.bf16.bf16.f32': (lambda bits: _from_bf16(bits.view(np.uint16)), 'f32', 16),
    # TF32 has float32's sign, exponent, and 10 of the 23 bits of the fraction: the hardware leaves the others out.
    'm16n8k8.row.col.f32.tf32.tf32.f32': (lambda bits: (bits & 0xFFFFE000).view(np.float32), 'f32', 8),
    # 32 products of 8-bit integers are exact in single precision.
    'm16n8k32.row.col.satfinite.s32.s8.s8.s32': (lambda bits: bits.view(np.int8).astype(np.float32), 's32', 32),
}
