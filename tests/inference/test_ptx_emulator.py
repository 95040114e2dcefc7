"""The PTX emulator itself: small kernels written by hand, against Python's integers, numpy, and the definitions."""

import math

import numpy as np
import pytest
import torch
from ptx_emulator import MAX_BLOCKS, PtxError, launch

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


# Memory.

ADDRESS = 'mad.wide.u32 %rd1, %r0, 4, %rd0;'


def test_a_masked_thread_accesses_nothing():
    x = np.arange(32, dtype=np.uint32)
    x.flags.writeable = False
    y = np.full(20, 99, np.uint32)
    run(f"""
        {ADDRESS}
        ld.param.b64 %rd2, [p1]; mad.wide.u32 %rd2, %r0, 4, %rd2;
        setp.lt.s32 %p1, %r0, 10; setp.lt.s32 %p2, %r0, 20;
        mul.lo.s32 %r4, %r0, 1000000; selp.b32 %r4, 0, %r4, %p1;
        mad.wide.u32 %rd1, %r4, 4, %rd1;
        mov.b32 %r3, 7;
        @%p1 ld.global.b32 {{ %r3 }}, [ %rd1 + 0 ];
        @%p2 st.global.b32 [ %rd2 + 0 ], {{ %r3 }};
        """, x, y)  # fmt: skip
    assert y.tolist() == [*range(10), *[7] * 10]


@pytest.mark.parametrize(
    ('body', 'words'),
    [
        (f'{ADDRESS} ld.global.b32 %r2, [ %rd1 + 4 ];', 'outside of buffer 0 of 128 bytes: 4 at 128'),
        (f'{ADDRESS} ld.global.b32 %r2, [ %rd1 + -4 ];', 'outside of any buffer'),
        (f'{ADDRESS} st.global.b32 [ %rd1 + 4 ], %r0;', 'outside of buffer 0'),
        (f'{ADDRESS} ld.global.v2.b32 {{ %r2, %r3 }}, [ %rd1 ];', 'outside|not aligned'),
        ('ld.global.b32 %r2, [ %rd0 + 2 ];', 'not aligned'),
        ('ld.param.b64 %rd1, [p1]; ld.global.b32 %r2, [ %rd1 + 256 ];', 'outside of buffer 1'),
        ('ld.param.b64 %rd1, [p1]; st.global.b32 [ %rd1 ], %r0;', 'not to be written'),
        ('cvt.u64.u32 %rd1, %r0; ld.global.b32 %r2, [ %rd1 ];', 'outside of any buffer'),
    ],
)
def test_a_wrong_access_of_global_memory(body, words):
    constant = np.zeros(32, np.uint32)
    constant.flags.writeable = False
    with pytest.raises(PtxError, match=words):
        run(body, np.zeros(32, np.uint32), constant)


# A thread's own four bytes of shared memory, and those of the thread 31 - tid, or 63 - tid with 64 threads.
OWN = """
    mov.b32 %r50, memory; shl.b32 %r51, %r0, 2; add.s32 %r52, %r50, %r51;
    xor.b32 %r53, %r51, 124; add.s32 %r54, %r50, %r53;
    xor.b32 %r55, %r51, 252; add.s32 %r56, %r50, %r55;
"""
WRITE, READ_OWN = 'st.shared::cta.b32 [ %r52 + 0 ], %r0;', 'ld.shared.b32 %r2, [%r52];'
READ_LANE, READ_WARP = 'ld.shared.b32 %r2, [%r54];', 'ld.shared.b32 %r2, [%r56];'
SYNC, SYNC_WARP = 'bar.sync 0;', 'bar.warp.sync -1;'


@pytest.mark.parametrize(
    ('steps', 'words'),
    [
        ([WRITE, READ_OWN], None),
        ([WRITE, SYNC_WARP, READ_LANE], None),
        ([WRITE, SYNC, READ_WARP], None),
        ([WRITE, SYNC, READ_WARP, SYNC, WRITE], None),
        ([WRITE, READ_OWN, WRITE], None),
        ([WRITE, READ_LANE], 'race: .*another thread wrote'),
        ([WRITE, SYNC_WARP, READ_WARP], 'race: .*another thread wrote'),
        ([WRITE, SYNC, READ_WARP, WRITE], 'race: .*another warp read'),
        ([WRITE, SYNC, READ_WARP, READ_OWN, WRITE], 'race: .*another warp read'),
        ([WRITE, SYNC, READ_WARP, SYNC_WARP, WRITE], 'race: .*another warp read'),
        (['st.shared::cta.b32 [ %r50 + 0 ], %r0;'], 'two threads write'),
        ([READ_OWN], 'never written'),
        ([SYNC, READ_OWN], 'never written'),
        (['st.shared::cta.b32 [ %r52 + 3844 ], %r0;'], 'outside of shared memory of 4096 bytes: 4 at 4096'),
        (['st.shared::cta.b32 [ %r52 + -4 ], %r0;'], 'outside of shared memory'),
        (['st.shared::cta.b32 [ %r52 + 2 ], %r0;'], 'not aligned'),
        (['st.shared::cta.b32 [ %r51 + 0 ], %r0;'], 'outside of shared memory'),
    ],
)
def test_shared_memory(steps, words):
    def go():
        run(OWN + '\n'.join(steps), np.zeros(1, np.uint32), threads=64, blocks=2, shared=4096)

    if words is None:
        go()
    else:
        with pytest.raises(PtxError, match=words):
            go()


