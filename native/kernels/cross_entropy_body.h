// The code of cross_entropy.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
#include <cmath>
#include <limits>

#include "blocks.h"
#include "cross_entropy.h"

namespace shardloop {
namespace {

constexpr int kLanes = 16;  // sums side by side, so that the order is the same whatever the width of a vector

inline double exponential(double x) { return std::exp(x); }

// Within 1 ulp for x <= 0; 0 below the least normal number. x = n log 2 + r, |r| <= log(2)/2; e^r by its series.
inline float exponential(float x) {
  const float bounded = x < -87.3f ? -87.3f : x;  // NaN stays
  constexpr float kRound = 12582912.0f;           // 1.5 2^23: adding it leaves the nearest integer
  const float n = (bounded * 1.44269504f + kRound) - kRound;
  const float r = (bounded - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const auto bits = static_cast<uint32_t>((static_cast<int32_t>(n) + 127) << 23);
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.3f ? 0.0f : p * power;
}

template <class T>
T largest(const T* x, int64_t n) {
  T lanes[kLanes];
  for (T& lane : lanes) lane = -std::numeric_limits<T>::infinity();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  for (; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  for (int j = 1; j < kLanes; ++j) lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
  return lanes[0];
}

template <class T>
double total(const T* x, int64_t n) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += x[i + j];
  for (; i < n; ++i) lanes[0] += x[i];
  double sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

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
