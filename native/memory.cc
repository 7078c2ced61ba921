// The CPU allocator, around libtorch's own. An allocation beyond the memory of the machine is refused: Linux would
// grant it by overcommit and end the process later. Blocks of a few elements are kept for reuse by each thread (an
// aligned allocation and its free are a fifth of a small op: bench/dispatch). All other blocks are counted, and so are
// those that meta tensors would have, so that a step on meta tensors tells what the same step will take.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>
#include <unistd.h>
#ifdef __APPLE__
#include <malloc/malloc.h>
#else
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "error.h"
#include "large_blocks.h"
#include "work_count.h"

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

// Free blocks of up to kLargestKept bytes, by size in steps of 64, as lists through the blocks themselves. Each block
// was allocated by itself, so that libtorch's plain deleter (raw_deleter) frees it as well.
constexpr size_t kLargestKept = 512, kStep = 64, kMostKept = 4096;
struct FreeBlocks {
  void* first[kLargestKept / kStep];
  uint32_t count[kLargestKept / kStep];
  bool closed;  // the thread is ending: what is freed now goes to the heap
};
thread_local FreeBlocks free_blocks;

struct ReleaseAtThreadEnd {
  ~ReleaseAtThreadEnd() {
    free_blocks.closed = true;
    for (void*& first : free_blocks.first) {
      while (void* block = first) {
        std::memcpy(&first, block, sizeof(void*));
        c10::free_cpu(block);
      }
    }
  }
};

template <size_t Class>
void keep_block(void* block) {
  thread_local ReleaseAtThreadEnd at_end;
  (void)&at_end;
  if (free_blocks.closed || free_blocks.count[Class] >= kMostKept) return c10::free_cpu(block);
  std::memcpy(block, &free_blocks.first[Class], sizeof(void*));
  free_blocks.first[Class] = block;
  ++free_blocks.count[Class];
}

constexpr c10::DeleterFnPtr kKeepBlock[] = {&keep_block<0>, &keep_block<1>, &keep_block<2>, &keep_block<3>,
                                            &keep_block<4>, &keep_block<5>, &keep_block<6>, &keep_block<7>};

c10::DataPtr small_block(size_t bytes) {
  const size_t index = (bytes - 1) / kStep;
  void* block = free_blocks.first[index];
  if (block) {
    std::memcpy(&free_blocks.first[index], block, sizeof(void*));
    --free_blocks.count[index];
  } else {
    block = c10::alloc_cpu((index + 1) * kStep);
  }
  return {block, block, kKeepBlock[index], c10::Device(c10::DeviceType::CPU)};
}

// Bytes of live blocks, and the most of them at once since the last reset.
struct Counter {
  std::atomic<int64_t> live{0}, peak{0};

  void add(int64_t bytes) {
    const int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    int64_t most = peak.load(std::memory_order_relaxed);
    while (now > most && !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
    }
  }
  void subtract(int64_t bytes) { live.fetch_sub(bytes, std::memory_order_relaxed); }
};
Counter cpu_counter;

// Meta tensors stand for memory of the device that a plan is about, of the host beside it, or of mapped files.
Counter device_counter, host_counter, files_counter;
thread_local Counter* meta_counter = &device_counter;

Counter& counter_of(const std::string& device) {
  if (device == "cpu") return cpu_counter;
  if (device == "meta") return device_counter;
  if (device == "meta:host") return host_counter;
  if (device == "meta:files") return files_counter;
  throw Error("BAD_ARGUMENT", "Expected cpu, meta, meta:host or meta:files, received " + device + ".");
}

// What the heap gave for a block, or 0 for one so small that it is not counted: those may be kept blocks.
int64_t counted_size(void* block) {
#ifdef __APPLE__
  const size_t size = block ? malloc_size(block) : 0;
#else
  const size_t size = block ? malloc_usable_size(block) : 0;
#endif
  return size > 2 * kLargestKept ? static_cast<int64_t>(size) : 0;
}

void free_large(void* block) {
  cpu_counter.subtract(static_cast<int64_t>(large_size(block)));
  give_large(block);
}

void free_counted(void* block) {
  if (large_size(block) > 0) return free_large(block);
  cpu_counter.subtract(counted_size(block));
  c10::free_cpu(block);
}

// Gives meta tensors no memory, but a record of its size, and of who counts it, that goes with the storage.
class MetaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* record = new Record{static_cast<int64_t>(bytes), meta_counter};
    record->counter->add(record->bytes);
    return {nullptr, record, &forget, c10::Device(c10::DeviceType::Meta)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &nothing; }
  void copy_data(void*, const void*, size_t) const override {}

 private:
  struct Record {
    int64_t bytes;
    Counter* counter;
  };
  static void forget(void* context) {
    const auto* record = static_cast<Record*>(context);
    record->counter->subtract(record->bytes);
    delete record;
  }
  static void nothing(void*) {}
};

class GuardedAllocator final : public c10::Allocator {
 public:
  explicit GuardedAllocator(c10::Allocator* wrapped) : wrapped_(wrapped) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes - 1 < kLargestKept) return small_block(bytes);  // 0 goes to libtorch
    if (bytes >= kAskFrom) {
      const size_t available = available_memory() + idle_large();
      if (bytes > available) {
        throw Error("OUT_OF_MEMORY", "Expected an allocation within the " + std::to_string(available >> 20) +
                                         " MiB that are available, received a request for " +
                                         std::to_string(bytes >> 20) +
                                         " MiB. Use smaller tensors, a smaller batch, or a machine with more memory.");
      }
    }
    if (bytes > 2 * kLargestKept) count_block(static_cast<int64_t>(bytes));
    if (bytes >= kLargeFrom) {
      if (void* block = take_large(bytes)) {
        cpu_counter.add(static_cast<int64_t>(large_size(block)));
        return {block, block, &free_large, c10::Device(c10::DeviceType::CPU)};
      }
    }
    void* block = c10::alloc_cpu(bytes);
    cpu_counter.add(counted_size(block));
    return {block, block, &free_counted, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_counted; }
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
  static MetaAllocator meta;
  c10::SetAllocator(c10::DeviceType::Meta, &meta, /*priority=*/100);
  return true;
}();

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("memory_stats(str device) -> int[]", [](const std::string& device) {
    const Counter& counter = counter_of(device);
    return std::vector<int64_t>{counter.live.load(), counter.peak.load()};
  });
  m.def("reset_peak_memory(str device) -> ()", [](const std::string& device) {
    Counter& counter = counter_of(device);
    counter.peak.store(counter.live.load());
  });
  // What meta tensors of this thread stand for from here on.
  m.def("count_meta_as(str device) -> ()", [](const std::string& device) {
    Counter& counter = counter_of(device);
    if (&counter == &cpu_counter)
      throw Error("BAD_ARGUMENT", "Expected what meta tensors can stand for, received cpu.");
    meta_counter = &counter;
  });
  m.def("trim_memory() -> ()", [] {
    trim_large();
#ifdef __APPLE__
    malloc_zone_pressure_relief(nullptr, 0);
#else
    malloc_trim(0);
#endif
  });
  m.def("available_memory() -> int",
        []() -> int64_t { return static_cast<int64_t>(std::min<size_t>(available_memory(), INT64_MAX)); });
}

}  // namespace
}  // namespace shardloop
