"""The GPU kernel without a GPU: in Triton's interpreter against the oracle, and compiled for six architectures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', reason='Triton is not installed (PyTorch brings it on Linux)')

from inference.kernels.gpu import aot, tiles
from inference.kernels.gpu.aot import SMS, Variant, compile_kernel, strip_hidden_parameters, variants
from inference.kernels.gpu.resources import mma_shapes, resources
from inference.kernels.gpu.tiles import ITEM, Layer, Tile

# Rounding of the result, relative to the largest value: 2^-11 in fp16, 2^-8 in bf16, which the interpreter cuts off
# instead (2^-7). In fp32 the sum's own error, after cancellation too. In int8 a half may fall to the other side.
TOLERANCE = {'fp32': 1e-5, 'fp16': 6e-4, 'bf16': 8e-3, 'int8': 1}


def interpret(first, count):
    script = Path(__file__).parent / 'gpu_interpreter.py'
    command = [sys.executable, str(script), str(first), str(count)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == count
    for row in rows:
        assert row['error'] <= TOLERANCE[row['precision']], row  # also when it is not a number
        assert row['untouched'], row
    return rows


def test_interpreted_kernel_is_the_oracle():
    rows = interpret(0, 60)
    assert {row['precision'] for row in rows} == set(ITEM)
    assert {row['channel_block'] for row in rows} == {0, 32}
    assert {row['residual'] for row in rows} == {False, True}


@pytest.mark.long
@pytest.mark.parametrize('first', range(1000, 2000, 125))
def test_interpreted_kernel_is_the_oracle_on_a_thousand_layers(first):
    interpret(first, 125)


@pytest.mark.long
@pytest.mark.parametrize('sm', SMS)
def test_every_variant_compiles_without_spills(sm):
    for variant in variants():
        check_compiled(variant, sm)


@pytest.mark.parametrize('sm', SMS)
@pytest.mark.parametrize('precision', ITEM)
def test_a_variant_compiles_without_spills(sm, precision):
    check_compiled(Variant(precision, tiles.TILES[ITEM[precision]][0], residual=True), sm)


def check_compiled(variant, sm):
    kernel = compile_kernel(variant, sm)
    used = resources(kernel)
    assert (used.stack, used.local, used.spills) == (0, 0, 0)
    assert used.registers * kernel.threads <= 65536 // 2  # two blocks at a time, at least
    assert kernel.shared <= tiles.MAX_SHARED
    assert used.tensor_core > 0
    assert kernel.threads == variant.tile.warps * 32
    # The loop's instructions, times how many execute them, are a step's multiplies: none is done twice or elsewhere.
    per_step = sum(count * m * n * k for (m, n, k), count in mma_shapes(kernel.ptx).items())
    if sm < 100 or sm >= 120:  # SM 100 keeps the shape in a descriptor
        assert per_step * warps_that_share(variant.tile, sm) == variant.tile.pixels * variant.tile.n * variant.tile.k


def warps_that_share(tile, sm):
    """How many warps, or on SM 90 groups of four warps, execute each instruction for a part of the tile."""
    return tile.warps // 4 if sm == 90 else tile.warps


@pytest.mark.parametrize(('channels', 'part'), [(64, 4), (128, 4), (256, 4), (512, 8), (512, 16), (512, 2)])
def test_tensor_core_work_falls_as_the_flops_promise(channels, part):
    """Dense and HetConv at the same tile: the same instructions, in the ratio of the paper's count, 9 / (1 + 8/P)."""
    layer, dense = Layer(channels, channels, part), Layer(channels, channels, 1)
    tile = next(tile for tile in tiles.candidates(layer, 2) if tile.n <= layer.group_out)
    ratio = tiles.multiplies(dense, tile, 2) / tiles.multiplies(layer, tile, 2)
    assert ratio == pytest.approx(9 / (1 + 8 / part))


@pytest.mark.parametrize('sm', [75, 70, 0, 91])
def test_other_architectures_are_refused(sm):
    with pytest.raises(ValueError, match=f'SM {sm} is not among'):
        compile_kernel(variants()[0], sm)


def test_kernels_of_any_size_and_chw32_compile():
    for variant in (
        Variant('fp16', tiles.ANY[2], residual=False, even=False, kernel_size=(7, 7)),
        Variant('int8', Tile(64, 32, 32, 4, 4), residual=True, channel_block=32),
    ):
        check_compiled(variant, 80)


def test_compiled_code_takes_the_kernels_arguments_only():
    for residual, pointers in ((False, 4), (True, 5)):
        ptx = compile_kernel(Variant('fp16', tiles.TILES[2][0], residual), 80).ptx
        header = ptx[ptx.index('.entry') : ptx.index(')')]
        assert header.count('.param .u64') == pointers
        assert header.count('.param .u32') == 5 + len(tiles.constants(Layer(64, 64, 4), 2, 0, 1))
        assert header.rstrip().splitlines()[-1].lstrip().startswith('.param .u64')  # the output comes last


PTX = '.visible .entry k(\n\t.param .u64 a,\n\t.param .u32 b,\n\t.param .u64 c\n)\n{{\n\tld.param.b64 %r, [{}];\n}}'


def test_a_hidden_parameter_that_is_read_is_refused():
    stripped = strip_hidden_parameters(PTX.format('a'), 2)
    assert '.param .u64 c' not in stripped
    assert '.param .u32 b' in stripped
    with pytest.raises(RuntimeError, match='reads c'):
        strip_hidden_parameters(PTX.format('c'), 2)
    with pytest.raises(RuntimeError, match='no entry point'):
        strip_hidden_parameters('', 2)


def test_versions_are_of_ptx_that_old_drivers_take():
    for sm, version in aot.PTX_VERSIONS.items():
        ptx = compile_kernel(variants()[0], sm).ptx
        assert f'.version {version // 10}.{version % 10}\n' in ptx
        assert f'.target sm_{sm}' in ptx


def test_the_recorded_rows_are_of_these_variants():
    """benchmarks/results/gpu_kernels.json, from which docs/tensorrt.md quotes."""
    root = Path(__file__).parents[2]
    recorded = json.loads((root / 'benchmarks/results/gpu_kernels.json').read_text())
    names = ('sm', 'precision', 'pixels', 'n', 'k', 'warps', 'stages', 'residual', 'even')
    rows = {tuple(row[name] for name in names) for row in recorded['rows']}
    assert rows == {
        (sm, v.precision, *vars(v.tile).values(), v.residual, v.even) for sm in SMS for v in variants()
    }  # fmt: skip
    assert all(row['spills'] == 0 and row['shared'] <= tiles.MAX_SHARED for row in recorded['rows'])
    page = (root / 'docs/tensorrt.md').read_text()
    assert f'All {len(rows)} variants' in page
    assert f'compile in {recorded["cold_seconds"]:.0f} s' in page
