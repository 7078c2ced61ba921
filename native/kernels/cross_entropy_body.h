// The code of cross_entropy.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
#include <cmath>
#include <limits>

#include "blocks.h"
#include "cross_entropy.h"
#include "rows.h"

namespace shardloop {
namespace {

template <class T>
RowSums sums_of(const void* logits, int64_t n, Kind kind, int64_t bytes) {
  alignas(64) T buffer[kBlock], powers[kBlock];
  T top = -std::numeric_limits<T>::infinity();  // of the blocks so far; `mass` is the sum of e^(x - top)
  double mass = 0, sum = 0;
  for (int64_t from = 0; from < n; from += kBlock) {
    const int64_t count = n - from < kBlock ? n - from : kBlock;
    const T* x = opened(const_cast<char*>(static_cast<const char*>(logits)) + from * bytes, kind, buffer, count);
    const T highest = largest(x, count);
    if (highest > top) {
      mass *= std::exp(static_cast<double>(top) - static_cast<double>(highest));
      top = highest;
    }
    for (int64_t i = 0; i < count; ++i) powers[i] = exponential(x[i] - top);
    mass += total(powers, count);
    sum += total(x, count);
  }
  return {static_cast<double>(top) + std::log(mass), sum};
}

RowSums sums(const void* logits, int64_t n, Kind kind) {
  if (kind == Kind::f64) return sums_of<double>(logits, n, kind, 8);
  return sums_of<float>(logits, n, kind, kind == Kind::f32 ? 4 : 2);
}

template <class T>
void gradient_of(const void* logits, void* to, int64_t n, Kind kind, int64_t bytes, const RowGradient& row) {
  alignas(64) T buffer[kBlock], gradient[kBlock];
  const T logsumexp = static_cast<T>(row.logsumexp), scale = static_cast<T>(row.scale), even = static_cast<T>(row.even);
  for (int64_t from = 0; from < n; from += kBlock) {
    const int64_t count = n - from < kBlock ? n - from : kBlock;
    const T* x = opened(const_cast<char*>(static_cast<const char*>(logits)) + from * bytes, kind, buffer, count);
    for (int64_t i = 0; i < count; ++i) gradient[i] = scale * exponential(x[i] - logsumexp) - even;
    if (row.label >= from && row.label < from + count) gradient[row.label - from] -= static_cast<T>(row.one);
    char* place = static_cast<char*>(to) + from * bytes;
    if constexpr (sizeof(T) == sizeof(double)) {
      std::memcpy(place, gradient, count * sizeof(T));
    } else if (kind == Kind::f32) {
      std::memcpy(place, gradient, count * sizeof(T));
    } else {
      written(gradient, place, kind, count);
    }
  }
}

void gradient(const void* logits, void* to, int64_t n, Kind kind, const RowGradient& row) {
  if (kind == Kind::f64) return gradient_of<double>(logits, to, n, kind, 8, row);
  gradient_of<float>(logits, to, n, kind, kind == Kind::f32 ? 4 : 2, row);
}

}  // namespace

extern const CrossEntropyKernels SHARDLOOP_KERNELS;
const CrossEntropyKernels SHARDLOOP_KERNELS = {&sums, &gradient};

}  // namespace shardloop
