// The GELU kernels for AVX2.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kGeluAvx2
#include "gelu_body.h"
#endif
