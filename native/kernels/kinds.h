// What the kernels of this folder know of a tensor's dtype. No header of ATen: code that is compiled for AVX-512 must
// not leave behind inline functions that the linker could take for everybody.
#pragma once
#include <cstdint>

namespace shardloop {

// What the elements of a tensor are.
enum class Kind : uint8_t { none, f64, f32, bf16, f16 };

// Elements that a kernel takes at once (blocks.h).
constexpr int64_t kBlock = 1024;

}  // namespace shardloop
