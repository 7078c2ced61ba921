// An allocation beyond the memory of the machine is refused: Linux would grant it by overcommit and end the process
// later. Wraps libtorch's CPU allocator; small requests pass unasked.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "error.h"

namespace shardloop {
namespace {

constexpr size_t kAskFrom = size_t{64} << 20;

// Bytes that can still be had: what the kernel says is available, within the limit of the container.
size_t available_memory() {
  size_t available = SIZE_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    unsigned long long kilobytes;
    if (std::sscanf(line.c_str(), "MemAvailable: %llu kB", &kilobytes) == 1) available = kilobytes * 1024;
    if (std::sscanf(line.c_str(), "SwapFree: %llu kB", &kilobytes) == 1 && available != SIZE_MAX)
      available += kilobytes * 1024;
  }
  unsigned long long limit, used;
  std::ifstream max_file("/sys/fs/cgroup/memory.max"), current_file("/sys/fs/cgroup/memory.current");
  if (max_file >> limit && current_file >> used)
    available = std::min<size_t>(available, limit > used ? limit - used : 0);
  if (available == SIZE_MAX) {
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
    if (pages > 0 && page > 0) available = static_cast<size_t>(pages) * static_cast<size_t>(page);
  }
  return available;
}

class GuardedAllocator final : public c10::Allocator {
 public:
  explicit GuardedAllocator(c10::Allocator* wrapped) : wrapped_(wrapped) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes >= kAskFrom) {
      const size_t available = available_memory();
      if (bytes > available) {
        throw Error("OUT_OF_MEMORY", "Expected an allocation within the " + std::to_string(available >> 20) +
                                         " MiB that are available, received a request for " +
                                         std::to_string(bytes >> 20) +
                                         " MiB. Use smaller tensors, a smaller batch, or a machine with more memory.");
      }
    }
    return wrapped_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return wrapped_->raw_deleter(); }
  void copy_data(void* destination, const void* source, size_t bytes) const override {
    wrapped_->copy_data(destination, source, bytes);
  }

 private:
  c10::Allocator* wrapped_;
};

// Runs once, when the addon is loaded and before any tensor is made.
const bool installed = [] {
  static GuardedAllocator guarded(c10::GetCPUAllocator());
  c10::SetCPUAllocator(&guarded, /*priority=*/100);
  return true;
}();

// Resizes a tensor's storage in place, to 0 and back (ZeRO-3 releases gathered parameters so).
void resize_storage_(at::Tensor tensor, int64_t bytes) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  if (bytes < 0 || !tensor.is_cpu()) throw Error("BAD_ARGUMENT", "Expected a tensor on the CPU and at least 0 bytes.");
  if (!storage->resizable())
    throw Error("BAD_ARGUMENT",
                "Expected a storage that can be resized; this one is seen from JavaScript (view()) or from a file.");
  const auto size = static_cast<size_t>(bytes);
  if (size == storage->nbytes()) return;
  c10::DataPtr fresh = size ? storage->allocator()->allocate(size) : c10::DataPtr(nullptr, storage->device());
  if (const size_t common = std::min(size, storage->nbytes())) std::memcpy(fresh.get(), storage->data(), common);
  storage->set_data_ptr_noswap(std::move(fresh));
  storage->set_nbytes(size);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("resize_storage_(Tensor(a!) tensor, int bytes) -> ()", &resize_storage_);
  m.def("available_memory() -> int",
        []() -> int64_t { return static_cast<int64_t>(std::min<size_t>(available_memory(), INT64_MAX)); });
}

}  // namespace
}  // namespace shardloop
