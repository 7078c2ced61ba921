// The optimizer kernels for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kOptimizerAvx512
#include "optimizer_cpu_body.h"
#endif
