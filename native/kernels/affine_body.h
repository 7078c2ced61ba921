// The code of affine.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
//
// Weights (out, in): dot products of four rows of weights with some rows of x, so that memory is read in four streams;
// or, for as many rows of x as a vector has lanes, each weight times a vector of them, which needs no sums across
// lanes. Weights (in, out): some rows of weights at a time, each times its number of some rows of x, are added to sums
// in registers. What comes next is fetched ahead: a block ends too soon for the processor to see it.
#include <type_traits>

#include "affine.h"
#include "lanes.h"

namespace shardloop {
namespace {

template <class Lanes>
using Element = typename Lanes::Element;

constexpr int64_t kMostRows = 16;  // of x at a time, where weights lie (in, out)
constexpr int64_t kChunk = 64;     // columns of weights (out, in) at a time, where rows of x are lanes

// Where weights lie (out, in): how many rows of x, from the first one on, are lanes of vectors, kWidth at a time, the
// last ones with zeros beside them. The rest goes row by row.
int64_t rows_in_lanes(const AffineShape& shape) { return (shape.rows + kWidth / 2 - 1) / kWidth * kWidth; }

// Floats of a row of x where rows are lanes.
int64_t lane_width(const AffineShape& shape) { return (shape.in + kChunk - 1) / kChunk * kChunk; }

template <class Lanes>
void pack_rows(const AffineShape& shape, const void* x, float* to) {
  const auto* from = static_cast<const Element<Lanes>*>(x);
  const int64_t in = shape.in, grouped = shape.across ? 0 : rows_in_lanes(shape);
  if (grouped > 0) std::memset(to, 0, grouped * lane_width(shape) * sizeof(float));
  for (int64_t m = 0; m < shape.rows; ++m, from += in) {
    if (shape.across) {
      const int64_t first = m / kMostRows * kMostRows;
      const int64_t rows = shape.rows - first < kMostRows ? shape.rows - first : kMostRows;
      for (int64_t i = 0; i < in; ++i) to[first * in + i * rows + m - first] = opened(from[i]);
    } else if (m < grouped) {
      float* group = to + m / kWidth * kWidth * lane_width(shape) + m % kWidth;
      for (int64_t i = 0; i < in; ++i) group[place<Lanes>(i) * kWidth] = opened(from[i]);
    } else {
      parted<Lanes>(from, in, 1, to + grouped * lane_width(shape) + (m - grouped) * stepped<Lanes>(in));
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
  const int64_t ahead = kDots * shape.in, grouped = rows_in_lanes(shape);
  const float* from = x + grouped * lane_width(shape) + (m - grouped) * width;
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
      if (m == grouped) __builtin_prefetch(at[r] + ahead, 0, 2);
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

// A chunk of kWidth rows of weights in floats, side by side: rows are often a multiple of 4 kB apart, and then share a
// set of the cache. What is missing of rows and columns is zero.
template <class Lanes>
void open_chunk(const Element<Lanes>* weight, int64_t in, int64_t count, int64_t deep, float* to) {
  for (int64_t n = 0; n < kWidth; ++n, to += kChunk) {
    const Element<Lanes>* from = weight + n * in;
    Element<Lanes> rest[kChunk] = {};
    if (n >= count || deep < kChunk) {
      if (n < count) std::memcpy(rest, from, deep * sizeof(Element<Lanes>));
      from = rest;
    }
    for (int64_t i = 0; i < kChunk; i += Lanes::kStep)
      for (int part = 0; part < Lanes::kParts; ++part) vector(to + i + part * kWidth) = Lanes::part(from + i, part);
  }
}

// Outputs n to n + count of kWidth rows of x, which are the lanes of a vector for each column: kWidth sums at a time.
// Fetches what comes next meanwhile, evenly, as the processor waits when too many are under way.
template <class Lanes>
void lanes_of_rows(const AffineShape& shape, const float* x, const Element<Lanes>* weight, const Element<Lanes>* bias,
                   Element<Lanes>* y, int64_t n, int64_t count, int64_t rows) {
  alignas(64) float chunk[kWidth * kChunk];
  const int64_t in = shape.in;
  constexpr int64_t kLine = 64 / sizeof(Element<Lanes>), kLines = kChunk / kLine;
  Vector sums[kWidth] = {};
  for (int64_t k = 0; k < in; k += kChunk) {
    const int64_t deep = in - k < kChunk ? in - k : kChunk;
    open_chunk<Lanes>(weight + n * in + k, in, count, deep, chunk);
    const Element<Lanes>* next = weight + n * in + (k + kChunk < in ? k + kChunk : kWidth * in);
    Vector held[kWidth];
    for (int j = 0; j < kWidth; ++j) held[j] = sums[j];
    for (int64_t i = 0; i < kChunk; ++i) {
      if (i < kWidth * kLines) __builtin_prefetch(next + i / kLines * in + i % kLines * kLine, 0, 2);
      const Vector right = vector(x + (k + i) * kWidth);
      for (int j = 0; j < kWidth; ++j) held[j] += chunk[j * kChunk + i] * right;
    }
    for (int j = 0; j < kWidth; ++j) sums[j] = held[j];
  }
  const auto* all = reinterpret_cast<const float*>(sums);
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t j = 0; j < count; ++j) finish<Lanes>(all[j * kWidth + m], bias, y + m * shape.out, n + j);
}

template <class Lanes>
void outputs_down(const AffineShape& shape, const float* x, const Element<Lanes>* weight, const Element<Lanes>* bias,
                  Element<Lanes>* y, int64_t begin, int64_t end) {
  const int64_t grouped = rows_in_lanes(shape);
  for (int64_t m = 0; m < grouped; m += kWidth) {
    const int64_t rows = shape.rows - m < kWidth ? shape.rows - m : kWidth;
    for (int64_t n = begin; n < end; n += kWidth) {
      const int64_t count = end - n < kWidth ? end - n : kWidth;
      lanes_of_rows<Lanes>(shape, x + m * lane_width(shape), weight, bias, y + m * shape.out, n, count, rows);
    }
  }
  if (grouped >= shape.rows) return;
  for (int64_t n = begin; n < end; n += kDots) {
    const int64_t count = end - n < kDots ? end - n : kDots;
    int64_t m = grouped;
    for (; m + kTile <= shape.rows; m += kTile) dots<Lanes, kTile>(shape, x, weight, bias, y, n, count, m);
    if constexpr (kTile > 2)
      if (m + 2 <= shape.rows) dots<Lanes, 2>(shape, x, weight, bias, y, n, count, m), m += 2;
    if constexpr (kTile > 1)
      if (m < shape.rows) dots<Lanes, 1>(shape, x, weight, bias, y, n, count, m);
  }
}

constexpr int64_t kSums = 4096;               // floats of a block's sums, which stay in the first-level cache
constexpr int64_t kDeep = 32;                 // rows of weights at a time
constexpr int kHeld = kWidth == 16 ? 16 : 8;  // sums in registers at a time

// Adds `deep` rows of weights, times their numbers of kM rows of x (one under another, `rows` apart), to the sums of
// `n` columns (whole steps): as many columns at a time as the registers have sums for. Each of `passes` over the same
// weights fetches its share of those that come next, evenly, as the processor waits when too many are under way.
template <class Lanes, int kM>
void add_rows(const float* x, int64_t rows, const Element<Lanes>* weight, int64_t out, int64_t deep, float* sums,
              int64_t block, int64_t n, int64_t pass, int64_t passes) {
  constexpr int kMany = kHeld / kM / Lanes::kParts, kSteps = kMany > 0 ? kMany : 1;
  const auto add = [&](auto steps, int64_t i) {
    constexpr int kS = decltype(steps)::value, kV = kS * Lanes::kParts;
    Vector held[kM][kV];
    for (int a = 0; a < kM; ++a)
      for (int v = 0; v < kV; ++v) held[a][v] = vector(sums + a * block + i + v * kWidth);
    for (int64_t k = 0, turn = pass; k < deep; ++k, ++turn) {
      const Element<Lanes>* from = weight + k * out + i;
      if (turn == passes) turn = 0;
      if (turn == 0)
        for (int v = 0; v < kS; ++v) __builtin_prefetch(from + kDeep * out + v * Lanes::kStep, 0, 2);
      for (int v = 0; v < kV; ++v) {
        const Vector right = Lanes::part(from + v / Lanes::kParts * Lanes::kStep, v % Lanes::kParts);
        for (int a = 0; a < kM; ++a) held[a][v] += x[k * rows + a] * right;
      }
    }
    for (int a = 0; a < kM; ++a)
      for (int v = 0; v < kV; ++v) vector(sums + a * block + i + v * kWidth) = held[a][v];
  };
  int64_t i = 0;
  for (; i + kSteps * Lanes::kStep <= n; i += kSteps * Lanes::kStep) add(std::integral_constant<int, kSteps>{}, i);
  if constexpr (kSteps > 1)
    for (; i < n; i += Lanes::kStep) add(std::integral_constant<int, 1>{}, i);
}

// The same for all `rows` of x.
template <class Lanes>
void add_to_all(const float* x, int64_t rows, const Element<Lanes>* weight, int64_t out, int64_t deep, float* sums,
                int64_t block, int64_t n) {
  constexpr int64_t kLargest = kHeld / Lanes::kParts;
  int64_t m = 0, pass = 0;
  const int64_t passes = rows < kLargest ? 1 : rows / kLargest;
  const auto some = [&](auto count) {
    constexpr int kM = decltype(count)::value;
    for (; m + kM <= rows; m += kM, ++pass)
      add_rows<Lanes, kM>(x + m, rows, weight, out, deep, sums + m * block, block, n, pass, passes);
  };
  if constexpr (kLargest >= 16) some(std::integral_constant<int, 16>{});
  if constexpr (kLargest >= 8) some(std::integral_constant<int, 8>{});
  some(std::integral_constant<int, 4>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
}

// x has the numbers of up to kMostRows rows under one another, then those of the next ones.
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
      std::memset(sums, 0, rows * block * sizeof(float));
      for (int64_t k = 0; k < in; k += kDeep) {
        const int64_t deep = in - k < kDeep ? in - k : kDeep;
        const Element<Lanes>* from = weight + k * out + n;
        const float* left = x + first * in + k * rows;
        add_to_all<Lanes>(left, rows, from, out, deep, sums, block, whole);
        if (rest > 0) {
          Element<Lanes> last[kDeep * Lanes::kStep] = {};
          for (int i = 0; i < deep; ++i)
            std::memcpy(last + i * Lanes::kStep, from + i * out + whole, rest * sizeof(Element<Lanes>));
          add_to_all<Lanes>(left, rows, last, Lanes::kStep, deep, sums + whole, block, Lanes::kStep);
        }
      }
      for (int64_t m = 0; m < rows; ++m) {
        const float* sum = sums + m * block;
        Element<Lanes>* to = y + (first + m) * out + n;
        for (int64_t i = 0; i < whole; i += Lanes::kStep) {
          Vector parts[Lanes::kParts];
          for (int part = 0; part < Lanes::kParts; ++part) {
            parts[part] = vector(sum + i + part * kWidth);
            if (bias != nullptr) parts[part] += Lanes::part(bias + n + i, part);
          }
          Lanes::join(parts, to + i);
        }
        for (int64_t i = whole; i < columns; ++i)
          finish<Lanes>(sum[place<Lanes>(i)], bias, y + (first + m) * out, n + i);
      }
    }
  }
}

int64_t packed_size(const AffineShape& shape) {
  if (shape.across) return shape.rows * shape.in;
  const int64_t grouped = rows_in_lanes(shape), rest = shape.rows > grouped ? shape.rows - grouped : 0;
  return grouped * lane_width(shape) + rest * stepped<Half>(shape.in);
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
