// The collectives of shm_backend.cc as steps in shared memory (shared_segment.h). They know bytes and reductions, and
// neither tensors nor threads.
#pragma once
#include <chrono>

#include "shared_reduce.h"
#include "shared_segment.h"

namespace shardloop {

constexpr size_t kSmall = 16 << 10;  // up to here two copies take less time than one through the kernel

// One operation: `in` and `out` are what the rank gives and gets, `header.bytes` those of a rank's part, or of all of
// it for all_reduce and broadcast, which work in place.
struct Transfer {
  Header header;
  const char* in = nullptr;
  char* out = nullptr;
  bool in_reach = false;  // other processes may read `in` where it lies, should the kernel let them
  size_t width = 1;
  Reduction reduction = nullptr;
  bool average = false;
};

// Throws as SharedSegment::wait does.
void run(SharedSegment& segment, const Transfer& transfer, std::chrono::nanoseconds spin,
         SharedSegment::Clock::time_point deadline);

}  // namespace shardloop
