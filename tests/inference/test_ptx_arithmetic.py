"""Instructions of the PTX emulator on registers, against Python and numpy."""

import math

import numpy as np
import pytest
import torch
from ptx_emulator import MAX_BLOCKS, PtxError
from ptx_snippets import RANDOM, REGISTERS, run


def evaluate(opcode, kinds, operands, result):
    """One instruction on arrays, a value a thread; `kinds` are the bits of operands and result, 1 for predicates."""
    lines, names = [], []
    for i, bits in enumerate(kinds):
        a, b, name = f'%rd{10 + i}', f'%r{10 + 2 * i}', f'{REGISTERS.get(bits, "%p")}{40 + i}'
        lines.append(f'ld.param.b64 {a}, [p{i}]; mad.wide.u32 {a}, %r0, {max(bits, 8) // 8}, {a};')
        if bits == 64:
            low, high = b, f'%r{11 + 2 * i}'
            lines.append(f'ld.global.v2.b32 {{ {low}, {high} }}, [ {a} + 0 ]; mov.b64 {name}, {{ {low}, {high} }};')
        elif bits == 1:
            lines.append(f'ld.global.b8 {{ %rs9 }}, [ {a} ]; cvt.u32.u16 %r9, %rs9; setp.ne.b32 {name}, %r9, 0;')
        else:
            lines.append(f'ld.global.b{bits} {{ {name} }}, [ {a} + 0 ];')
        names.append(name)
    bits = 8 * np.dtype(result).itemsize if result is not bool else 1
    target, place = f'{REGISTERS.get(bits, "%p")}1', f'%rd{10 + len(kinds)}'
    lines.append(f'ld.param.b64 {place}, [p{len(kinds)}]; mad.wide.u32 {place}, %r0, {max(bits, 8) // 8}, {place};')
    lines.append(f'{opcode} {target}, {", ".join(names)};')
    if bits == 64:
        lines.append(f'mov.b64 {{ %r7, %r8 }}, {target}; st.global.v2.b32 [ {place} ], {{ %r7, %r8 }};')
    elif bits == 1:
        lines.append(f'selp.b32 %r7, 1, 0, {target}; cvt.u16.u32 %rs7, %r7; st.global.b8 [ {place} ], %rs7;')
    else:
        lines.append(f'st.global.b{bits} [ {place} ], {{ {target} }};')
    out = np.zeros(32, np.uint8 if bits == 1 else result)
    operands = [np.resize(np.asarray(operand), 32) for operand in operands]
    run('\n'.join(lines), *operands, out)
    return out


