// The update rules of the optimizer ops, element by element, for the CPU and CUDA kernels alike. Multiplications,
// additions, square roots and divisions in this order, each rounded by itself: lib/optim composes the same of ATen's
// ops, and the tests compare bit for bit. So these files are compiled without contraction (CMakeLists.txt).
#pragma once
#include <cmath>

#include "kinds.h"

#ifdef __CUDACC__
#define SHARDLOOP_EACH __host__ __device__ __forceinline__
#else
#define SHARDLOOP_EACH inline
#endif

namespace shardloop {

// One list is of one dtype each; the states have that of the masters.
struct Kinds {
  Kind master, parameter, gradient;
};

enum class Rule : uint8_t { adamw, sgd, lion };

// What a rule needs beside the tensors; in double, rounded once to the dtype that is computed in.
struct Settings {
  Rule rule;
  int states;        // state tensors of a parameter: 2 for adamw, 1 for lion, 0 or 1 for sgd
  double scale = 1;  // on the gradient
  double lr = 0;     // adamw: over the first moment's bias correction
  double keep = 1;   // 1 - lr * weight decay
  double beta1 = 0, beta2 = 0;
  double root = 1;  // adamw: one over the root of the second moment's bias correction
  double eps = 0;
  double momentum = 0, decay = 0;  // sgd
  bool nesterov = false;
};

template <class T>
struct AdamwRule {
  T scale, keep, beta1, fresh1, beta2, fresh2, root, eps, lr;
  explicit AdamwRule(const Settings& s)
      : scale(static_cast<T>(s.scale)),
        keep(static_cast<T>(s.keep)),
        beta1(static_cast<T>(s.beta1)),
        fresh1(static_cast<T>(1 - s.beta1)),
        beta2(static_cast<T>(s.beta2)),
        fresh2(static_cast<T>(1 - s.beta2)),
        root(static_cast<T>(s.root)),
        eps(static_cast<T>(s.eps)),
        lr(static_cast<T>(s.lr)) {}
  SHARDLOOP_EACH void operator()(T& p, T g, T& m, T& v) const {
    g = g * scale;
    m = m * beta1 + g * fresh1;
    v = v * beta2 + (g * g) * fresh2;
    const T denominator = std::sqrt(v) * root + eps;
    p = p * keep - (m / denominator) * lr;
  }
};

// Without momentum m is not there, and neither read nor written by the callers.
template <class T, bool kMomentum>
struct SgdRule {
  T scale, lr, momentum, decay;
  bool decays, nesterov;
  explicit SgdRule(const Settings& s)
      : scale(static_cast<T>(s.scale)),
        lr(static_cast<T>(s.lr)),
        momentum(static_cast<T>(s.momentum)),
        decay(static_cast<T>(s.decay)),
        decays(s.decay != 0),
        nesterov(s.nesterov) {}
  SHARDLOOP_EACH void operator()(T& p, T g, T& m, T&) const {
    g = g * scale;
    if (decays) g = g + p * decay;
    if constexpr (kMomentum) {
      m = m * momentum + g;
      g = nesterov ? g + m * momentum : m;
    }
    p = p - g * lr;
  }
};

template <class T>
struct LionRule {
  T scale, keep, beta1, fresh1, beta2, fresh2, lr;
  explicit LionRule(const Settings& s)
      : scale(static_cast<T>(s.scale)),
        keep(static_cast<T>(s.keep)),
        beta1(static_cast<T>(s.beta1)),
        fresh1(static_cast<T>(1 - s.beta1)),
        beta2(static_cast<T>(s.beta2)),
        fresh2(static_cast<T>(1 - s.beta2)),
        lr(static_cast<T>(s.lr)) {}
  SHARDLOOP_EACH void operator()(T& p, T g, T& m, T&) const {
    g = g * scale;
    const T direction = m * beta1 + g * fresh1;
    // The sign of NaN is 0, as ATen has it; the NaN stays in m.
    const T sign = static_cast<T>(direction > T(0)) - static_cast<T>(direction < T(0));
    p = p * keep - sign * lr;
    m = m * beta2 + g * fresh2;
  }
};

}  // namespace shardloop
