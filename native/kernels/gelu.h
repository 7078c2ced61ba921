// GELU by its tanh approximation on the CPU, element by element, forward and backward. The same code (gelu_body.h) is
// compiled for several instruction sets. Half precision is computed in float and rounded once.
#pragma once
#include "kinds.h"

namespace shardloop {

struct GeluKernels {
  // `n` elements of a kind other than f64.
  void (*forward)(const void* x, void* y, int64_t n, Kind kind);
  void (*backward)(const void* gradient, const void* x, void* to, int64_t n, Kind kind);
};

extern const GeluKernels kGeluPlain;
#if defined(__x86_64__)
extern const GeluKernels kGeluAvx2;
extern const GeluKernels kGeluAvx512;
#endif

}  // namespace shardloop
