#include "flight.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "names.h"

namespace shardloop {
namespace {

std::atomic<bool> recording{false};
std::mutex times_mutex;
std::vector<int64_t> times;
constexpr size_t kMostTimes = 5'000'000;  // a forgotten timeline must not fill the memory

int64_t nanoseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

}  // namespace

void record_times(bool enabled) {
  std::lock_guard<std::mutex> lock(times_mutex);
  times.clear();
  recording = enabled;
}

std::vector<int64_t> take_times() {
  std::lock_guard<std::mutex> lock(times_mutex);
  return std::exchange(times, {});
}

uint64_t FlightRecorder::launch(const char* operation, std::string detail, at::TensorList tensors, bool between_two) {
  std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t index = launched_++;
  Operation& kept = kept_[index % kKept];
  kept.index = index;
  kept.number = between_two ? ++between_two_ : ++collectives_;
  kept.operation = operation;
  kept.detail = std::move(detail);
  kept.tensors = static_cast<int64_t>(tensors.size());
  kept.elements = 0;
  for (const at::Tensor& tensor : tensors) kept.elements += tensor.numel();
  if (tensors.empty()) {
    kept.sizes.clear();
  } else {
    kept.dtype = tensors[0].scalar_type();
    kept.sizes.assign(tensors[0].sizes().begin(), tensors[0].sizes().end());
  }
  kept.between_two = between_two;
  kept.state = Operation::State::kRunning;
  kept.launched = Clock::now();
  if (recording.load(std::memory_order_relaxed)) timed_[index] = {kept.number, between_two, kept.launched};
  ++version_;
  return index;
}

void FlightRecorder::finished(uint64_t index, bool failed) {
  std::lock_guard<std::mutex> lock(mutex_);
  Operation& kept = kept_[index % kKept];
  if (kept.index == index) {  // else newer operations took its place
    kept.state = failed ? Operation::State::kFailed : Operation::State::kDone;
    ++version_;
  }
  const auto timed = timed_.extract(index);
  if (timed.empty() || !recording.load(std::memory_order_relaxed)) return;
  const Launch& launch = timed.mapped();
  std::lock_guard<std::mutex> times_lock(times_mutex);
  if (times.size() >= kMostTimes) return;
  times.insert(times.end(), {group, static_cast<int64_t>(launch.number), launch.between_two, nanoseconds(launch.time),
                             nanoseconds(Clock::now())});
}

uint64_t FlightRecorder::version() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return version_;
}

std::string FlightRecorder::json() const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto now = Clock::now();
  std::string text = "{\"launched\":" + std::to_string(collectives_) + ",\"operations\":[";
  for (uint64_t index = launched_ - std::min<uint64_t>(launched_, kKept); index < launched_; ++index) {
    const Operation& kept = kept_[index % kKept];
    std::string shape;
    if (kept.tensors > 0) {
      shape = std::string(dtype_name(kept.dtype)) + " (";
      for (size_t i = 0; i < kept.sizes.size(); ++i) shape += (i ? ", " : "") + std::to_string(kept.sizes[i]);
      shape += ")";
      if (kept.tensors > 1) {
        shape += " and " + std::to_string(kept.tensors - 1) + " more, " + std::to_string(kept.elements) + " elements";
      }
    }
    const char* state = kept.state == Operation::State::kRunning ? "running"
                        : kept.state == Operation::State::kDone  ? "done"
                                                                 : "failed";
    const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(now - kept.launched).count();
    if (text.back() == ']') text += ",";
    text += "[" + std::to_string(kept.number) + ",\"" + kept.operation;
    if (!kept.detail.empty()) text += " (" + kept.detail + ")";
    text += "\",\"" + shape + "\",\"" + state + "\"," + std::to_string(age) + "," +
            (kept.between_two ? "true" : "false") + "]";
  }
  return text + "]}";
}

}  // namespace shardloop
