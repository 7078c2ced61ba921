// Memory that all ranks of a group see, and how they wait for each other in it. The Linux half of shm_backend.cc: it
// knows steps, slots and headers, and nothing of tensors.
//
// States of the memory:
//   made      rank 0 has an anonymous file (memfd), which the others open through /proc/PID/fd. It has no name, so that
//             nothing is left behind whoever dies, and it does not count against the size of /dev/shm.
//   mapped    every rank maps it and has said so in the store; rank 0 closes the file. From here on the mappings of the
//             ranks keep it alive, and the kernel takes it back when the last one goes.
//   failed    the first rank that fails writes its reason; whoever waits reads it. Never taken back.
// Each rank writes only its own place and slots, and reads all. A rank that leaves says so in its place; one that dies
// is noticed by its process's descriptor (pidfd).
//
// Steps count from 0 over the life of the group, alike on every rank. In step s a rank writes its slot s % kSlots, then
// publishes s + 1; what it wrote may be read by all from then on. Before it writes, it has read the slots of all ranks
// up to step s - kAhead - 1, which the others then have published too; so what is overwritten, step s - 2 kAhead, has
// been read by all, and no rank is more than one operation ahead of another.
#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

namespace shardloop {

enum Kind : uint32_t { kAllReduce = 1, kReduceScatter, kAllGather, kBroadcast, kBarrier };

// What an operation is; ranks that call different ones must not read each other's memory.
struct Header {
  Kind kind = kBarrier;
  uint32_t dtype = 0, op = 0, root = 0;
  uint64_t bytes = 0;
  bool operator==(const Header&) const = default;
};

class SharedSegment {
 public:
  using Clock = std::chrono::steady_clock;
  // Half a megabyte on its way: by the time it is read it has left the writer's second-level cache for the shared one,
  // from where it comes twice as fast. Measured in docs/log.
  static constexpr uint32_t kAhead = 4, kSlots = 2 * kAhead;
  static constexpr size_t kSlotBytes = 128 << 10;

  // Meets the other ranks in the store. Throws the same text on every rank when one of them cannot have it.
  SharedSegment(c10d::Store& store, int rank, int size);
  ~SharedSegment();
  SharedSegment(const SharedSegment&) = delete;

  char* slot(int rank, uint32_t step) const;
  // Before the first step of an operation; it is compared when the others publish theirs.
  // `input` is what the others may read where it lies, or null.
  void begin(const Header& header, const char* input);
  // Whether that is so of all ranks; behind the first step.
  bool in_reach() const;
  // Copies from another rank's input. Whoever reads does so before that rank may go on, and then asks whether all of
  // them were still there: what is read from one that has failed is nothing to rely on.
  void read(int other, size_t offset, char* to, size_t bytes);
  void check_reads(Clock::time_point deadline) const;
  // The slot of this step is written.
  void publish();
  // Waits until all ranks have published `count` steps: first for as long as `spin` on the processor, then asleep.
  // Throws when a rank died, left, failed or called something else, and at the deadline.
  void wait(uint32_t count, std::chrono::nanoseconds spin, Clock::time_point deadline);
  uint32_t published() const { return step_; }

  // Ends all waiting, here and on the other ranks, with the text; the first one stays.
  void fail(const std::string& text);
  // This rank waits no more; the others are told when they wait for it.
  void leave();
  int rank() const { return rank_; }
  int size() const { return size_; }

 private:
  static constexpr int kHere = -1, kGone = -2;
  // A process of a rank: its id, and a descriptor; kHere for this one, kGone for one that has ended.
  struct Process {
    int id = 0, descriptor = kHere;
  };
  struct Place;
  struct Control;

  void wait_for(int other, uint32_t count, Clock::time_point spin_until, Clock::time_point deadline);
  void compare(int other);
  std::string why_not(int other, Clock::time_point deadline) const;
  void release();
  void wake_all();
  Place& place(int rank) const;

  const int rank_, size_;
  const bool spins_;
  bool reads_ = true;  // the kernel lets this process read the memory of the others
  uint32_t step_ = 0, operation_ = 0, first_step_ = 0;
  uint64_t token_ = 0;  // the same on all ranks
  char* memory_ = nullptr;
  size_t bytes_ = 0, slots_at_ = 0;
  std::vector<Process> processes_;  // by rank
  std::atomic<bool> left_{false};
};

}  // namespace shardloop
