// Vectors of floats, and rows of float or bfloat16 opened into them without a copy: a vector of bfloat16 pairs is two
// of floats, its even and its odd elements. As with blocks.h all of it is local to the file that includes it.
#pragma once
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace shardloop {
namespace {

typedef uint32_t Bits __attribute__((vector_size(kWidth * sizeof(float)), aligned(2), may_alias));
typedef int32_t Places __attribute__((vector_size(kWidth * sizeof(float))));

inline Vector& vector(float* at) { return *reinterpret_cast<Vector*>(at); }
inline const Vector& vector(const float* at) { return *reinterpret_cast<const Vector*>(at); }

// A step along a row: kStep elements, which are kParts vectors.
struct Full {
  using Element = float;
  static constexpr int kParts = 1, kStep = kWidth;
  static Vector part(const Element* at, int) { return vector(at); }
  static void join(const Vector* parts, Element* to) { vector(to) = parts[0]; }
};

struct Half {
  using Element = uint16_t;  // the bits of a bfloat16
  static constexpr int kParts = 2, kStep = 2 * kWidth;
  static Vector part(const Element* at, int i) {
    const Bits bits = *reinterpret_cast<const Bits*>(at);
    const Bits high = i == 0 ? bits << 16 : bits & 0xffff0000u;  // little-endian: even elements are the low halves
    return reinterpret_cast<Vector>(high);
  }
  // As `closed` does it.
  static void join(const Vector* parts, Element* to) {
    const Bits even = rounded(parts[0]) >> 16, odd = rounded(parts[1]) & 0xffff0000u;
    *reinterpret_cast<Bits*>(to) = even | odd;
  }

 private:
  static Bits rounded(Vector x) {
    const Bits bits = reinterpret_cast<Bits>(x);
    const Bits near = bits + 0x7fffu + ((bits >> 16) & 1u);
    const auto number = reinterpret_cast<Bits>(x == x);  // all ones; zeros where it is NaN
    return (near & number) | (0x7fc00000u & ~number);
  }
};

inline float opened(float x) { return x; }
inline float opened(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void closed(float x, float* to) { *to = x; }
// To the nearest, ties to even; NaN stays NaN.
inline void closed(float x, uint16_t* to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  *to = static_cast<uint16_t>(x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

template <class Lanes>
int64_t stepped(int64_t n) {
  return (n + Lanes::kStep - 1) / Lanes::kStep * Lanes::kStep;
}

// Where element i of a row stands when its steps lie as their parts do.
template <class Lanes>
int64_t place(int64_t i) {
  if constexpr (Lanes::kParts == 1) return i;
  return i / Lanes::kStep * Lanes::kStep + i % 2 * kWidth + i % Lanes::kStep / 2;
}

// A row in floats, parted, with zeros up to a whole step.
template <class Lanes>
void parted(const typename Lanes::Element* from, int64_t n, float factor, float* to) {
  for (int64_t i = 0; i < n; ++i) to[place<Lanes>(i)] = opened(from[i]) * factor;
  for (int64_t i = n; i < stepped<Lanes>(n); ++i) to[place<Lanes>(i)] = 0;
}

// The sums over each of kWidth vectors: lane j of the result is that of v[j].
template <int kHalf = kWidth / 2>
Vector sums_of(Vector* v) {
  Places mine{}, other{};
  for (int j = 0; j < kWidth; ++j) {
    mine[j] = (j & kHalf) ? kWidth + j : j;
    other[j] = (j & kHalf) ? kWidth + j - kHalf : j + kHalf;
  }
  for (int i = 0; i < kHalf; ++i)
    v[i] = __builtin_shuffle(v[i], v[i + kHalf], mine) + __builtin_shuffle(v[i], v[i + kHalf], other);
  if constexpr (kHalf > 1) return sums_of<kHalf / 2>(v);
  return v[0];
}

}  // namespace
}  // namespace shardloop
