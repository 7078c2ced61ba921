#include "flight.h"

#include <algorithm>

#include "names.h"

namespace shardloop {

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
  ++version_;
  return index;
}

void FlightRecorder::finished(uint64_t index, bool failed) {
  std::lock_guard<std::mutex> lock(mutex_);
  Operation& kept = kept_[index % kKept];
  if (kept.index != index) return;  // newer operations took its place
  kept.state = failed ? Operation::State::kFailed : Operation::State::kDone;
  ++version_;
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
