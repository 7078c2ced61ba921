// The code of optimizer_cpu.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
// Plain loops, which the compiler turns into vectors.
#include "blocks.h"
#include "optimizer_cpu.h"

namespace shardloop {
namespace {

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
const CpuKernels SHARDLOOP_KERNELS = {&step, &squares};

}  // namespace shardloop
