// How much work the process was given: calls of each op through the dispatcher, those from within other ops and from
// backward included, and the blocks that the CPU allocator gave. Unlike seconds they are the same in every run.
#include "work_count.h"

#include <ATen/record_function.h>
#include <torch/library.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "error.h"

namespace shardloop {

std::atomic<bool> counting_blocks{false};
std::atomic<int64_t> counted_blocks{0}, counted_bytes{0};

namespace {

std::mutex mutex;  // guards the two below; ops end on the threads of backward too
std::map<std::string, int64_t> calls;
at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;

std::unique_ptr<at::ObserverContext> on_call(const at::RecordFunction& function) {
  const auto op = function.operator_name();
  if (!op) return nullptr;  // a node of backward; its ops are counted
  std::string name = op->name;
  if (!op->overload_name.empty()) name += "." + op->overload_name;
  std::lock_guard<std::mutex> lock(mutex);
  ++calls[name];
  return nullptr;
}

void start() {
  std::lock_guard<std::mutex> lock(mutex);
  if (callback != at::INVALID_CALLBACK_HANDLE)
    throw Error("BAD_ARGUMENT", "countWork: expected one count at a time in a process, received a second.");
  calls.clear();
  counted_blocks = 0;
  counted_bytes = 0;
  callback = at::addGlobalCallback(at::RecordFunctionCallback(&on_call).scopes({at::RecordScope::FUNCTION}));
  counting_blocks = true;
}

// (names, calls of each, blocks, bytes)
std::tuple<std::vector<std::string>, std::vector<int64_t>, int64_t, int64_t> stop() {
  counting_blocks = false;
  std::lock_guard<std::mutex> lock(mutex);
  if (callback == at::INVALID_CALLBACK_HANDLE) throw Error("BAD_ARGUMENT", "countWork: no count is under way.");
  at::removeCallback(callback);
  callback = at::INVALID_CALLBACK_HANDLE;
  std::vector<std::string> names;
  std::vector<int64_t> counts;
  for (const auto& [name, count] : calls) {
    names.push_back(name);
    counts.push_back(count);
  }
  return {names, counts, counted_blocks.load(), counted_bytes.load()};
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("start_work_count() -> ()", &start);
  m.def("stop_work_count() -> (str[] names, int[] calls, int blocks, int bytes)", &stop);
}

}  // namespace
}  // namespace shardloop
