// The code of optimizer_cpu.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
// Plain loops, which the compiler turns into vectors; conversions of half precision are written out where it would not.
#include <cstring>

#include "optimizer_cpu.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace shardloop {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline float to_float(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// To the nearest, ties to even; NaN stays NaN.
inline Bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded)};
}

inline float to_float(F16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu, fraction = x.bits & 0x3ffu;
  uint32_t bits;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &value, sizeof bits);
  } else if (exponent == 31) {
    bits = 0x7f800000u | (fraction << 13);
  } else {
    bits = ((exponent + 112u) << 23) | (fraction << 13);
  }
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline F16 to_f16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or more
  if (bits < 0x38800000u) {  // below 2^-14: the sum with 0.5 rounds to a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13))};
}

void widen(const Bf16* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}

void narrow(const float* __restrict from, Bf16* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_bf16(from[i]);
}

void widen(const F16* __restrict from, float* __restrict to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
  for (; i < n; ++i) to[i] = to_float(from[i]);
}

void narrow(const float* __restrict from, F16* __restrict to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; ++i) to[i] = to_f16(from[i]);
}

// A block of T as it lies in memory, or a copy of it in `buffer`.
template <class T>
T* opened(void* at, Kind kind, T* buffer, int64_t n) {
  if (at == nullptr || kind == Kind::f64) return static_cast<T*>(at);
  if constexpr (sizeof(T) == sizeof(double)) {
    if (kind == Kind::f32) {
      for (int64_t i = 0; i < n; ++i) buffer[i] = static_cast<const float*>(at)[i];
    } else {
      float floats[kBlock];
      if (kind == Kind::bf16)
        widen(static_cast<const Bf16*>(at), floats, n);
      else
        widen(static_cast<const F16*>(at), floats, n);
      for (int64_t i = 0; i < n; ++i) buffer[i] = floats[i];
    }
  } else {
    if (kind == Kind::f32) return static_cast<T*>(at);
    if (kind == Kind::bf16)
      widen(static_cast<const Bf16*>(at), buffer, n);
    else
      widen(static_cast<const F16*>(at), buffer, n);
  }
  return buffer;
}

void written(const float* from, void* to, Kind kind, int64_t n) {
  if (to == nullptr || from == to) return;
  if (kind == Kind::bf16)
    narrow(from, static_cast<Bf16*>(to), n);
  else
    narrow(from, static_cast<F16*>(to), n);
}

// One loop for each number of states, so that none is written that is not there.
template <class T, class RuleOf>
void loop(const RuleOf rule, T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v, int64_t n,
          int states) {
  if (states == 2) {
    for (int64_t i = 0; i < n; ++i) rule(p[i], g[i], m[i], v[i]);
  } else if (states == 1) {
    for (int64_t i = 0; i < n; ++i) {
      T none = 0;
      rule(p[i], g[i], m[i], none);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      T none = 0, nothing = 0;
      rule(p[i], g[i], none, nothing);
    }
  }
}

template <class T>
void apply(const Settings& s, T* p, const T* g, T* m, T* v, int64_t n) {
  switch (s.rule) {
    case Rule::adamw: return loop(AdamwRule<T>(s), p, g, m, v, n, 2);
    case Rule::lion: return loop(LionRule<T>(s), p, g, m, v, n, 1);
    case Rule::sgd:
      return s.states == 1 ? loop(SgdRule<T, true>(s), p, g, m, v, n, 1) : loop(SgdRule<T, false>(s), p, g, m, v, n, 0);
  }
}

void step(const BlockPointers& at, int64_t n, const Kinds& kinds, const Settings& settings) {
  if (kinds.master == Kind::f64) {
    alignas(64) double gradient[kBlock];
    const double* g = opened(const_cast<void*>(at.gradient), kinds.gradient, gradient, n);
    return apply(settings, static_cast<double*>(at.master), g, static_cast<double*>(at.states[0]),
                 static_cast<double*>(at.states[1]), n);
  }
  alignas(64) float buffers[4][kBlock];
  const float* g = opened(const_cast<void*>(at.gradient), kinds.gradient, buffers[0], n);
  float* p = opened(at.master, kinds.master, buffers[1], n);
  float* m = opened(at.states[0], kinds.master, buffers[2], n);
  float* v = opened(at.states[1], kinds.master, buffers[3], n);
  apply(settings, p, g, m, v, n);
  written(p, at.master, kinds.master, n);
  written(m, at.states[0], kinds.master, n);
  written(v, at.states[1], kinds.master, n);
  written(p, at.parameter, kinds.parameter, n);
}

// Sixteen sums side by side, so that the order is the same whatever the width of a vector.
template <class T>
double squares_of(const T* values, int64_t n) {
  double sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) {
      const double x = values[i + j];
      sums[j] += x * x;
    }
  }
  for (int j = 0; i < n; ++i, ++j) {
    const double x = values[i];
    sums[j] += x * x;
  }
  for (int width = 8; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
  return sums[0];
}

double squares(const void* values, int64_t n, Kind kind) {
  if (kind == Kind::f64) return squares_of(static_cast<const double*>(values), n);
  if (kind == Kind::f32) return squares_of(static_cast<const float*>(values), n);
  double sum = 0;
  alignas(64) float buffer[kBlock];
  for (int64_t from = 0; from < n; from += kBlock) {
    const int64_t count = n - from < kBlock ? n - from : kBlock;
    if (kind == Kind::bf16)
      widen(static_cast<const Bf16*>(values) + from, buffer, count);
    else
      widen(static_cast<const F16*>(values) + from, buffer, count);
    sum += squares_of(buffer, count);
  }
  return sum;
}

}  // namespace

extern const CpuKernels SHARDLOOP_KERNELS;
const CpuKernels SHARDLOOP_KERNELS = {SHARDLOOP_KERNELS_NAME, &step, &squares};

}  // namespace shardloop
