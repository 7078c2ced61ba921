// The cross-entropy kernels for any processor.
#define SHARDLOOP_KERNELS kCrossEntropyPlain
#include "cross_entropy_body.h"
