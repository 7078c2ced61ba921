// The optimizer kernels for any processor.
#define SHARDLOOP_KERNELS kOptimizerPlain
#define SHARDLOOP_KERNELS_NAME "plain"
#include "optimizer_cpu_body.h"
