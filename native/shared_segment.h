// Memory that all ranks of a group see, and the collectives in it. It knows bytes, dtypes and steps, and neither
// tensors nor threads. shared_segment.cc is how ranks meet and wait, shared_steps.cc the steps of each collective.
//
// States of the memory:
//   made      rank 0 has an anonymous file (memfd), which the others open through /proc/PID/fd. It stands in no folder,
//             so that nothing is left behind whoever dies, and it does not count against the size of /dev/shm.
//   mapped    every rank maps it and has said so in the store; rank 0 closes the file. From here on the mappings of the
//             ranks keep it alive, and the kernel takes it back when the last one goes.
//   failed    a rank that fails writes its reason; whoever waits reads it, and fails with the same. Never taken back.
// Each rank writes only its own place and slots, and reads all. A rank that leaves says so in its place; one that dies
// is noticed by its process's descriptor (pidfd).
//
// Steps count from 0 over the life of the group, alike on every rank. In step s a rank writes its slot s % kSlots, then
// publishes s + 1; what it wrote may be read by all from then on. Before it writes, it has read the slots of all ranks
// up to step s - kAhead - 1, which the others then have published too; so what is overwritten, step s - 2 kAhead, has
// been read by all, and no rank is more than one operation ahead of another.
#pragma once
#include <c10/core/ScalarType.h>
#include <poll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <vector>

namespace shardloop {

enum Kind : uint32_t { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kBarrier };

// What an operation is; ranks that call different ones must not read each other's memory. `bytes` are those of a rank's
// part, or of all of it for all_reduce and broadcast, which work in place.
struct Header {
  Kind kind = kBarrier;
  c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM;
  at::ScalarType dtype = at::kByte;
  int32_t root = 0;
  uint64_t bytes = 0;
  bool operator==(const Header&) const = default;
};

// One operation: its header, and what the rank gives and gets.
struct Transfer {
  Header header;
  const char* in = nullptr;
  char* out = nullptr;
  bool in_reach = false;  // other processes may read `in` where it lies, should the kernel let them
};

// The dtypes and operations that are reduced here.
bool is_reduced(at::ScalarType dtype, c10d::ReduceOp::RedOpType op);

class SharedSegment {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kSmall = 16 << 10;  // up to here two copies take less time than one through the kernel

  // Meets the other ranks in the store. Throws the same text on every rank when one of them cannot have it.
  SharedSegment(c10d::Store& store, int rank, int size);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;

  // Runs one operation. A wait in it stays on the processor for as long as `spin` before it sleeps. Throws when a rank
  // died, left, failed or called something else, and at the deadline.
  void run(const Transfer& transfer, std::chrono::nanoseconds spin, Clock::time_point deadline);
  // Ends all waiting on the other ranks with the text; run() is not called again.
  void fail(const std::string& text);
  // This rank waits no more; the others are told when they wait for it.
  void leave();

 private:
  // Half a megabyte on its way: by the time it is read it has left the writer's second-level cache for the shared one,
  // from where it comes twice as fast. Measured in docs/log.
  static constexpr uint32_t kAhead = 4, kSlots = 2 * kAhead;
  static constexpr size_t kSlotBytes = 128 << 10, kPlaceBytes = 4096, kRankBytes = kPlaceBytes + kSlots * kSlotBytes;
  enum State : uint32_t { kHere, kLeft, kFailed };
  // What a rank says of itself; its slots follow.
  struct Place {
    std::atomic<uint32_t> published;  // also the word on which others sleep
    std::atomic<uint32_t> sleepers;
    std::atomic<State> state;
    std::atomic<int> processor;  // on which it ran when it published last
    int process;
    const char* memory;                 // where this memory lies in its process
    alignas(64) Transfer transfers[2];  // by operation, since nobody is more than one ahead
    char failure[1000];
  };

  Place& place(int rank) const;
  Transfer& given(int rank) const;  // its operation under way
  char* slot(int rank, uint32_t step) const;

  // What an operation is made of; of each rank `bytes` of a part.
  struct Exchange {
    bool reduces = false;  // else the ranks from first to last give, and all take
    const char* in;
    char* out;
    size_t bytes;
    int parts = 1;  // of `in`, behind each other: a rank takes its own part of what all give
    int first = 0, last = -1;
    char* place(int from) const { return out + (from - first) * bytes; }
  };
  void through_slots(const Exchange& exchange);
  bool directly(const Exchange& exchange);

  // Copies from another rank's process; false when the kernel does not let it, or the process has ended.
  bool read_memory(int other, const char* from, char* to, size_t bytes) const;
  // The slot of this step is written.
  void publish();
  // Waits until all ranks have published `count` steps.
  void wait(uint32_t count);
  void wait_for(int other, uint32_t count);
  void part_from(int other);
  // What ends a wait for another rank, other than the step; empty: nothing.
  std::string why_not(int other) const;
  void wake_all();

  const int rank_, size_;
  const bool spins_;
  const size_t bytes_;
  char* memory_ = nullptr;
  bool reads_ = true;              // the kernel lets this process read the memory of the others
  std::vector<pollfd> processes_;  // by rank; without a descriptor: it has ended
  uint32_t step_ = 0, operation_ = 0, first_step_ = 0;
  std::chrono::nanoseconds spin_{};  // of the operation under way
  Clock::time_point deadline_{}, may_part_{};
  std::atomic<bool> left_{false};
};

}  // namespace shardloop
