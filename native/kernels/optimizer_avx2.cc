// The optimizer kernels for AVX2.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kOptimizerAvx2
#include "optimizer_cpu_body.h"
#endif
