// How the values of several ranks become one, for memory that all of them see; what shm_backend.cc adds up with.
#pragma once
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <torch/csrc/distributed/c10d/Types.hpp>

namespace shardloop {

// out[i] = sources[0][i] op sources[1][i] op ..., in this order on every rank, so that all of them get the same bits.
// `out` may be one of the sources. float16 and bfloat16 are added up in float32 and rounded once; `average` divides.
using Reduction = void (*)(void* out, const void* const* sources, int count, size_t elements, bool average);

// Null for a dtype or an operation that is not reduced here. AVG is SUM with `average`, of floating-point numbers only.
Reduction find_reduction(at::ScalarType dtype, c10d::ReduceOp::RedOpType op);

}  // namespace shardloop
