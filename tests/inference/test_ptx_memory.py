"""Global and shared memory of the PTX emulator, its waits, barriers and races."""

import numpy as np
import pytest
from ptx_emulator import PtxError
from ptx_snippets import RANDOM, run

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
