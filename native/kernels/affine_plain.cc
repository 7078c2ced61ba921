// The affine kernels for any processor.
#define SHARDLOOP_KERNELS kAffinePlain
#include "affine_body.h"
