// Attention of a few new positions of one head to all that its cache holds, on the CPU. The same code
// (cached_attention_body.h) is compiled for several instruction sets. All sums are in float.
#pragma once
#include <cstdint>

namespace shardloop {

struct CachedShape {
  int64_t tokens, width;    // new positions; elements of a head
  int64_t past;             // positions that the cache holds before them
  int64_t in_row, out_row;  // elements from one new position to the next, in q, k and v, and in the output
  int64_t mask_row;         // from one query's mask to the next
  float scale;
  bool half;  // bfloat16, else float32
};

struct CachedAttentionKernels {
  // Floats of scratch memory that a call needs.
  int64_t (*scratch)(const CachedShape& shape);
  // Writes k and v behind the past positions of the head's cache, rows side by side, and the output of every query.
  // mask says which of the past and new positions a query sees; null: those up to its own.
  void (*attend)(const CachedShape& shape, const void* q, const void* k, const void* v, void* keys, void* values,
                 const bool* mask, void* out, float* scratch);
};

extern const CachedAttentionKernels kCachedAttentionPlain;
#if defined(__x86_64__)
extern const CachedAttentionKernels kCachedAttentionAvx2;
extern const CachedAttentionKernels kCachedAttentionAvx512;
#endif

}  // namespace shardloop
