// The attention kernels for any processor.
#define SHARDLOOP_KERNELS kAttentionPlain
#include "attention_body.h"
