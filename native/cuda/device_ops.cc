// Operators about CUDA devices: which there are, what they hold, waiting for them, their random state. The computing
// itself is libtorch's; the CPU's counterparts are native/device.cc.
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <mutex>
#include <tuple>

namespace shardloop {
namespace {

c10::DeviceIndex checked(int64_t device) {
  const auto count = c10::cuda::device_count();
  TORCH_CHECK(device >= 0 && device < count, "expected a CUDA device from 0 to ", count - 1, ", received ", device);
  return static_cast<c10::DeviceIndex>(device);
}

std::string device_name(int64_t device) { return at::cuda::getDeviceProperties(checked(device))->name; }

// Bytes: those of live tensors, the most of them so far, those that the allocator holds, free ones, and all of the
// device.
std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> memory_stats(int64_t device) {
  const auto index = checked(device);
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index);
  const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  c10::cuda::CUDAGuard guard(index);
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {stats.allocated_bytes[all].current, stats.allocated_bytes[all].peak, stats.reserved_bytes[all].current,
          static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

void synchronize(int64_t device) {
  c10::cuda::CUDAGuard guard(checked(device));
  c10::cuda::device_synchronize();
}

at::Tensor get_rng_state(int64_t device) {
  auto generator = at::cuda::detail::getDefaultCUDAGenerator(checked(device));
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_rng_state(int64_t device, const at::Tensor& state) {
  auto generator = at::cuda::detail::getDefaultCUDAGenerator(checked(device));
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("cuda_device_count() -> int", []() -> int64_t { return c10::cuda::device_count(); });
  m.def("cuda_device_name(int device) -> str", &device_name);
  m.def("cuda_current_device() -> int", []() -> int64_t { return c10::cuda::current_device(); });
  m.def("cuda_set_device(int device) -> ()", [](int64_t device) { c10::cuda::set_device(checked(device)); });
  m.def("cuda_synchronize(int device) -> ()", &synchronize);
  m.def("cuda_memory_stats(int device) -> (int, int, int, int, int)", &memory_stats);
  m.def("cuda_reset_peak(int device) -> ()",
        [](int64_t device) { c10::cuda::CUDACachingAllocator::resetPeakStats(checked(device)); });
  m.def("cuda_empty_cache() -> ()", []() { c10::cuda::CUDACachingAllocator::emptyCache(); });
  m.def("cuda_get_rng_state(int device) -> Tensor", &get_rng_state);
  m.def("cuda_set_rng_state(int device, Tensor state) -> ()", &set_rng_state);
}

}  // namespace
}  // namespace shardloop
