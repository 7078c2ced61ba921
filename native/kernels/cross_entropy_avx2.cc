// The cross-entropy kernels for AVX2.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kCrossEntropyAvx2
#include "cross_entropy_body.h"
#endif
