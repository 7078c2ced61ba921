// y = x W + b for few rows on the CPU, as generation has it: the weights are read once, as fast as memory gives them,
// and all sums are in float. The same code (affine_body.h) is compiled for several instruction sets.
#pragma once
#include <cstdint>

namespace shardloop {

struct AffineShape {
  int64_t rows, in, out;
  bool half;    // bfloat16, else float32
  bool across;  // weights (in, out), else (out, in)
};

struct AffineKernels {
  // Floats that x takes when it is packed, and packing it: rows side by side.
  int64_t (*packed_size)(const AffineShape& shape);
  void (*pack)(const AffineShape& shape, const void* x, float* to);
  // Writes outputs `begin` to `end` of every row. bias may be null; y is (rows, out).
  void (*outputs)(const AffineShape& shape, const float* packed, const void* weight, const void* bias, void* y,
                  int64_t begin, int64_t end);
};

extern const AffineKernels kAffinePlain;
#if defined(__x86_64__)
extern const AffineKernels kAffineAvx2;
extern const AffineKernels kAffineAvx512;
#endif

}  // namespace shardloop
