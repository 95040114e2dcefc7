"""Tensor cores of the PTX emulator, and what it must refuse."""

import numpy as np
import pytest
from ptx_emulator import PtxError, launch
from ptx_snippets import RANDOM, kernel, run


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