def test_blocks_have_shared_memory_of_their_own():
    y = np.zeros((3, 32), np.uint32)
    run(f"""
        {OWN}
        shl.b32 %r2, %r1, 8; add.s32 %r2, %r2, %r0;
        st.shared::cta.b32 [ %r52 + 0 ], %r2; bar.warp.sync -1; ld.shared.b32 %r3, [%r54];
        shl.b32 %r4, %r1, 5; add.s32 %r4, %r4, %r0; mad.wide.u32 %rd0, %r4, 4, %rd0;
        st.global.b32 [ %rd0 ], %r3;
        """, y, blocks=3)  # fmt: skip
    assert (y == np.arange(3)[:, None] * 256 + np.arange(31, -1, -1)).all()


def copy(size='%r10', place=0):
    return f'cp.async.ca.shared.global [ %r52 + {place} ], [ %rd1 + 0 ], 0x4, {size}; cp.async.commit_group;'


WAIT = 'cp.async.wait_group '


@pytest.mark.parametrize(
    ('steps', 'expected'),
    [
        ([copy(), WAIT + '0;', READ_OWN], 'own'),
        ([copy(), WAIT + '0; bar.sync 0;', READ_WARP], 'other'),
        ([copy(), copy(place=512), WAIT + '1;', READ_OWN], 'own'),
        ([copy(), READ_OWN], 'cp.async is still writing'),
        ([copy(), SYNC, READ_OWN], 'cp.async is still writing'),
        ([copy(), WAIT + '1;', READ_OWN], 'cp.async is still writing'),
        ([copy(), WAIT + '1;', WRITE, READ_OWN], 'cp.async is still writing'),
        ([copy().split('cp.async.commit')[0], WAIT + '0;', READ_OWN], 'cp.async is still writing'),
        ([copy(), WAIT + '0;', READ_WARP], 'race'),
        ([WRITE, SYNC, READ_WARP, copy()], 'race'),
        ([copy('0'), WAIT + '0;', READ_OWN], 'zero'),
        ([copy('2'), WAIT + '0;', READ_OWN], 'copies of a part'),
        (['cp.async.cg.shared.global [ %r52 + 0 ], [ %rd1 + 0 ], 0x4, 4;'], 'a size that'),
    ],
)
def test_copies_into_shared_memory(steps, expected):
    x, y = RANDOM.integers(1, 2**32, 64).astype(np.uint32), np.zeros(64, np.uint32)
    body = f"""
        {OWN} {ADDRESS}
        ld.param.b64 %rd2, [p1]; mad.wide.u32 %rd2, %r0, 4, %rd2;
        mov.b32 %r10, 4;
        {' '.join(steps)}
        st.global.b32 [ %rd2 ], %r2;
        """
    results = {'own': x, 'other': x[::-1], 'zero': x * 0}
    if expected in results:
        run(body, x, y, threads=64)
        assert (y == results[expected]).all()
    else:
        with pytest.raises(PtxError, match=expected):
            run(body, x, y, threads=64)


def test_a_copy_of_no_bytes_reads_nothing():
    run(
        f'{OWN} {ADDRESS} add.s64 %rd1, %rd1, 99999; cp.async.ca.shared.global [ %r52 ], [ %rd1 ], 0x4, 0;', np.zeros(1)
    )
    with pytest.raises(PtxError, match='outside'):
        run(
            f'{OWN} {ADDRESS} add.s64 %rd1, %rd1, 4096; cp.async.ca.shared.global [ %r52 ], [ %rd1 ], 0x4, 4;',
            np.zeros(1),
        )


# Tensor cores.


