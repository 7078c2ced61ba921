// Products of small float matrices that lie in the cache: tiles of some rows by some vectors, held in registers. As
// with blocks.h all of it is local to the file that includes it.
#pragma once
#include <cstdint>

#include "vectors.h"

namespace shardloop {
namespace {

// kRows x kVectors sums, kVectors of the right side and one number of the left fit into the registers.
constexpr int kRows = 6, kVectors = kWidth == 16 ? 4 : 2;

// The left side: element (i, k) lies at i * row + k * step.
struct Left {
  const float* at;
  int64_t row, step;
};

template <int kR, int kV>
void tile(const Left& a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t depth, bool adds) {
  Vector sums[kR][kV];
  for (int r = 0; r < kR; ++r)
    for (int v = 0; v < kV; ++v)
      sums[r][v] = adds ? *reinterpret_cast<const Vector*>(c + r * c_row + v * kWidth) : Vector{};
  for (int64_t k = 0; k < depth; ++k) {
    Vector right[kV];
    for (int v = 0; v < kV; ++v) right[v] = *reinterpret_cast<const Vector*>(b + k * b_row + v * kWidth);
    for (int r = 0; r < kR; ++r) {
      const float left = a.at[r * a.row + k * a.step];
      for (int v = 0; v < kV; ++v) sums[r][v] += left * right[v];
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int v = 0; v < kV; ++v) *reinterpret_cast<Vector*>(c + r * c_row + v * kWidth) = sums[r][v];
}

template <int kV>
void column(Left a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t m, int64_t depth, bool adds) {
  for (; m >= kRows; m -= kRows, a.at += kRows * a.row, c += kRows * c_row)
    tile<kRows, kV>(a, b, b_row, c, c_row, depth, adds);
  switch (m) {
    case 5: return tile<5, kV>(a, b, b_row, c, c_row, depth, adds);
    case 4: return tile<4, kV>(a, b, b_row, c, c_row, depth, adds);
    case 3: return tile<3, kV>(a, b, b_row, c, c_row, depth, adds);
    case 2: return tile<2, kV>(a, b, b_row, c, c_row, depth, adds);
    case 1: return tile<1, kV>(a, b, b_row, c, c_row, depth, adds);
    default: return;
  }
}

// c (m, n) = a (m, depth) b (depth, n), or added to c; n is a multiple of kWidth, rows of b and c lie side by side.
void product(Left a, const float* b, int64_t b_row, float* c, int64_t c_row, int64_t m, int64_t n, int64_t depth,
             bool adds) {
  constexpr int64_t kStride = kVectors * kWidth;
  for (; n >= kStride; n -= kStride, b += kStride, c += kStride)
    column<kVectors>(a, b, b_row, c, c_row, m, depth, adds);
  if constexpr (kVectors > 2) {
    if (n >= 2 * kWidth) {
      column<2>(a, b, b_row, c, c_row, m, depth, adds);
      n -= 2 * kWidth, b += 2 * kWidth, c += 2 * kWidth;
    }
  }
  if (n > 0) column<1>(a, b, b_row, c, c_row, m, depth, adds);
}

}  // namespace
}  // namespace shardloop
