// Blocks of a tensor's elements in the dtype that is computed in: conversions of half precision, through buffers on the
// stack, in the first-level cache, so that a kernel is one pass over memory whatever the dtypes. For the files that are
// compiled for several instruction sets: all of it is local to the file that includes it. Conversions are written out
// where the compiler makes no vectors of them.
#pragma once
#include <cstdint>
#include <cstring>

#include "kinds.h"
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

}  // namespace
}  // namespace shardloop
