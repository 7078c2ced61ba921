// The 'nccl' backend of process_group.h: libtorch's ProcessGroupNCCL, kept from ending the process by itself. This file
// also holds the one symbol of libshardloop_cuda.so that the addon looks up.
#include <c10/cuda/CUDAGuard.h>

#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "cuda_library.h"

namespace shardloop {
namespace {

BackendPtr create_nccl(const BackendArguments& arguments) {
  const c10::Device device(arguments.device);
  TORCH_CHECK(device.is_cuda() && device.has_index(), "backend 'nccl' needs a device such as cuda:0, received ",
              device);
  c10::cuda::CUDAGuard guard(device);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = arguments.timeout;
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(arguments.store, arguments.rank, arguments.size, options);
  // One rank, one device: barriers and the like need not guess it from the rank.
  group->setBoundDeviceId(device);
  return group;
}

// The defaults of libtorch abort the process when a collective times out, from its watchdog or its monitor. Deadlines
// are ours (process_group.cc); whoever sets these variables knows better and is left alone.
void tame_watchdog() {
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);  // NoHandling
  setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 0);
  setenv("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0", 0);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const CudaTable* shardloop_cuda_table() {
  static const CudaTable table{{&create_nccl, true}};
  tame_watchdog();
  return &table;
}

}  // namespace shardloop
