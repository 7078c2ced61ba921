// Attention of one head over one sequence on the CPU, forward and backward. The same code (attention_body.h) is
// compiled for several instruction sets. Half precision is widened: all products are in float.
#pragma once
#include "kinds.h"

namespace shardloop {

// Rows of one head: `tokens` of them, `row` elements apart, each of `width` elements side by side.
struct HeadRows {
  void* at;
  int64_t row;
};

struct HeadShape {
  int64_t tokens, width;
  float scale;
  bool causal;  // a query sees the keys up to its own place
  Kind kind;
};

struct AttentionKernels {
  // Floats of scratch memory that a call needs.
  int64_t (*scratch)(const HeadShape& shape);
  // Writes the output and each query's logsumexp (tokens).
  void (*forward)(const HeadShape& shape, HeadRows q, HeadRows k, HeadRows v, HeadRows out, float* logsumexp,
                  float* scratch);
  // Writes the gradients of q, k and v.
  void (*backward)(const HeadShape& shape, HeadRows q, HeadRows k, HeadRows v, HeadRows out, HeadRows gradient,
                   const float* logsumexp, HeadRows dq, HeadRows dk, HeadRows dv, float* scratch);
};

extern const AttentionKernels kAttentionPlain;
#if defined(__x86_64__)
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;
#endif

}  // namespace shardloop
