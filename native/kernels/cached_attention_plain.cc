// The kernels of attention to a cache for any processor.
#define SHARDLOOP_KERNELS kCachedAttentionPlain
#include "cached_attention_body.h"
