"""Faults in the GPU kernel's PTX or its arguments are found: by a wrong result, or by what the emulator checks.

That is what the tests of the unchanged kernel are worth.
"""

import re

import pytest

pytest.importorskip('triton', reason='Triton is not installed (PyTorch brings it on Linux)')

from gpu_cases import check, integers_of, kernel_of, make_case
from ptx_emulator import PtxError

from inference.kernels.gpu.tiles import Layer, Tile

# Two groups a tile, the last with one; tails of pixels and channels; no two arguments that follow each other are equal.
LAYER = Layer(80, 160, 5, stride=(3, 2), dilation=(1, 2))
TILE = Tile(64, 64, 16, 4, 4)
POINTERS = 4  # x, w, epilogue, residual


@pytest.fixture(scope='module')
def case():
    return make_case(LAYER, 'fp16', (2, 13, 16), residual=True, low=-20.0, high=30.0)


@pytest.fixture(scope='module')
def ptx(case):
    check(case, TILE)  # without a fault nothing is found
    return kernel_of(case, TILE).ptx.split('.section')[0]


def find(case, **fault):
    """How a fault is found: what the emulator says, or what is wrong with the result."""
    try:
        check(case, TILE, **fault)
    except (PtxError, AssertionError) as error:
        return str(error)
    return None


def changed(ptx, pattern, replace):
    """The PTX with one line changed, for each line that matches; and the line."""
    for match in re.finditer(pattern, ptx, re.MULTILINE):
        yield match[0].strip(), ptx[: match.start()] + replace(match) + ptx[match.end() :]


NAMES = list(integers_of(make_case(Layer(16, 16, 1), 'fp16', (1, 1, 1))))
ALIGNED = {'in_channels', 'out_channels', 'group_in', 'group_out', 'pad_in', 'pad_group', 'columns'}  # to 16


@pytest.mark.parametrize('name', NAMES)
def test_a_wrong_argument(case, ptx, name):
    right = integers_of(case)[name]
    step = 16 if name in ALIGNED else 1
    for wrong in [0] if name in ('minus_low', 'high') else [right + step, right - step]:
        assert find(case, change={name: wrong}), wrong


def test_a_wrong_stride_or_offset_in_the_code(case, ptx):
    """Each argument read in the place of the one before: among them strides, group offsets and sizes."""
    last = POINTERS + len(NAMES) - 1

    def next_one(match):
        number = int(match[2])
        return f'{match[1]}{number - 1 if number == last else number + 1}];'

    lines = list(changed(ptx, r'(ld\.param\.b32 .*_)(\d+)\];', next_one))
    assert len(lines) == len(NAMES)
    for line, wrong in lines:
        assert find(case, ptx=wrong), line


def test_a_removed_predicate(case, ptx):
    lines = list(changed(ptx, r'^\s*@%p\d+ ((ld|st)\..*;)', lambda match: match[1]))
    found = [(line.split()[1], find(case, ptx=wrong) is not None) for line, wrong in lines]
    # Of a tile's 64 channels, 16 or more are there always: to predicate their bias is not needed.
    bias = [caught for opcode, caught in found if opcode == 'ld.global.v2.b32']
    others = {opcode: caught for opcode, caught in found if opcode != 'ld.global.v2.b32'}
    assert sum(bias) >= len(bias) / 2
    assert others == {'ld.global.v4.b32': True, 'st.global.v4.b32': True}  # residual and result


def test_a_copy_into_shared_memory_that_is_not_masked(case, ptx):
    lines = list(changed(ptx, r'(cp\.async\.c.*), %r\d+;', lambda match: match[1] + ';'))
    found = [find(case, ptx=wrong) is not None for _, wrong in lines]
    # Of x and of w, in turns: before the loop, and in it. Not masked, w has numbers of the next row in columns that are
    # not stored; only behind the last row, which is for the loop, there is no next one.
    assert len(found) >= 4
    assert all(found[::2])
    assert found[-1]


