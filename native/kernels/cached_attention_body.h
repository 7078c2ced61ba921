// The code of cached_attention.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the
// table. As many keys at a time as a vector has lanes, so that their scores are one vector.
#include "cached_attention.h"
#include "lanes.h"
#include "rows.h"

namespace shardloop {
namespace {

template <class Lanes>
using Element = typename Lanes::Element;

int64_t scratch(const CachedShape& shape) {
  return stepped<Half>(shape.width) + (shape.past + shape.tokens + kWidth) / kWidth * kWidth;
}

// Scores of `n` keys, beyond which some more floats are written, up to whole vectors.
template <class Lanes>
void score(const float* query, const Element<Lanes>* keys, int64_t width, int64_t n, float* scores) {
  const int64_t whole = width / Lanes::kStep * Lanes::kStep;
  for (int64_t s = 0; s < n; s += kWidth) {
    const int64_t count = n - s < kWidth ? n - s : kWidth;
    const Element<Lanes>* first = keys + s * width;
    Vector sums[kWidth] = {};
    for (int64_t i = 0; i < whole; i += Lanes::kStep)
      for (int part = 0; part < Lanes::kParts; ++part) {
        const Vector left = vector(query + i + part * kWidth);
        if (count == kWidth)
          for (int j = 0; j < kWidth; ++j) sums[j] += left * Lanes::part(first + j * width + i, part);
        else
          for (int64_t j = 0; j < count; ++j) sums[j] += left * Lanes::part(first + j * width + i, part);
      }
    vector(scores + s) = sums_of(sums);
    for (int64_t i = whole; i < width; ++i)
      for (int64_t j = 0; j < count; ++j) scores[s + j] += query[place<Lanes>(i)] * opened(first[j * width + i]);
  }
}

// Adds kSteps steps of a row of every value, times its weight, and writes the sum times `factor`.
template <class Lanes, int kSteps>
void mix(const float* weights, const Element<Lanes>* values, int64_t width, int64_t n, float factor,
         Element<Lanes>* out) {
  constexpr int kSums = kSteps * Lanes::kParts;
  Vector sums[kSums] = {};
  for (int64_t s = 0; s < n; ++s)
    for (int i = 0; i < kSums; ++i)
      sums[i] += weights[s] * Lanes::part(values + s * width + i / Lanes::kParts * Lanes::kStep, i % Lanes::kParts);
  float floats[kSums * kWidth];
  for (int i = 0; i < kSums; ++i) vector(floats + i * kWidth) = sums[i] * factor;
  for (int64_t i = 0; i < kSteps * Lanes::kStep; ++i) closed(floats[place<Lanes>(i)], out + i);
}

template <class Lanes>
void mixed(const float* weights, const Element<Lanes>* values, int64_t width, int64_t n, float factor,
           Element<Lanes>* out) {
  constexpr int kMany = 4 / Lanes::kParts;
  int64_t i = 0;
  for (; i + kMany * Lanes::kStep <= width; i += kMany * Lanes::kStep)
    mix<Lanes, kMany>(weights, values + i, width, n, factor, out + i);
  for (; i + Lanes::kStep <= width; i += Lanes::kStep) mix<Lanes, 1>(weights, values + i, width, n, factor, out + i);
  for (; i < width; ++i) {
    float sum = 0;
    for (int64_t s = 0; s < n; ++s) sum += weights[s] * opened(values[s * width + i]);
    closed(sum * factor, out + i);
  }
}

template <class Lanes>
void attend_as(const CachedShape& shape, const Element<Lanes>* q, const Element<Lanes>* k, const Element<Lanes>* v,
               Element<Lanes>* keys, Element<Lanes>* values, const bool* mask, Element<Lanes>* out, float* memory) {
  const int64_t width = shape.width, all = shape.past + shape.tokens;
  float* query = memory;
  float* scores = memory + stepped<Half>(width);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    std::memcpy(keys + (shape.past + t) * width, k + t * shape.in_row, width * sizeof(Element<Lanes>));
    std::memcpy(values + (shape.past + t) * width, v + t * shape.in_row, width * sizeof(Element<Lanes>));
  }
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const int64_t n = mask == nullptr ? shape.past + t + 1 : all;
    parted<Lanes>(q + t * shape.in_row, width, shape.scale, query);
    score<Lanes>(query, keys, width, n, scores);
    bool none = mask != nullptr;  // a query that sees no key gives zeros
    if (mask != nullptr)
      for (int64_t s = 0; s < n; ++s) {
        if (mask[t * shape.mask_row + s])
          none = false;
        else
          scores[s] = -std::numeric_limits<float>::infinity();
      }
    const float top = largest(scores, n);
    for (int64_t s = 0; s < n; ++s) scores[s] = none ? 0 : exponential(scores[s] - top);
    const double mass = total(scores, n);
    mixed<Lanes>(scores, values, width, n, none ? 0 : static_cast<float>(1 / mass), out + t * shape.out_row);
  }
}

void attend(const CachedShape& shape, const void* q, const void* k, const void* v, void* keys, void* values,
            const bool* mask, void* out, float* memory) {
  const auto as = [&](auto lanes) {
    using Lanes = decltype(lanes);
    using E = Element<Lanes>;
    attend_as<Lanes>(shape, static_cast<const E*>(q), static_cast<const E*>(k), static_cast<const E*>(v),
                     static_cast<E*>(keys), static_cast<E*>(values), mask, static_cast<E*>(out), memory);
  };
  shape.half ? as(Half{}) : as(Full{});
}

}  // namespace

extern const CachedAttentionKernels SHARDLOOP_KERNELS;
const CachedAttentionKernels SHARDLOOP_KERNELS = {&scratch, &attend};

}  // namespace shardloop
