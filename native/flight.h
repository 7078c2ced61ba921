// What a group did last: the operations of this rank, numbered, with shapes and times, so that an error can say who
// arrived and who did not. Written at each launch (no formatting, no lock held elsewhere), read by the monitor.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace shardloop {

// While a timeline is recorded, finished operations are kept whole; see take_times.
void record_times(bool enabled);
// Of each finished operation since the last call, five numbers: its group, its number, whether it is between two ranks,
// the launch and the end in nanoseconds of the monotonic clock.
std::vector<int64_t> take_times();

class FlightRecorder {
 public:
  int64_t group = 0;  // the group's id, for take_times()

  // Records a collective, which every rank of the group numbers alike, or with `peer` >= 0 a send or a receive, which
  // has numbers of its own. Returns what finished() takes.
  uint64_t launch(const char* operation, std::string detail, at::TensorList tensors, bool between_two = false);
  void finished(uint64_t index, bool failed);

  // {"launched": collectives so far, "operations": [[number, "all_reduce (sum)", "float32 (3, 4)", "running", ms since
  // the launch, is between two], ...]}, oldest first.
  std::string json() const;
  // Changes whenever json() says something new (but for the times).
  uint64_t version() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Operation {
    uint64_t index = 0, number = 0;
    const char* operation = "";
    std::string detail;
    at::ScalarType dtype = at::kFloat;
    std::vector<int64_t> sizes;
    int64_t tensors = 0, elements = 0;
    bool between_two = false;
    enum class State : uint8_t { kRunning, kDone, kFailed } state = State::kRunning;
    Clock::time_point launched;
  };
  static constexpr size_t kKept = 16;
  // What a timeline needs of an operation, for as long as it runs: more of them may be under way than are kept.
  struct Launch {
    uint64_t number;
    bool between_two;
    Clock::time_point time;
  };

  mutable std::mutex mutex_;
  std::array<Operation, kKept> kept_;
  std::unordered_map<uint64_t, Launch> timed_;  // by index; of operations launched while a timeline is recorded
  uint64_t launched_ = 0, collectives_ = 0, between_two_ = 0, version_ = 0;
};

}  // namespace shardloop
