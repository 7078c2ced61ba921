// The affine kernels for AVX2.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kAffineAvx2
#include "affine_body.h"
#endif
