// The code of attention.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
//
// A few queries at a time see all their keys at once: scores (queries, keys) fit into the second-level cache up to some
// thousands of keys, so the softmax needs no running maximum. Keys and values are widened, and transposed where a
// product wants them so, once a head. Rows are padded with zeros to whole vectors.
#include "attention.h"
#include "blocks.h"
#include "products.h"
#include "rows.h"

namespace shardloop {
namespace {

constexpr int64_t kQueries =
    24;  // of a block: a multiple of a tile's rows; more would compute more that causality hides

int64_t padded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

// `width` elements of row `i`, in float, times `factor`; zeros up to `to`'s end.
void widened(const HeadRows& rows, int64_t i, const HeadShape& shape, float factor, float* to) {
  const int64_t n = shape.width;
  if (shape.kind == Kind::f32)
    std::memcpy(to, static_cast<const float*>(rows.at) + i * rows.row, n * sizeof(float));
  else if (shape.kind == Kind::bf16)
    widen(static_cast<const Bf16*>(rows.at) + i * rows.row, to, n);
  else
    widen(static_cast<const F16*>(rows.at) + i * rows.row, to, n);
  for (int64_t j = n; j < padded(n); ++j) to[j] = 0;
  if (factor != 1)
    for (int64_t j = 0; j < n; ++j) to[j] *= factor;
}

void narrowed(const float* from, float factor, const HeadRows& rows, int64_t i, const HeadShape& shape) {
  alignas(64) float scaled[kBlock];
  for (int64_t start = 0; start < shape.width; start += kBlock) {
    const int64_t n = shape.width - start < kBlock ? shape.width - start : kBlock;
    for (int64_t j = 0; j < n; ++j) scaled[j] = from[start + j] * factor;
    const int64_t at = i * rows.row + start;
    if (shape.kind == Kind::f32)
      std::memcpy(static_cast<float*>(rows.at) + at, scaled, n * sizeof(float));
    else if (shape.kind == Kind::bf16)
      narrow(scaled, static_cast<Bf16*>(rows.at) + at, n);
    else
      narrow(scaled, static_cast<F16*>(rows.at) + at, n);
  }
}

// All rows of a head, (tokens, padded width).
void widened_head(const HeadRows& rows, const HeadShape& shape, float* to) {
  for (int64_t i = 0; i < shape.tokens; ++i) widened(rows, i, shape, 1, to + i * padded(shape.width));
}

// (tokens, padded width) -> (width, padded tokens).
void transposed(const float* from, const HeadShape& shape, float* to) {
  constexpr int64_t kPatch = 16;
  const int64_t wide = padded(shape.width), length = padded(shape.tokens);
  for (int64_t i = 0; i < length; i += kPatch) {
    for (int64_t j = 0; j < shape.width; ++j) {
      float* row = to + j * length;
      for (int64_t t = i; t < i + kPatch && t < length; ++t) row[t] = t < shape.tokens ? from[t * wide + j] : 0;
    }
  }
}

// Where the parts of the scratch memory begin.
class Scratch {
 public:
  explicit Scratch(float* at) : at_(at) {}
  float* take(int64_t n) {
    float* part = at_;
    at_ += n;
    return part;
  }

