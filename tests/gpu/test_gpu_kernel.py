"""The Triton kernel on a GPU: launched, loaded as the PTX that engines embed, and as PyTorch's operator."""

import ctypes

import numpy as np
import pytest
from random_layers import run

from inference.kernels.gpu import aot, tiles
from inference.kernels.gpu.tiles import ITEM, Layer

# Of a layer, relative to the largest value: rounding of the result, and in float32 TF32's 10 bits of the operands.
TOLERANCE = {'fp32': 2e-3, 'fp16': 1e-3, 'bf16': 8e-3, 'int8': 1}
WIDE = Layer(128, 128, 2)


@pytest.mark.parametrize('first', range(0, 400, 100))
def test_random_layers_equal_the_oracle(torch_cuda, first):
    for seed in range(first, first + 100):
        row = run(seed, 'cuda', tf32=True)
        assert row['error'] <= TOLERANCE[row['precision']], row
        assert row['untouched'], row


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'bf16'])
@pytest.mark.parametrize('part', [1, 4, 64])
@pytest.mark.parametrize(('channels', 'size'), [(64, 56), (128, 28), (256, 14), (512, 7)])
def test_every_tile_of_real_layers_equals_pytorch(torch_cuda, precision, part, channels, size):
    from inference.kernels.gpu.launch import hetconv

    torch = torch_cuda
    dtype = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)[precision]
    layer = Layer(channels, channels, part)
    random = np.random.default_rng(0)
    w, w_kxk = (
        random.standard_normal(shape, np.float32)
        for shape in ((channels, channels), (channels, layer.group_in, layer.taps))
    )
    packed = torch.from_numpy(tiles.pack(layer, w, w_kxk, ITEM[precision])).cuda().to(dtype)
    x = torch.randn(3, size, size, channels, device='cuda').to(dtype)
    bias = torch.randn(1, channels, device='cuda')
    kernel = np.insert(w_kxk, layer.taps // 2, 0, axis=2).reshape(channels, -1, 3, 3)
    weights = [torch.from_numpy(array).cuda().to(dtype).float() for array in (kernel, w[:, :, None, None])]
    nchw = x.float().permute(0, 3, 1, 2)
    conv2d = torch.nn.functional.conv2d
    reference = conv2d(nchw, weights[0], bias[0], padding=1, groups=part) + conv2d(nchw, weights[1])
    for tile in tiles.candidates(layer.merged(), ITEM[precision]):
        y = torch.full_like(x, float('nan'))
        hetconv(layer.merged(), x, packed, bias, y=y, tile=tile)
        error = (y.float().permute(0, 3, 1, 2) - reference).abs().max() / reference.abs().max()
        assert error <= TOLERANCE[precision], tile


def check(result):
    status, *values = result
    assert int(status) == 0, status
    return values[0] if len(values) == 1 else values


@pytest.mark.parametrize('precision', ITEM)
def test_every_embedded_ptx_loads_and_runs(torch_cuda, gpu, precision, record_property):
    """By the driver alone, with the arguments as TensorRT packs them."""
    from cuda.bindings import driver

    torch, item = torch_cuda, ITEM[precision]
    torch.zeros(1, device='cuda')  # makes the context current
    dtype = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16, int8=torch.int8)[precision]
    for variant in (variant for variant in aot.variants() if variant.precision == precision and variant.even):
        tile = variant.tile
        kernel = aot.compile_kernel(variant, aot.for_target(gpu.sm))
        module = check(driver.cuModuleLoadData(kernel.ptx.encode() + b'\0'))
        function = check(driver.cuModuleGetFunction(module, kernel.name.encode()))
        x = torch.randint(-4, 5, (2, 9, 8, WIDE.in_channels), device='cuda').to(dtype)
        w = np.random.default_rng(0).integers(-4, 5, (WIDE.out_channels, WIDE.in_channels)).astype(np.float32)
        w_kxk = np.random.default_rng(1).integers(-4, 5, (WIDE.out_channels, WIDE.group_in, 8)).astype(np.float32)
        packed = torch.from_numpy(tiles.pack(WIDE, w, w_kxk, item)).to('cuda', dtype)
        epilogue = torch.zeros(3 if precision == 'int8' else 1, WIDE.out_channels, device='cuda')
        if precision == 'int8':
            epilogue[0] = 1 / 64
        y = torch.empty_like(x)
        integers = [2 * 9 * 8, 9, 8, 9, 8, *tiles.constants(WIDE, item, -np.inf, np.inf).values()]
        residual = [torch.randint(-4, 5, x.shape, device='cuda').to(dtype)] if variant.residual else []
        if residual and precision == 'int8':
            epilogue[2] = 1.0
        pointers = [tensor.data_ptr() for tensor in (x, packed, epilogue, *residual)]
        values = (*pointers, *integers, y.data_ptr())
        kinds = (*[ctypes.c_void_p] * len(pointers), *[ctypes.c_int32] * len(integers), ctypes.c_void_p)
        grid = -(-integers[0] // tile.pixels) * tiles.tile_count(WIDE, tile)
        check(
            (
                *driver.cuLaunchKernel(
                    function, grid, 1, 1, kernel.threads, 1, 1, kernel.shared, 0, (values, kinds), 0
                ),
                0,
            )
        )
        check((*driver.cuCtxSynchronize(), 0))
        kernel_kxk = torch.from_numpy(np.insert(w_kxk, 4, 0, axis=2).reshape(WIDE.out_channels, -1, 3, 3)).cuda()
        nchw = x.float().permute(0, 3, 1, 2)
        conv2d = torch.nn.functional.conv2d
        sums = conv2d(nchw, kernel_kxk, padding=1, groups=WIDE.part)
        sums = sums + conv2d(nchw, torch.from_numpy(w[:, :, None, None]).cuda())
        added = residual[0].float().permute(0, 3, 1, 2) if residual else 0
        expected = (sums / 64 + added).round().clamp(-128, 127) if precision == 'int8' else sums + added
        difference = (y.float().permute(0, 3, 1, 2) - expected).abs().max() / (
            1 if precision == 'int8' else sums.abs().max()
        )
        assert difference <= TOLERANCE[precision], tile
        check((*driver.cuModuleUnload(module), 0))
    record_property('ptx', kernel.ptx[kernel.ptx.index('.version') :].split('.address')[0].replace('\n', ' ').strip())


@pytest.mark.parametrize('mode', ['eager', 'compile'])
@pytest.mark.parametrize('precision', ['float32', 'float16', 'bfloat16'])
def test_fused_model_in_pytorch(torch_cuda, expected, mode, precision):
    """With the autotuner, which needs a GPU."""
    from inference.models import create_model
    from inference.torch_cuda import fuse

    torch = torch_cuda
    x, logits = expected('hetconv_resnet20_cifar_p4')
    model = create_model('hetconv_resnet20_cifar_p4').to('cuda', getattr(torch, precision))
    fused = fuse(model.to(memory_format=torch.channels_last))
    if mode == 'compile':
        fused = torch.compile(fused)
    with torch.inference_mode():
        y = fused(torch.from_numpy(x).to('cuda', getattr(torch, precision))).float().cpu().numpy()
    assert np.abs(y - logits).max() <= {'bfloat16': 5e-2}.get(precision, 1e-2) * np.abs(logits).max()
