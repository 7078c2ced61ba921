// Rows of a cross-entropy on the CPU. The same code (cross_entropy_body.h) is compiled for several instruction sets.
// Half precision is computed in float, sums over blocks in double.
#pragma once
#include "kinds.h"

namespace shardloop {

struct RowSums {
  double logsumexp;
  double sum;  // of the logits
};

// What a row's gradient is made of: scale * softmax - even, and at the label a further -one.
struct RowGradient {
  double logsumexp, scale, even, one;
  int64_t label;
};

struct CrossEntropyKernels {
  // Of `n` logits, 1 or more. NaN where one of them is, or where none is finite.
  RowSums (*sums)(const void* logits, int64_t n, Kind kind);
  // Writes `n` elements of the logits' kind.
  void (*gradient)(const void* logits, void* to, int64_t n, Kind kind, const RowGradient& row);
};

extern const CrossEntropyKernels kCrossEntropyPlain;
#if defined(__x86_64__)
extern const CrossEntropyKernels kCrossEntropyAvx2;
extern const CrossEntropyKernels kCrossEntropyAvx512;
#endif

}  // namespace shardloop