 private:
  float* at_;
};

int64_t scratch(const HeadShape& shape) {
  const int64_t head = padded(shape.tokens) * padded(shape.width);
  return 6 * head + kQueries * (2 * padded(shape.tokens) + 4 * padded(shape.width));
}

int64_t keys_of(const HeadShape& shape, int64_t query) { return shape.causal ? query + 1 : shape.tokens; }

void forward(const HeadShape& shape, HeadRows q, HeadRows k, HeadRows v, HeadRows out, float* logsumexp,
             float* memory) {
  const int64_t wide = padded(shape.width), length = padded(shape.tokens);
  Scratch parts(memory);
  float* values = parts.take(length * wide);
  float* keys = parts.take(length * wide);
  float* keys_t = parts.take(length * wide);
  float* scores = parts.take(kQueries * length);
  float* queries = parts.take(kQueries * wide);
  float* sums = parts.take(kQueries * wide);
  widened_head(k, shape, keys);
  transposed(keys, shape, keys_t);
  widened_head(v, shape, values);
  for (int64_t first = 0; first < shape.tokens; first += kQueries) {
    const int64_t m = shape.tokens - first < kQueries ? shape.tokens - first : kQueries;
    const int64_t n = keys_of(shape, first + m - 1);
    for (int64_t i = 0; i < m; ++i) widened(q, first + i, shape, shape.scale, queries + i * wide);
    product({queries, wide, 1}, keys_t, length, scores, length, m, padded(n), shape.width, false);
    float inverse[kQueries];
    for (int64_t i = 0; i < m; ++i) {
      float* row = scores + i * length;
      const int64_t seen = keys_of(shape, first + i);
      const float top = largest(row, seen);
      for (int64_t j = 0; j < seen; ++j) row[j] = exponential(row[j] - top);
      for (int64_t j = seen; j < n; ++j) row[j] = 0;
      const double mass = total(row, seen);
      inverse[i] = static_cast<float>(1 / mass);
      logsumexp[first + i] = top + static_cast<float>(std::log(mass));
    }
    product({scores, length, 1}, values, wide, sums, wide, m, wide, n, false);
    for (int64_t i = 0; i < m; ++i) narrowed(sums + i * wide, inverse[i], out, first + i, shape);
  }
}

void backward(const HeadShape& shape, HeadRows q, HeadRows k, HeadRows v, HeadRows out, HeadRows gradient,
              const float* logsumexp, HeadRows dq, HeadRows dk, HeadRows dv, float* memory) {
  const int64_t wide = padded(shape.width), length = padded(shape.tokens);
  Scratch parts(memory);
  float* keys = parts.take(length * wide);
  float* keys_t = parts.take(length * wide);
  float* values_t = parts.take(length * wide);
  float* key_sums = parts.take(length * wide);
  float* value_sums = parts.take(length * wide);
  float* weights = parts.take(kQueries * length);
  float* slopes = parts.take(kQueries * length);
  float* queries = parts.take(kQueries * wide);
  float* gradients = parts.take(kQueries * wide);
  float* outputs = parts.take(kQueries * wide);
  widened_head(v, shape, keys);  // for a moment
  transposed(keys, shape, values_t);
  widened_head(k, shape, keys);
  transposed(keys, shape, keys_t);
  std::memset(key_sums, 0, length * wide * sizeof(float));
  std::memset(value_sums, 0, length * wide * sizeof(float));
  for (int64_t first = 0; first < shape.tokens; first += kQueries) {
    const int64_t m = shape.tokens - first < kQueries ? shape.tokens - first : kQueries;
    const int64_t n = keys_of(shape, first + m - 1);
    for (int64_t i = 0; i < m; ++i) {
      widened(q, first + i, shape, shape.scale, queries + i * wide);
      widened(gradient, first + i, shape, 1, gradients + i * wide);
      widened(out, first + i, shape, 1, outputs + i * wide);
    }
    product({queries, wide, 1}, keys_t, length, weights, length, m, padded(n), shape.width, false);
    product({gradients, wide, 1}, values_t, length, slopes, length, m, padded(n), shape.width, false);
    for (int64_t i = 0; i < m; ++i) {
      float* weight = weights + i * length;
      float* slope = slopes + i * length;
      const int64_t seen = keys_of(shape, first + i);
      float mean = 0;  // of the slopes under the weights
      for (int64_t j = 0; j < wide; ++j) mean += gradients[i * wide + j] * outputs[i * wide + j];
      const float sum = logsumexp[first + i];
      for (int64_t j = 0; j < seen; ++j) {
        weight[j] = exponential(weight[j] - sum);
        slope[j] = weight[j] * (slope[j] - mean);
      }
      for (int64_t j = seen; j < n; ++j) weight[j] = slope[j] = 0;
    }
    product({weights, 1, length}, gradients, wide, value_sums, wide, n, wide, m, true);
    product({slopes, 1, length}, queries, wide, key_sums, wide, n, wide, m, true);
    product({slopes, length, 1}, keys, wide, outputs, wide, m, wide, n, false);
    for (int64_t i = 0; i < m; ++i) narrowed(outputs + i * wide, shape.scale, dq, first + i, shape);
  }
  for (int64_t i = 0; i < shape.tokens; ++i) {
    narrowed(key_sums + i * wide, 1, dk, i, shape);
    narrowed(value_sums + i * wide, 1, dv, i, shape);
  }
}

}  // namespace

extern const AttentionKernels SHARDLOOP_KERNELS;
const AttentionKernels SHARDLOOP_KERNELS = {&scratch, &forward, &backward};

}  // namespace shardloop