def integers(bits, signed=True, count=32):
    """Random ones, and the ends."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    dtype = f'{"i" if signed else "u"}{bits // 8}'
    values = [low, low + 1, high - 1, 0, 1, *RANDOM.integers(low, high, count - 5, dtype).tolist()]
    return RANDOM.permutation(np.array(values, dtype))


def cut(value, dtype):
    """A Python integer as the hardware keeps it."""
    bits = 8 * np.dtype(dtype).itemsize
    value %= 2**bits
    return value - 2**bits if np.dtype(dtype).kind == 'i' and value >= 2 ** (bits - 1) else value


def truncated(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize(
    ('opcode', 'kinds', 'result', 'function'),
    [
        ('add.s32', 'ii', 'i4', lambda a, b: a + b),
        ('sub.s32', 'ii', 'i4', lambda a, b: a - b),
        ('mul.lo.s32', 'ii', 'i4', lambda a, b: a * b),
        ('mul.hi.s32', 'ii', 'i4', lambda a, b: a * b >> 32),
        ('mul.wide.s32', 'ii', 'i8', lambda a, b: a * b),
        ('mul.wide.u32', 'uu', 'u8', lambda a, b: a * b),
        ('mad.lo.s32', 'iii', 'i4', lambda a, b, c: a * b + c),
        ('mad.wide.s32', 'iiI', 'i8', lambda a, b, c: a * b + c),
        ('mad.wide.u32', 'uuU', 'u8', lambda a, b, c: a * b + c),
        ('add.s64', 'II', 'i8', lambda a, b: a + b),
        ('neg.s32', 'i', 'i4', lambda a: -a),
        ('min.s32', 'ii', 'i4', min),
        ('max.s32', 'ii', 'i4', max),
        ('not.b32', 'u', 'u4', lambda a: ~a),
        ('and.b32', 'uu', 'u4', lambda a, b: a & b),
        ('or.b32', 'uu', 'u4', lambda a, b: a | b),
        ('xor.b32', 'uu', 'u4', lambda a, b: a ^ b),
        ('selp.b32', 'uup', 'u4', lambda a, b, p: a if p else b),
        ('and.pred', 'pp', bool, lambda a, b: a and b),
        ('or.pred', 'pp', bool, lambda a, b: a or b),
        ('xor.pred', 'pp', bool, lambda a, b: a != b),
        ('not.pred', 'p', bool, lambda a: not a),
        *((f'setp.{name}.{kind}', code * 2, bool, function)
          for kind, code in (('s32', 'i'), ('u32', 'u'))
          for name, function in (('lt', lambda a, b: a < b), ('le', lambda a, b: a <= b), ('gt', lambda a, b: a > b),
                                 ('ge', lambda a, b: a >= b))),
        ('setp.eq.b32', 'ii', bool, lambda a, b: a == b),
        ('setp.ne.b32', 'ii', bool, lambda a, b: a != b),
        ('cvt.s64.s32', 'i', 'i8', lambda a: a),
        ('cvt.u64.u32', 'u', 'u8', lambda a: a),
        ('cvt.u16.u32', 'u', 'u2', lambda a: a),
        ('cvt.u32.u16', 'h', 'u4', lambda a: a),
        ('cvt.s16.s8', 'h', 'i2', lambda a: cut(a, 'i1')),
        ('cvt.s8.s32', 'i', 'i2', lambda a: cut(a, 'i1')),
    ],
)  # fmt: skip
def test_integers(opcode, kinds, result, function):
    make = {
        'i': (32, lambda: integers(32)), 'u': (32, lambda: integers(32, False)), 'I': (64, lambda: integers(64)),
        'U': (64, lambda: integers(64, False)), 'h': (16, lambda: integers(16, False)),
        'p': (1, lambda: RANDOM.integers(0, 2, 32).astype(np.uint8)),
    }  # fmt: skip
    operands = [make[kind][1]() for kind in kinds]
    if len({*kinds}) == 1 and len(kinds) > 1:
        operands[1][::3] = operands[0][::3]  # equal ones
    found = evaluate(opcode, [make[kind][0] for kind in kinds], operands, result)
    expected = [function(*values) for values in zip(*(operand.tolist() for operand in operands))]
    assert found.tolist() == [int(value) if result is bool else cut(value, result) for value in expected]


@pytest.mark.parametrize(('opcode', 'rest'), [('div.s32', False), ('rem.s32', True)])
def test_division_is_towards_zero(opcode, rest):
    a, b = integers(32), RANDOM.integers(-9, 9, 32).astype(np.int32) * 2 + 1
    found = evaluate(opcode, [32, 32], [a, b], 'i4')
    quotients = [truncated(*pair) for pair in zip(a.tolist(), b.tolist())]
    expected = [x - q * y for x, y, q in zip(a.tolist(), b.tolist(), quotients)] if rest else quotients
    assert found.tolist() == [cut(value, 'i4') for value in expected]
    with pytest.raises(PtxError, match='division by zero'):
        evaluate(opcode, [32, 32], [a, b * 0], 'i4')


@pytest.mark.parametrize(('opcode', 'signed', 'bits'), [
    ('shl.b32', False, 32), ('shl.b64', False, 64), ('shr.s32', True, 32), ('shr.u32', False, 32),
])  # fmt: skip
def test_shifts_are_clamped(opcode, signed, bits):
    x, n = integers(bits, signed), np.array([0, 1, 7, 31, 32, 33, 63, 64, 65, 255, 2**31], np.uint32)
    found = evaluate(opcode, [bits, 32], [x, n], x.dtype)
    pairs = zip(x.tolist(), np.resize(n, 32).tolist())
    assert found.tolist() == [cut(a << min(b, 99) if 'shl' in opcode else a >> b, x.dtype) for a, b in pairs]


@pytest.mark.parametrize('signed', [False, True])
def test_bit_fields(signed):
    x, position = integers(32, signed), RANDOM.integers(0, 16, 32).astype(np.uint32)
    length = RANDOM.integers(1, 17, 32).astype(np.uint32)
    found = evaluate('bfe.s32' if signed else 'bfe.u32', [32] * 3, [x, position, length], x.dtype)
    for value, a, p, n in zip(found.tolist(), x.tolist(), position.tolist(), length.tolist()):
        field = format(a % 2**32, '032b')[::-1][p : p + n][::-1]
        assert value == int(field, 2) - (2**n if signed and field[0] == '1' else 0)
    with pytest.raises(PtxError, match='not there'):
        evaluate('bfe.u32', [32] * 3, [x, position + 16, length * 0 + 17], 'u4')


@pytest.mark.parametrize('selector', [0x3340, 0x5410, 0x7632, 0x7770, 0x9991, 0xFEDC, 0x8888, 0x0123])
def test_permuted_bytes(selector):
    a, b = integers(32, False), integers(32, False)
    found = evaluate('prmt.b32', [32] * 3, [a, b, np.full(32, selector, np.uint32)], 'u4')
    for value, low, high in zip(found.tolist(), a.tolist(), b.tolist()):
        both = (low + (high << 32)).to_bytes(8, 'little')
        choices = [selector >> 4 * i & 15 for i in range(4)]
        expected = [(255 if both[c & 7] > 127 else 0) if c & 8 else both[c & 7] for c in choices]
        assert value == int.from_bytes(expected, 'little')


def floats(*special):
    values = np.concatenate([np.array(special), RANDOM.standard_normal(32 - len(special))])
    return np.array(values, np.float32)


def same(found, expected):
    """Equal bits, but for NaN's."""
    np.testing.assert_array_equal(found, expected)
    assert (np.signbit(found) == np.signbit(expected))[~np.isnan(expected)].all()


