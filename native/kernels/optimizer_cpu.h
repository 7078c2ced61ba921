// One block of an optimizer step on the CPU. The same code (optimizer_cpu_body.h) is compiled for several instruction
// sets; optimizer_ops.cc picks by what the processor has. No header of ATen: code that is compiled for AVX-512 must not
// leave behind inline functions that the linker could take for everybody.
#pragma once
#include <cstdint>

#include "optimizer_rules.h"

namespace shardloop {

// Elements of a block. Conversions go through buffers of this size on the stack, in the first-level cache, so that a
// step is one pass over memory whatever the dtypes.
constexpr int64_t kBlock = 1024;

// Where a block begins in each tensor; null where the list is empty.
struct BlockPointers {
  void* master;
  void* parameter;  // receives the master, rounded
  const void* gradient;
  void* states[2];
};

struct CpuKernels {
  const char* name;
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
