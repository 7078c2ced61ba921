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

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("available_memory() -> int",
        []() -> int64_t { return static_cast<int64_t>(std::min<size_t>(available_memory(), INT64_MAX)); });
}

}  // namespace
}  // namespace shardloop
