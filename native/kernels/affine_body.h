// The code of affine.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
//
// Weights (out, in): dot products of four rows of weights with some rows of x, so that memory is read in four streams.
// Weights (in, out): some rows of weights at a time, each times its number of x, are added to sums of a block of
// columns that stay in the first-level cache. What comes next is fetched ahead: a block ends too soon for the processor
// to see it.
#include <type_traits>

#include "affine.h"
#include "lanes.h"

namespace shardloop {
namespace {

template <class Lanes>
using Element = typename Lanes::Element;

template <class Lanes>
void pack_rows(const AffineShape& shape, const void* x, float* to) {
  const auto* from = static_cast<const Element<Lanes>*>(x);
  for (int64_t m = 0; m < shape.rows; ++m, from += shape.in) {
    if (shape.across) {
      for (int64_t i = 0; i < shape.in; ++i) to[m * shape.in + i] = opened(from[i]);
    } else {
      parted<Lanes>(from, shape.in, 1, to + m * stepped<Lanes>(shape.in));
    }
  }
}

template <class Lanes>
void finish(float sum, const Element<Lanes>* bias, Element<Lanes>* y, int64_t at) {
  closed(bias == nullptr ? sum : sum + opened(bias[at]), y + at);
}

constexpr int kDots = 4;               // rows of weights at a time
constexpr int kTile = kWidth / kDots;  // rows of x at a time: as many sums as lanes

// Outputs n to n + count of rows m to m + kM. Rows of weights beyond `count` repeat the last one.
template <class Lanes, int kM>
void dots(const AffineShape& shape, const float* x, const Element<Lanes>* weight, const Element<Lanes>* bias,
          Element<Lanes>* y, int64_t n, int64_t count, int64_t m) {
  constexpr int kStep = Lanes::kStep;
  const int64_t width = stepped<Lanes>(shape.in), whole = shape.in / kStep * kStep;
  const Element<Lanes>* rows[kDots];
  for (int64_t r = 0; r < kDots; ++r) rows[r] = weight + (n + (r < count ? r : count - 1)) * shape.in;
  const int64_t ahead = kDots * shape.in;
  const float* from = x + m * width;
  Vector sums[kWidth] = {};
  const auto add = [&](const Element<Lanes>* const* at, int64_t i) {
    for (int part = 0; part < Lanes::kParts; ++part) {
      Vector left[kM];
      for (int a = 0; a < kM; ++a) left[a] = vector(from + a * width + i + part * kWidth);
      for (int r = 0; r < kDots; ++r) {
        const Vector right = Lanes::part(at[r], part);
        for (int a = 0; a < kM; ++a) sums[a * kDots + r] += left[a] * right;
      }
    }
  };
  for (int64_t i = 0; i < whole; i += kStep) {
    const Element<Lanes>* at[kDots];
    for (int r = 0; r < kDots; ++r) {
      at[r] = rows[r] + i;
      if (m == 0) __builtin_prefetch(at[r] + ahead, 0, 2);
    }
    add(at, i);
  }
  if (whole < shape.in) {
    Element<Lanes> rest[kDots][kStep] = {};
    const Element<Lanes>* at[kDots];
    for (int r = 0; r < kDots; ++r) {
      std::memcpy(rest[r], rows[r] + whole, (shape.in - whole) * sizeof(Element<Lanes>));
      at[r] = rest[r];
    }
    add(at, whole);
  }
  const Vector all = sums_of(sums);
  for (int a = 0; a < kM; ++a)
    for (int64_t r = 0; r < count; ++r) finish<Lanes>(all[a * kDots + r], bias, y + (m + a) * shape.out, n + r);
}

template <class Lanes>
void outputs_down(const AffineShape& shape, const float* x, const Element<Lanes>* weight, const Element<Lanes>* bias,
                  Element<Lanes>* y, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; n += kDots) {
    const int64_t count = end - n < kDots ? end - n : kDots;
    int64_t m = 0;
    for (; m + kTile <= shape.rows; m += kTile) dots<Lanes, kTile>(shape, x, weight, bias, y, n, count, m);
    if constexpr (kTile > 2)
      if (m + 2 <= shape.rows) dots<Lanes, 2>(shape, x, weight, bias, y, n, count, m), m += 2;
    if constexpr (kTile > 1)
      if (m < shape.rows) dots<Lanes, 1>(shape, x, weight, bias, y, n, count, m);
  }
}

constexpr int64_t kSums = 4096;    // floats of a block's sums
constexpr int64_t kMostRows = 16;  // of x at a time
constexpr int kRows = kWidth == 16 ? 4 : 2;

// Adds rows k to k + kK of weights, times their numbers of kM rows of x, to the sums of `n` columns (whole steps).
template <class Lanes, int kM, int kK>
void add_rows(const float* x, int64_t in, const Element<Lanes>* weight, int64_t out, float* sums, int64_t block,
              int64_t n, bool fetch) {
  Vector left[kM][kK];
  for (int a = 0; a < kM; ++a)
    for (int k = 0; k < kK; ++k) left[a][k] = Vector{} + x[a * in + k];
  for (int64_t i = 0; i < n; i += Lanes::kStep) {
    if (fetch)
      for (int k = 0; k < kK; ++k) __builtin_prefetch(weight + (k + kK) * out + i, 0, 2);
    for (int part = 0; part < Lanes::kParts; ++part) {
      Vector right[kK];
      for (int k = 0; k < kK; ++k) right[k] = Lanes::part(weight + k * out + i, part);
      for (int a = 0; a < kM; ++a) {
        Vector& to = vector(sums + a * block + i + part * kWidth);
        Vector sum = to;
        for (int k = 0; k < kK; ++k) sum += left[a][k] * right[k];
        to = sum;
      }
    }
  }
}

// Every row of x: `rows` of them, `kK` rows of weights.
template <class Lanes, int kK>
void add_to_all(const float* x, int64_t in, const Element<Lanes>* weight, int64_t out, float* sums, int64_t block,
                int64_t n, int64_t rows) {
  int64_t m = 0;
  for (; m + kRows <= rows; m += kRows)
    add_rows<Lanes, kRows, kK>(x + m * in, in, weight, out, sums + m * block, block, n, m == 0);
  if constexpr (kRows > 2)
    if (m + 2 <= rows) add_rows<Lanes, 2, kK>(x + m * in, in, weight, out, sums + m * block, block, n, m == 0), m += 2;
  if (m < rows) add_rows<Lanes, 1, kK>(x + m * in, in, weight, out, sums + m * block, block, n, m == 0);
}

template <class Lanes>
void outputs_across(const AffineShape& shape, const float* x, const Element<Lanes>* weight, const Element<Lanes>* bias,
                    Element<Lanes>* y, int64_t begin, int64_t end) {
  alignas(64) float sums[kSums];
  const int64_t in = shape.in, out = shape.out;
  const int64_t most = shape.rows < kMostRows ? shape.rows : kMostRows;
  const int64_t block = kSums / (most <= 4 ? 4 : most <= 8 ? 8 : 16);
  for (int64_t n = begin; n < end; n += block) {
    const int64_t columns = end - n < block ? end - n : block;
    const int64_t whole = columns / Lanes::kStep * Lanes::kStep, rest = columns - whole;
    for (int64_t first = 0; first < shape.rows; first += most) {
      const int64_t rows = shape.rows - first < most ? shape.rows - first : most;
      const float* left = x + first * in;
      std::memset(sums, 0, rows * block * sizeof(float));
      int64_t k = 0;
      const auto add = [&](auto few) {
        constexpr int kK = decltype(few)::value;
        const Element<Lanes>* from = weight + k * out + n;
        add_to_all<Lanes, kK>(left + k, in, from, out, sums, block, whole, rows);
        if (rest > 0) {
          Element<Lanes> last[2 * kK * Lanes::kStep] = {};
          for (int i = 0; i < kK; ++i)
            std::memcpy(last + i * Lanes::kStep, from + i * out + whole, rest * sizeof(Element<Lanes>));
          add_to_all<Lanes, kK>(left + k, in, last, Lanes::kStep, sums + whole, block, Lanes::kStep, rows);
        }
        k += kK;
      };
      if (rows == 1)
        while (k + 8 <= in) add(std::integral_constant<int, 8>{});
      while (k + 4 <= in) add(std::integral_constant<int, 4>{});
      while (k < in) add(std::integral_constant<int, 1>{});
      for (int64_t m = 0; m < rows; ++m)
        for (int64_t i = 0; i < columns; ++i)
          finish<Lanes>(sums[m * block + place<Lanes>(i)], bias, y + (first + m) * out, n + i);
    }
  }
}

int64_t packed_size(const AffineShape& shape) {
  return shape.rows * (shape.across ? shape.in : stepped<Half>(shape.in));
}

void pack(const AffineShape& shape, const void* x, float* to) {
  shape.half ? pack_rows<Half>(shape, x, to) : pack_rows<Full>(shape, x, to);
}

template <class Lanes>
void outputs_of(const AffineShape& shape, const float* x, const void* weight, const void* bias, void* y, int64_t begin,
                int64_t end) {
  const auto* w = static_cast<const Element<Lanes>*>(weight);
  const auto* b = static_cast<const Element<Lanes>*>(bias);
  auto* to = static_cast<Element<Lanes>*>(y);
  shape.across ? outputs_across<Lanes>(shape, x, w, b, to, begin, end)
               : outputs_down<Lanes>(shape, x, w, b, to, begin, end);
}

void outputs(const AffineShape& shape, const float* x, const void* weight, const void* bias, void* y, int64_t begin,
             int64_t end) {
  shape.half ? outputs_of<Half>(shape, x, weight, bias, y, begin, end)
             : outputs_of<Full>(shape, x, weight, bias, y, begin, end);
}

}  // namespace

extern const AffineKernels SHARDLOOP_KERNELS;
const AffineKernels SHARDLOOP_KERNELS = {&packed_size, &pack, &outputs};

}  // namespace shardloop
