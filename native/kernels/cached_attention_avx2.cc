// The kernels of attention to a cache for AVX2.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kCachedAttentionAvx2
#include "cached_attention_body.h"
#endif
