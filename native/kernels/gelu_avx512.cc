// The GELU kernels for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kGeluAvx512
#include "gelu_body.h"
#endif
