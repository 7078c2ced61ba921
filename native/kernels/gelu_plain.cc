// The GELU kernels for any processor.
#define SHARDLOOP_KERNELS kGeluPlain
#include "gelu_body.h"
