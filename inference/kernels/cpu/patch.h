// The micro-kernel of groups of few channels: a patch of outputs, side by side and one below the other, of a 3x3
// HetConv layer of stride 1. Every lane takes its own group's channel by a permutation, as in `multiply_lanes`, but an
// input is permuted once for all the taps that see it, not for each: 36 times for 128 products instead of 128 times.
#pragma once

#include "tile.h"

namespace hetconv {
namespace HETCONV_ISA {

// Some input channels of one set, whose lanes from `lane` on hold them.
struct PatchPiece {
  int set, channel, lane, count;
};

// Inputs lie in sets of kWidth channels: [set][row][column][kWidth], with a border.
struct PatchInput {
  const float* at;  // the first set, above and left of the patch
  size_t set, row;  // floats from one to the next
};

struct PatchTile {
  const PatchPiece* pieces;  // of the 1x1 kernels
  int piece_count;
  int set, channels;     // the first set of the groups' own channels, and how many a group has
  int set_channels;      // of a group, in one set
  const int32_t* lanes;  // where in its set the first channel of each lane's own group is
  const float* w;        // one stream: the 1x1 kernels, then by own channel the eight taps
};

constexpr int kPatchRows = kPatch[0], kPatchColumns = kPatch[1], kPatchPixels = kPatchRows * kPatchColumns;

static HETCONV_INLINE void multiply_patch(const PatchTile& t, const PatchInput& in, V (&sum)[kPatchPixels][1]) {
  const float* w = t.w;
  for (const PatchPiece* piece = t.pieces; piece < t.pieces + t.piece_count; piece++) {
    const float* x = in.at + piece->set * in.set + in.row + kWidth + piece->lane;
    for (int c = 0; c < piece->count; c++, x++, w += kWidth) {
      const V wv = load(w);
#pragma GCC unroll 8
      for (int r = 0; r < kPatchRows; r++) {
#pragma GCC unroll 8
        for (int k = 0; k < kPatchColumns; k++) sum[r * kPatchColumns + k][0] += wv * x[r * in.row + k * kWidth];
      }
    }
  }
  VI first;
  std::memcpy(&first, t.lanes, sizeof(first));
  const float* x = in.at + t.set * in.set;
  for (int c = 0, lane = 0; c < t.channels; c++, lane++, w += 8 * kWidth) {
    if (lane == t.set_channels) lane = 0, x += in.set;
    const VI index = first + lane;
#pragma GCC unroll 16
    for (int r = 0; r < kPatchRows + 2; r++) {
#pragma GCC unroll 16
      for (int k = 0; k < kPatchColumns + 2; k++) {
        const V p = permute(load(x + r * in.row + k * kWidth), index);
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; tap++) {
          const int out_r = r - tap / 3, out_k = k - tap % 3;
          if (tap == 4 || out_r < 0 || out_r >= kPatchRows || out_k < 0 || out_k >= kPatchColumns) continue;
          sum[out_r * kPatchColumns + out_k][0] += load(w + (tap - (tap > 4)) * kWidth) * p;
        }
      }
    }
  }
}

// `down` x `across` of the outputs are there, and `width` channels. `rows.offset` has all the patch's pixels.
static void patch(const PatchTile& t, const PatchInput& in, const Rows& rows, const Epilogue& epilogue, int down,
                  int across, int width) {
  V sum[kPatchPixels][1];
  const V start = load(epilogue.bias);
#pragma GCC unroll 32
  for (int i = 0; i < kPatchPixels; i++) sum[i][0] = start;
  multiply_patch(t, in, sum);
  if (down == kPatchRows && across == kPatchColumns && width == kWidth) {
    finish<kPatchPixels, 1>(rows, epilogue, sum);
    return;
  }
  V copy[kPatchPixels][1];
  std::memcpy(copy, sum, sizeof(copy));
  for (int i = 0; i < kPatchPixels; i++) {
    if (i / kPatchColumns >= down || i % kPatchColumns >= across) continue;
    const V one[1][1] = {{copy[i][0]}};
    const Rows row{nullptr, 0, rows.offset + i, rows.y, rows.residual, false};
    finish_part<1, 1>(row, epilogue, one, width);
  }
}

}  // namespace HETCONV_ISA
}  // namespace hetconv
