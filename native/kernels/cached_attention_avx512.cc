// The kernels of attention to a cache for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kCachedAttentionAvx512
#include "cached_attention_body.h"
#endif
