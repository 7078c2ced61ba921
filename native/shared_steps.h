// The collectives of shm_backend.cc as steps in shared memory (shared_segment.h): what a rank writes into its slots and
// what it reads from those of all. It knows bytes and reductions, and neither tensors nor threads.
#pragma once
#include <chrono>
#include <utility>
#include <vector>

#include "shared_reduce.h"
#include "shared_segment.h"

namespace shardloop {

enum Kind : uint32_t { kAllReduce = 1, kReduceScatter, kAllGather, kBroadcast, kBarrier };

// One operation: `in` and `out` are what the rank gives and gets, `bytes` those of a rank's part, or of all of it for
// all_reduce and broadcast.
struct Transfer {
  Kind kind;
  const char* in = nullptr;
  char* out = nullptr;
  size_t bytes = 0, width = 1;
  int root = 0;
  Reduction reduction = nullptr;
  bool average = false;
  Header header;
};

// What one rank does with the slots of a group.
class StepRunner {
 public:
  StepRunner(SharedSegment& segment, int rank, int size)
      : segment_(segment), rank_(rank), size_(size), sources_(size) {}

  // Throws as SharedSegment::wait does.
  void run(const Transfer& transfer, std::chrono::nanoseconds spin, SharedSegment::Clock::time_point deadline);

 private:
  struct Range {
    size_t begin, bytes;
  };
  uint32_t plan();
  Range piece(size_t index) const;
  Range share(Range of, int rank) const;
  std::pair<bool, size_t> phase(uint32_t step) const;
  void write(uint32_t step, char* slot);
  void read(uint32_t step, uint32_t at);
  void reduce(Range range, uint32_t at, size_t offset, const char* in, char* out);

  SharedSegment& segment_;
  const int rank_, size_;
  std::vector<const void*> sources_;
  const Transfer* t_ = nullptr;
  size_t piece_ = 0, pieces_ = 0;
  uint32_t lag_ = 1;
  bool two_phases_ = false;
};

}  // namespace shardloop
