// The affine kernels for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kAffineAvx512
#include "affine_body.h"
#endif
