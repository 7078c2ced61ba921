// The attention kernels for AVX-512.
#if defined(__x86_64__)
#define SHARDLOOP_KERNELS kAttentionAvx512
#include "attention_body.h"
#endif
