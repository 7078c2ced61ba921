// Which of the kernels that are compiled for several instruction sets (kernels/) this processor runs.
#pragma once

namespace shardloop {

enum class CpuLevel { plain, avx2, avx512 };

// The best that the processor has, unless a test chose another one.
CpuLevel cpu_level();

// Whether float32 is multiplied faster than half precision, so that products of halves are better computed in float32:
// on x86 without AMX, unless an AMD processor has avx512_bf16 (docs/log/2026-11-28-training.md has the
// measurements).
bool widens_products();

template <class Kernels>
const Kernels& best_of(const Kernels& plain, const Kernels& avx2, const Kernels& avx512) {
  switch (cpu_level()) {
    case CpuLevel::avx512: return avx512;
    case CpuLevel::avx2: return avx2;
    default: return plain;
  }
}

}  // namespace shardloop
