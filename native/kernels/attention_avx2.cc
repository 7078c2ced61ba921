// The attention kernels for AVX2.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kAttentionAvx2
#include "attention_body.h"
#endif