def test_a_wait_for_too_few_copies(case, ptx):
    """Before the loop, in it (where several wait for the same), and behind it, where shared memory has another use."""
    before, body, behind = re.split(r'(?=^\$L__BB0_[23]:)', ptx, flags=re.MULTILINE)
    for i in range(3):
        parts = [before, body, behind]
        parts[i], count = re.subn(r'(wait_group\s+)(\d+)', lambda match: f'{match[1]}{int(match[2]) + 2}', parts[i])
        assert count
        assert 'cp.async is still writing' in find(case, ptx=''.join(parts)), i


def test_a_removed_barrier(case, ptx):
    found = [find(case, ptx=wrong) for _, wrong in changed(ptx, r'^\s*bar\.sync.*;', lambda match: '')]
    # Those between the first copies are not needed, when nothing was read yet.
    needed = found[found.count(None) :]
    assert len(needed) >= 4
    assert all(text and 'race' in text for text in needed)


def test_a_removed_barrier_of_a_warp():
    case, tile = make_case(Layer(64, 64, 4), 'fp16'), Tile(64, 16, 16, 4, 4)
    check(case, tile)
    ((_, wrong),) = changed(kernel_of(case, tile).ptx, r'bar\.warp\.sync.*;', lambda match: '')
    with pytest.raises(PtxError, match='race'):
        check(case, tile, ptx=wrong)


# What an instruction is turned into: a pattern of its opcode and operands, and its replacement.
MUTATIONS = [
    (r'add\.s32', 'sub.s32'), (r'sub\.s32', 'add.s32'), (r'mul\.lo\.s32', 'add.s32'), (r'div\.s32', 'rem.s32'),
    (r'rem\.s32', 'div.s32'), (r'and\.b32', 'or.b32'), (r'x?or\.b32', 'and.b32'), (r'and\.pred', 'or.pred'),
    (r'setp\.lt', 'setp.ge'), (r'setp\.ge', 'setp.lt'), (r'setp\.gt', 'setp.ge'), (r'setp\.eq', 'setp.ne'),
    (r'setp\.ne', 'setp.eq'), (r'neg\.s32', 'not.b32'), (r'max\.NaN', 'min.NaN'), (r'min\.NaN', 'max.NaN'),
    (r'add\.f32', 'mul.f32'), (r'(mad\.(?:lo|wide)\.s32 *\S+, \S+, )\S+,', r'\1 1,'),
    (r'(sh[lr]\.\w+ *\S+, \S+, )(\d+)', r'\1 1\2'), (r'(bfe\.\w+ *\S+, \S+, )\d+', r'\1 6'),
    (r'(selp\.b32 *\S+) (\S+), (\S+),', r'\1 \3, \2,'), (r'x4\.trans', 'x4'), (r'x4\.sh', 'x4.trans.sh'),
    (r'(mma\S+ .*, )\{ (%\w+), (%\w+) \}', r'\1{ \3, \2 }'), (r'(st\.shared\S+ \[ \S+ \+ )0', r'\g<1>16'),
]  # fmt: skip


def mutants(ptx):
    """One for each mutation that an instruction has, in the order of the text; before and after it."""
    for line, wrong in changed(ptx, r'^\s[^;.]*\.[^;]*;', lambda match: '\nMUTANT\n'):
        for pattern, replacement in MUTATIONS:
            text = ' '.join(line.split())
            mutant, count = re.subn(pattern, replacement, text, count=1)
            if count:
                yield text, mutant, wrong.replace('MUTANT', mutant)


@pytest.fixture(scope='module')
def others():
    """Whose first steps, which the code has apart from the loop, are of taps; and one with two tiles a group."""
    layers = [Layer(16, 16, 1), Layer(32, 64, 2), Layer(32, 160, 2)]
    return [make_case(layer, 'fp16', (1, 5, 14), residual=True, low=-20.0, high=30.0) for layer in layers]


@pytest.mark.parametrize('every', [40, pytest.param(5, marks=pytest.mark.long)])
def test_mutants(case, others, ptx, every):
    """Most are found. Not all can be: what rounds a negative number is of no use, where there is none."""
    some = list(mutants(ptx))[::every]
    survivors = [
        f'{text} -> {mutant}'
        for text, mutant, wrong in some
        if not any(find(any_case, ptx=wrong) for any_case in (case, *others))
    ]
    assert len(some) > 400 / every
    assert len(survivors) <= 1 + 0.03 * len(some), survivors