INF, NAN = math.inf, math.nan


def test_floats():
    a, b = floats(INF, NAN, 1, -1e38, 1e-40), floats(1, 1, NAN, 3e38, 0.5)
    c = floats(1, 1, 1, 2, 0)
    with np.errstate(all='ignore'):
        same(evaluate('add.f32', [32, 32], [a, b], 'f4'), a + b)
        same(evaluate('mul.f32', [32, 32], [a, b], 'f4'), a * b)
        exact = a.astype(np.longdouble) * b + c
        same(evaluate('fma.rn.f32', [32, 32, 32], [a, b, c], 'f4'), exact.astype(np.float32))
    same(evaluate('max.NaN.f32', [32, 32], [a, b], 'f4'), torch.maximum(*map(torch.from_numpy, (a, b))).numpy())
    same(evaluate('min.NaN.f32', [32, 32], [a, b], 'f4'), torch.minimum(*map(torch.from_numpy, (a, b))).numpy())
    same(evaluate('max.f32', [32, 32], [a, b], 'f4'), torch.fmax(*map(torch.from_numpy, (a, b))).numpy())
    same(evaluate('min.f32', [32, 32], [a, b], 'f4'), torch.fmin(*map(torch.from_numpy, (a, b))).numpy())


def test_halves_are_rounded_to_the_nearest_even():
    # Ties to even both ways, the largest half and what is too large, subnormal numbers.
    ties = 1 + np.array([1, 3, 5, 7]) / np.array([[2048], [256]])
    x = floats(
        *ties.ravel(), 65504, 65519.99, 65520, -1e9, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 3.4e38, INF, -INF, NAN, -0.0
    )
    tensor = torch.from_numpy(x)
    same(evaluate('cvt.rn.f16.f32', [32], [x], 'f2'), tensor.half().numpy())
    found = evaluate('cvt.rn.bf16.f32', [32], [x], 'u2')
    same((found.astype(np.uint32) << 16).view(np.float32), tensor.bfloat16().float().numpy())
    half = np.array([INF, -INF, NAN, -0.0, 6e-8, 65504, *RANDOM.standard_normal(26)]).astype(np.float16)
    same(evaluate('cvt.f32.f16', [16], [half], 'f4'), half.astype(np.float32))
    same(evaluate('cvt.f32.bf16', [16], [found], 'f4'), tensor.bfloat16().float().numpy())


