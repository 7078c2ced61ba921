// What kernels compute over a row of numbers: exponentials, the largest, the sum. As with blocks.h all of it is local
// to the file that includes it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

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

}  // namespace
}  // namespace shardloop
