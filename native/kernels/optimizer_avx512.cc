// The optimizer kernels for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kOptimizerAvx512
#define SHARDLOOP_KERNELS_NAME "avx512"
#include "optimizer_cpu_body.h"
#endif