@pytest.mark.parametrize('transposed', [False, True])
def test_ldmatrix(transposed):
    """Against the definition: thread 4 r + c has elements 2 c and 2 c + 1 of row r; rows come from any addresses."""
    matrices = RANDOM.integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    places = RANDOM.permutation(32)  # of the rows, in 16 bytes
    memory = np.zeros((32, 8), np.uint16)
    memory[places] = matrices.reshape(32, 8)
    y = np.zeros((32, 4), np.uint32)
    run(f"""
        ld.param.b64 %rd1, [p1]; ld.param.b64 %rd2, [p2];
        mad.wide.u32 %rd0, %r0, 16, %rd0; mad.wide.u32 %rd1, %r0, 4, %rd1; mad.wide.u32 %rd2, %r0, 16, %rd2;
        ld.global.v4.b32 {{ %r2, %r3, %r4, %r5 }}, [ %rd0 ];
        ld.global.b32 {{ %r6 }}, [ %rd1 ];
        mov.b32 %r7, memory; shl.b32 %r8, %r0, 4; add.s32 %r8, %r8, %r7;
        st.shared::cta.v4.b32 [ %r8 + 0 ], {{ %r2, %r3, %r4, %r5 }};
        bar.sync 0;
        shl.b32 %r6, %r6, 4; add.s32 %r6, %r6, %r7;
        ldmatrix.sync.aligned.m8n8.x4{'.trans' if transposed else ''}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r6];
        st.global.v4.b32 [ %rd2 ], {{ %r10, %r11, %r12, %r13 }};
        """, memory, places.astype(np.uint32), y)  # fmt: skip
    for thread in range(32):
        row, column = thread // 4, thread % 4 * 2
        for i, matrix in enumerate(matrices):
            low, high = (matrix.T if transposed else matrix)[row, column : column + 2].tolist()
            assert y[thread, i] == low | high << 16


def fragments(matrix, place):
    """A matrix's elements in (32 threads, registers): `place(thread, element)` is a row and a column."""
    count = matrix.size // 32
    values = np.array([[matrix[place(thread, i)] for i in range(count)] for thread in range(32)], matrix.dtype)
    return np.ascontiguousarray(values).view(np.uint32)