def test_floats_and_integers():
    x = floats(1.9, -1.9, 0.999, 32767.9, 32768, 1e9, -32768.9, -40000, INF, -INF, NAN) * np.float32(1)
    expected = [
        1,
        -1,
        0,
        32767,
        32767,
        32767,
        -32768,
        -32768,
        32767,
        -32768,
        0,
        *(math.trunc(v) for v in x[11:].tolist()),
    ]
    assert evaluate('cvt.rzi.s16.f32', [32], [x], 'i2').tolist() == expected
    n = integers(32)
    n[:4] = 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1  # ties to even
    same(evaluate('cvt.rn.f32.s32', [32], [n], 'f4'), torch.from_numpy(n).float().numpy())
    short = integers(16)
    same(evaluate('cvt.rn.f32.s16', [16], [short], 'f4'), short.astype(np.float32))


def test_registers_are_packed_and_unpacked():
    x, y = RANDOM.integers(0, 2**32, 32).astype(np.uint32), np.zeros((32, 2), np.uint32)
    run("""
        ld.param.b64 %rd1, [p1]; mad.wide.u32 %rd0, %r0, 4, %rd0; mad.wide.u32 %rd1, %r0, 8, %rd1;
        ld.global.b32 { %r2 }, [ %rd0 + 0 ];
        mov.b32 {%rs1, %rs2}, %r2;
        mov.b16 %rs3, %rs2;
        mov.u16 %rs4, 0xFFFF;
        mov.b32 %r3, {%rs3, %rs1};
        mov.b32 %r4, {%rs4, %rs1};
        st.global.v2.b32 [ %rd1 + 0 ], { %r3, %r4 };
        """, x, y)  # fmt: skip
    assert (y[:, 0] == (x >> 16 | x << 16)).all()
    assert (y[:, 1] == (0xFFFF | x << 16)).all()


def test_loops_blocks_and_constants():
    """More blocks than run at once; a loop whose end depends on a parameter; float constants; a negated guard."""
    blocks = MAX_BLOCKS + 3
    y = np.zeros((blocks, 64), np.float32)
    result = run("""
        ld.param.b32 %r2, [p1];
        mov.b32 %r3, 0;
        mov.b32 %r4, 0f3F800000;
    $again:
        add.f32 %r4, %r4, 0f40000000;
        add.s32 %r3, %r3, 1;
        setp.ge.s32 %p1, %r3, %r2;
        @!%p1 bra $again;
        bra.uni $end;
        mov.b32 %r4, 0;
    $end:
        shl.b32 %r5, %r1, 6;
        add.s32 %r5, %r5, %r0;
        mad.wide.u32 %rd0, %r5, 4, %rd0;
        st.global.b32 [ %rd0 + 0 ], { %r4 };
        """, y, 5, threads=64, blocks=blocks)  # fmt: skip
    assert (y == 11).all()
    assert (result.stores[0] == 1).all()
