// One block of an optimizer step on the CPU. The same code (optimizer_cpu_body.h) is compiled for several instruction
// sets; cpu_level.h picks by what the processor has.
#pragma once
#include <cstdint>

#include "optimizer_rules.h"

namespace shardloop {

// Where a block begins in each tensor; null where the list is empty.
struct BlockPointers {
  void* master;
  void* parameter;  // receives the master, rounded
  const void* gradient;
  void* states[2];
};

struct CpuKernels {
  // `n` of at most kBlock.
  void (*step)(const BlockPointers& at, int64_t n, const Kinds& kinds, const Settings& settings);
  // The sum of the squares of `n` elements, in double. Not finite if an element is not (or, for f64, beyond its range).
  double (*squares)(const void* values, int64_t n, Kind kind);
};

extern const CpuKernels kOptimizerPlain;
#if defined(__x86_64__)
extern const CpuKernels kOptimizerAvx2;
extern const CpuKernels kOptimizerAvx512;
#endif

}  // namespace shardloop