MMA = {
    # PTX ISA, "Matrix Fragments for mma": element i of thread 4 g + t.
    'm16n8k16.row.col.f32.f16.f16.f32': (
        16,
        lambda thread, i: (thread // 4 + 8 * (i // 2 % 2), thread % 4 * 2 + i % 2 + 8 * (i // 4)),
        lambda thread, i: (thread % 4 * 2 + i % 2 + 8 * (i // 2), thread // 4),
    ),
    'm16n8k8.row.col.f32.tf32.tf32.f32': (
        8,
        lambda thread, i: (thread // 4 + 8 * (i % 2), thread % 4 + 4 * (i // 2)),
        lambda thread, i: (thread % 4 + 4 * i, thread // 4),
    ),
    'm16n8k32.row.col.satfinite.s32.s8.s8.s32': (
        32,
        lambda thread, i: (thread // 4 + 8 * (i // 4 % 2), thread % 4 * 4 + i % 4 + 16 * (i // 8)),
        lambda thread, i: (thread % 4 * 4 + i % 4 + 16 * (i // 4), thread // 4),
    ),
}
MMA['m16n8k16.row.col.f32.bf16.bf16.f32'] = MMA['m16n8k16.row.col.f32.f16.f16.f32']


def place_c(thread, i):
    return thread // 4 + 8 * (i // 2), thread % 4 * 2 + i % 2


def multiply(form, a, b, c):
    """One mma, of two warps that do the same."""
    k, place_a, place_b = MMA[form]
    operands = [fragments(a, place_a), fragments(b, place_b), fragments(c, place_c)]
    d = np.zeros((64, 4), np.uint32)
    result = run(f"""
        ld.param.b64 %rd1, [p1]; ld.param.b64 %rd2, [p2]; ld.param.b64 %rd3, [p3];
        and.b32 %r2, %r0, 31;
        mad.wide.u32 %rd0, %r2, 16, %rd0; mad.wide.u32 %rd1, %r2, 8, %rd1; mad.wide.u32 %rd2, %r2, 16, %rd2;
        mad.wide.u32 %rd3, %r0, 16, %rd3;
        ld.global.v4.b32 {{ %r10, %r11, %r12, %r13 }}, [ %rd0 ];
        ld.global.v2.b32 {{ %r14, %r15 }}, [ %rd1 ];
        ld.global.v4.b32 {{ %r20, %r21, %r22, %r23 }}, [ %rd2 ];
        mma.sync.aligned.{form} {{ %r30, %r31, %r32, %r33 }}, {{ %r10, %r11, %r12, %r13 }}, {{ %r14, %r15 }},
            {{ %r20, %r21, %r22, %r23 }};
        st.global.v4.b32 [ %rd3 ], {{ %r30, %r31, %r32, %r33 }};
        """, *operands, d, threads=64)  # fmt: skip
    assert result.mma == {(16, 8, k): 2}
    assert result.multiplies == 2 * 16 * 8 * k
    assert (d[:32] == d[32:]).all()
    out = np.zeros((16, 8), c.dtype)
    for thread in range(32):
        for i in range(4):
            out[place_c(thread, i)] = d[thread, i : i + 1].view(c.dtype)[0]
    return out


@pytest.mark.parametrize('form', MMA)
def test_mma(form):
    k = MMA[form][0]
    if 's8' in form:
        a, b = (RANDOM.integers(-128, 128, shape).astype(np.int8) for shape in ((16, k), (k, 8)))
        c = RANDOM.integers(-(2**20), 2**20, (16, 8)).astype(np.int32)
        c[0], c[1] = 2**31 - 1, -(2**31)
        exact = a.astype(np.int64) @ b.astype(np.int64) + c
        assert (multiply(form, a, b, c) == np.clip(exact, -(2**31), 2**31 - 1)).all()  # saturated
        return
    a, b, c = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((16, k), (k, 8), (16, 8)))
    if 'bf16' in form:
        a, b = ((value.view(np.uint32) >> 16).astype(np.uint16) for value in (a, b))
        values = [(value.astype(np.uint32) << 16).view(np.float32) for value in (a, b)]
    elif 'tf32' in form:
        values = [(value.view(np.uint32) & 0xFFFFE000).view(np.float32) for value in (a, b)]
    else:
        values = a, b = a.astype(np.float16), b.astype(np.float16)
    values = [value.astype(np.float64) for value in values]
    limit = (k + 1) * 2.0**-24 * (np.abs(values[0]) @ np.abs(values[1]) + np.abs(c))
    assert (np.abs(multiply(form, a, b, c) - (values[0] @ values[1] + c)) <= limit).all()


# What is not known, or must not be.


@pytest.mark.parametrize(
    ('body', 'words'),
    [
        ('add.s32 %r2, %r3, 1;', '%r3 was never set'),
        ('setp.eq.b32 %p1, %r0, 0; @%p1 mov.b32 %r2, 0; add.s32 %r3, %r2, 1;', 'for some threads only'),
        ('@%p1 mov.b32 %r2, 0;', '%p1 was never set'),
        ('add.sat.s32 %r2, %r0, 1;', 'unknown instruction: add.sat.s32'),
        ('popc.b32 %r2, %r0;', 'unknown instruction: popc'),
        ('ld.global.v8.b32 %r2, [ %rd0 ];', 'unknown instruction'),
        ('mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r2}, {%r3}, {%r4}, {%r5};', 'unknown instruction'),
        ('add.s32 %r2, %r0;', 'another number of operands'),
        ('add.s32 %rs2, %r0, 1;', '%rs2 has 16 bits'),
        ('add.s64 %rd2, %r0, 1;', '%r0 is not of the size'),
        ('add.s32 %q1, %r0, 1;', 'not a register'),
        ('selp.b32 %r2, 1, 0, %r0;', '%r0 is not of the size of pred'),
        ('setp.eq.b32 %p1, %r0, 0; @%p1 bra $x; $x:', 'different ways'),
        ('setp.eq.b32 %p1, %r1, 0; @%p1 bra $x; $x:', 'different ways'),
        ('setp.eq.b32 %p1, %r0, 0; @%p1 bar.sync 0;', 'missing'),
        ('bar.sync 1;', 'a barrier of some threads'),
        ('bra $nowhere;', 'no such label'),
        ('$x: bra $x;', 'does not end'),
        ('ld.param.b32 %r2, [p0];', 'not of the size of the parameter'),
        ('ld.param.b32 %r2, [p9];', 'not a parameter'),
        ('{ mov.b32 %r2, 0; }', 'not an instruction'),
    ],
)
def test_what_is_not_known_or_must_not_be_is_an_error(body, words, monkeypatch):
    monkeypatch.setattr('ptx_emulator.MAX_STEPS', 1000)
    with pytest.raises(PtxError, match=words):
        run(body, np.zeros(64, np.uint32), threads=64, blocks=2)


def test_wrong_arguments():
    y, ptx = np.zeros(1), kernel('')
    for arguments in ([], [1], [y, y]):
        with pytest.raises(PtxError, match='the parameters are u64'):
            launch(ptx, 1, arguments, shared=0)
    with pytest.raises(PtxError, match='the entry point is k'):
        launch(ptx, 1, [y], shared=0, entry='other')
    with pytest.raises(ValueError, match='contiguous'):
        launch(ptx, 1, [np.zeros((4, 4))[:, 1]], shared=0)
    for broken in (
        '',
        ptx.replace('.entry', '.func'),
        ptx + ptx,
        ptx.replace('.u64', '.f32'),
        '.global .b8 t[4];' + ptx,
    ):
        with pytest.raises(PtxError):
            launch(broken, 1, [y], shared=0)
