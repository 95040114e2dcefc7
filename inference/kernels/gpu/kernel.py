"""HetConv2d as one batch-reduce GEMM: the 1x1 kernels over all channels, then the other taps over a group's channels.

A program makes a tile of BLOCK_PIXELS output pixels x BLOCK_N output channels of one group, or of `groups` whole ones.
Each step of its one loop multiplies the input of one tap, BLOCK_K channels of it, with as many rows of `w`. So a dense
convolution and every P are the same code with another number of steps: M + (K*K - 1) * M/P rows instead of K*K * M.

A tile of several groups has, for a tap, the steps of each of them, with zeros in the columns of the others: the weights
are block-diagonal there without being stored so.

The order of the parameters is that of a TensorRT plugin's kernel: inputs, 32-bit integers, outputs.
"""

import triton
import triton.language as tl

__all__ = ['hetconv_kernel']


@triton.jit
def hetconv_kernel(
    x_ptr,  # (B, H, W, in_channels), or with CHANNEL_BLOCK (B, in_channels / CHANNEL_BLOCK, H, W, CHANNEL_BLOCK)
    w_ptr,  # (rows, columns): see `tiles.pack`
    epilogue_ptr,  # float32 (1, N): bias; int8: (3, N): scale of the sum, bias, scale of the residual
    residual_ptr,  # as y; None for no residual: then compiled code has no such parameter
    pixels,  # B * OH * OW
    height,
    width,
    out_height,
    out_width,
    in_channels,
    out_channels,
    group_in,  # input channels of a group
    group_out,  # output channels of a group
    pad_in,  # rows of w for the 1x1 kernels: in_channels, padded to whole steps
    pad_group,  # rows of w for a tap: group_in, padded to whole steps
    columns,  # of w: out_channels, padded
    stride_h,
    stride_w,
    dilation_h,
    dilation_w,
    minus_low,  # float32's bits: y is clamped to [-minus_low, high]
    high,
    y_ptr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    EVEN: tl.constexpr,  # no padding of input channels, groups of whole lanes: see `tiles.is_even`
    CHANNEL_BLOCK: tl.constexpr,  # 0: channels last
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,  # of float32: 'tf32' or 'ieee'
):
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W - 1
    INTEGER: tl.constexpr = x_ptr.dtype.element_ty == tl.int8
    tl.static_assert(CHANNEL_BLOCK == 0 or CHANNEL_BLOCK == BLOCK_K)

    # Tiles of the same pixels follow each other, so that these are read from the cache.
    groups = tl.maximum(tl.minimum(BLOCK_N // group_out, out_channels // group_out), 1)  # whole ones in a tile
    tiles_per_group = tl.cdiv(group_out, BLOCK_N)  # of the tiles that have one group
    tile_count = tl.cdiv(out_channels, group_out * groups) * tiles_per_group
    tile = tl.program_id(0) % tile_count
    first_group = tile // tiles_per_group * groups
    part = tile % tiles_per_group * BLOCK_N  # of the group
    lane = tl.arange(0, BLOCK_N)
    n = first_group * group_out + part + lane
    n_inside = (n < out_channels) & (part + lane < groups * group_out)
    lane_group = lane // group_out
    k = tl.arange(0, BLOCK_K)
    w_place = (k * columns)[:, None] + n[None, :]

    pixel = tl.program_id(0) // tile_count * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    inside = pixel < pixels
    column = (pixel % out_width) * stride_w
    row = (pixel // out_width % out_height) * stride_h
    image = pixel // (out_width * out_height)
    if CHANNEL_BLOCK == 0:
        pixel_stride = in_channels
        image_stride = height * width * in_channels
    else:
        pixel_stride = CHANNEL_BLOCK
        image_stride = height * width * tl.cdiv(in_channels, CHANNEL_BLOCK) * CHANNEL_BLOCK
    base = image * image_stride + (row * width + column) * pixel_stride

    # Where the loop is: tap -1 is the 1x1 kernels; `group` counts in the tile; `done` are the channels done of the two.
    tap = -1
    group = groups - 1
    done = 0
    acc = tl.zeros((BLOCK_PIXELS, BLOCK_N), dtype=tl.int32 if INTEGER else tl.float32)
    for _ in range(0, (pad_in + TAPS * groups * pad_group) // BLOCK_K):
        pointwise = tap < 0
        place = tap + (tap >= TAPS // 2).to(tl.int32)  # the centre is not among the taps
        dy = tl.where(pointwise, 0, (place // KERNEL_W - KERNEL_H // 2) * dilation_h)
        dx = tl.where(pointwise, 0, (place % KERNEL_W - KERNEL_W // 2) * dilation_w)
        channel = done + tl.where(pointwise, 0, (first_group + group) * group_in)
        w_row = done + tl.where(pointwise, 0, pad_in + tap * pad_group)
        if EVEN:
            channel = tl.multiple_of(channel, 16)
            w_row = tl.multiple_of(w_row, 16)

        there = inside & (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)
        there = there & (channel < in_channels)  # the last tile may have fewer groups
        offset = (dy * width + dx) * pixel_stride
        if CHANNEL_BLOCK == 0:
            offset += channel
        else:
            offset += channel // CHANNEL_BLOCK * (height * width * CHANNEL_BLOCK)
        x_mask = there[:, None]
        if not EVEN:
            real = done + k < tl.where(pointwise, in_channels, group_in)
            x_mask = x_mask & real[None, :]
        x = tl.load(x_ptr + (base + offset)[:, None] + k[None, :], mask=x_mask, other=0)
        w_mask = (pointwise | (lane_group == group)) & (n < columns)
        if EVEN:
            w_mask = tl.max_constancy(w_mask, [16])
        w = tl.load(w_ptr + w_row * columns + w_place, mask=w_mask[None, :], other=0)
        if INTEGER:
            acc = tl.dot(x, w, acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(x, w, acc, input_precision=PRECISION)

        done += BLOCK_K
        end = done >= tl.where(pointwise, pad_in, pad_group)
        done = tl.where(end, 0, done)
        group = tl.where(end, group + 1, group)
        end_tap = group >= groups
        group = tl.where(end_tap, 0, group)
        tap = tl.where(end_tap, tap + 1, tap)

    if CHANNEL_BLOCK == 0:
        out = (pixel * out_channels)[:, None] + n[None, :]
    else:
        plane = out_height * out_width * CHANNEL_BLOCK
        out_image = image * (plane * tl.cdiv(out_channels, CHANNEL_BLOCK))
        out_pixel = out_image + pixel % (out_width * out_height) * CHANNEL_BLOCK
        out = out_pixel[:, None] + (n // CHANNEL_BLOCK * plane + n % CHANNEL_BLOCK)[None, :]
    mask = inside[:, None] & n_inside[None, :]
    if INTEGER:
        scale = tl.load(epilogue_ptr + n, mask=n_inside, other=0)
        bias = tl.load(epilogue_ptr + out_channels + n, mask=n_inside, other=0)
        value = acc.to(tl.float32) * scale[None, :] + bias[None, :]
        if residual_ptr is not None:
            residual = tl.load(residual_ptr + out, mask=mask, other=0).to(tl.float32)
            value += residual * tl.load(epilogue_ptr + 2 * out_channels + n, mask=n_inside, other=0)[None, :]
    else:
        value = acc + tl.load(epilogue_ptr + n, mask=n_inside, other=0)[None, :]
        if residual_ptr is not None:
            value += tl.load(residual_ptr + out, mask=mask, other=0).to(tl.float32)
    value = tl.maximum(value, -minus_low.to(tl.float32, bitcast=True), propagate_nan=tl.PropagateNan.ALL)
    value = tl.minimum(value, high.to(tl.float32, bitcast=True), propagate_nan=tl.PropagateNan.ALL)
    if y_ptr.dtype.element_ty == tl.int8:
        # Round to the nearest, halves to even: below 2^22 the sum with 1.5 * 2^23 has no digits behind the point.
        value = tl.minimum(tl.maximum(value, -128.0), 127.0) + 12582912.0
        value = value - 12582912.0
    tl.store(y_ptr + out, value.to(y_ptr.dtype.element_ty), mask=mask)
