// The door between the addon and libshardloop_cuda.so: what that library hands over, and when it is loaded.
#pragma once
#include "process_group.h"

namespace shardloop {

// What libshardloop_cuda.so returns from `shardloop_cuda_table`. Its operators register themselves with libtorch.
struct CudaTable {
  BackendFactory nccl;
};

// Loads libshardloop_cuda.so from beside the addon, once a process, where that file and a CUDA driver are. To be called
// before libtorch is asked anything about CUDA: it remembers the first answer.
void load_cuda_library();

}  // namespace shardloop
