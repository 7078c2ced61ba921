// The cross-entropy kernels for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kCrossEntropyAvx512
#include "cross_entropy_body.h"
#endif
