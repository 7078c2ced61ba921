// The optimizer kernels for any processor.
#define SHARDLOOP_KERNELS kOptimizerPlain
#include "optimizer_cpu_body.h"
