// The table of works in flight behind works.h, the thread that polls works on streams, and the operators that wait.
#include "works.h"

#include <c10/util/Flags.h>
#include <torch/library.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "error.h"
#include "waiters.h"

C10_DECLARE_int(caffe2_log_level);

namespace shardloop {
namespace {

// c10d logs every failed attempt with a stack trace; the errors that come out of it say the same in a line.
[[maybe_unused]] const bool quiet = [] {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = 3;  // fatal only
  return true;
}();

using Clock = std::chrono::steady_clock;

struct TrackedWork {
  std::vector<WorkPtr> works;
  std::vector<at::Tensor> keep;
  // Only where works are polled: a group must never be destroyed on one of its own backend's threads.
  std::shared_ptr<Group> group;
  std::shared_ptr<GroupState> state;  // of a collective; null for run_as_work
  uint64_t flight_index = 0;
  std::function<void()> finish;
  Clock::time_point deadline{};
  size_t unfinished = 0;
  bool finishing = false;
  std::atomic<bool> finished = false;  // written under the mutex
  std::string error;
  std::vector<std::function<void(const std::string&)>> callbacks;
  std::condition_variable changed;
  std::thread::id owner = std::this_thread::get_id();
};

struct Tables {
  std::mutex mutex;
  std::unordered_map<int64_t, std::shared_ptr<TrackedWork>> works;
  std::unordered_set<std::shared_ptr<TrackedWork>> running;  // of groups
  std::vector<std::shared_ptr<TrackedWork>> polled;
  std::condition_variable polled_changed;
  bool poller_running = false;
  int64_t next_id = 1;
};

// Never destroyed: threads of libtorch and our own may still finish works while the process exits.
Tables& tables() {
  static Tables* instance = new Tables();
  return *instance;
}

// Those parts that whoever waits must run. Under the mutex.
std::vector<WorkPtr> run_by_waiter(const TrackedWork& work) {
  std::vector<WorkPtr> found;
  for (const WorkPtr& part : work.works)
    if (dynamic_cast<const RunByWaiter*>(part.get()) != nullptr) found.push_back(part);
  return found;
}

// One part of a work is done, or all of it is. Tensors and callbacks leave the lock before they are let go or called.
void finish_part(const std::shared_ptr<TrackedWork>& work, const std::string& error, bool whole = false) {
  std::vector<std::function<void(const std::string&)>> callbacks;
  std::vector<at::Tensor> keep;
  std::vector<WorkPtr> works;
  std::function<void()> finish;
  std::string text;
  {
    std::lock_guard<std::mutex> lock(tables().mutex);
    if (work->finished || work->finishing) return;
    if (work->error.empty()) work->error = error;
    work->unfinished = whole ? 0 : work->unfinished - 1;
    if (work->unfinished > 0) return;
    work->finishing = true;
    if (work->error.empty()) finish = std::move(work->finish);
  }
  if (finish) finish();
  {
    std::lock_guard<std::mutex> lock(tables().mutex);
    work->finished = true;
    tables().running.erase(work);
    if (work->state) {
      --work->state->in_flight;
      work->state->flight.finished(work->flight_index, !work->error.empty());
    }
    text = work->error;
    callbacks.swap(work->callbacks);
    keep.swap(work->keep);
    works.swap(work->works);
    work->group.reset();
  }
  work->changed.notify_all();  // not under the lock, for which whoever wakes would have to sleep again
  for (auto& callback : callbacks) callback(text);
}

// True when the work is complete or beyond its deadline; then `error` says how it went. The backend of a late one is
// aborted.
bool poll(TrackedWork& work, std::string& error) {
  try {
    std::shared_ptr<Group> group;
    std::vector<WorkPtr> parts;
    {
      std::lock_guard<std::mutex> lock(tables().mutex);
      if (work.finished || work.finishing) return true;
      group = work.group;
      parts = work.works;
    }
    for (auto& part : parts) {
      if (!part->isCompleted()) {
        if (Clock::now() < work.deadline) return false;
        std::ostringstream text;
        text << "timed out after " << group->timeout.count() / 1000.0 << " s";
        error = text.str();
        group->backend->abort();
        return true;
      }
      if (auto exception = part->exception()) error = exception_text(exception);
    }
  } catch (...) {
    error = exception_text(std::current_exception());
  }
  return true;
}

void run_poller() {
  auto& t = tables();
  std::unique_lock<std::mutex> lock(t.mutex);
  while (true) {
    t.polled_changed.wait(lock, [&] { return !t.polled.empty(); });
    auto pending = t.polled;
    lock.unlock();
    std::vector<std::shared_ptr<TrackedWork>> done;
    for (auto& work : pending) {
      std::string error;
      if (poll(*work, error)) {
        finish_part(work, error, true);
        // Who only told a stream to wait never asks for this work again: the next operation must be refused.
        if (!error.empty()) fail_group(work->state, "an earlier operation of the group failed: " + error);
        done.push_back(work);
      }
    }
    if (done.empty()) std::this_thread::sleep_for(std::chrono::microseconds(200));
    lock.lock();
    for (auto& work : done) std::erase(t.polled, work);
  }
}

std::shared_ptr<TrackedWork> find_work(int64_t id) {
  auto& t = tables();
  std::lock_guard<std::mutex> lock(t.mutex);
  auto found = t.works.find(id);
  return found == t.works.end() ? nullptr : found->second;
}

int64_t insert_work(const std::shared_ptr<TrackedWork>& work) {
  auto& t = tables();
  std::lock_guard<std::mutex> lock(t.mutex);
  t.works.emplace(t.next_id, work);
  return t.next_id++;
}

// ---- operators ----

// Blocks the calling thread until the work is finished (NCCL: makes the current stream wait). Returns the error text.
std::string work_wait(int64_t id) {
  auto work = find_work(id);
  if (!work) return "";
  std::string error;
  std::unique_lock<std::mutex> lock(tables().mutex);
  if (!work->finished && work->group && work->group->works_on_streams) {
    auto parts = work->works;
    lock.unlock();
    try {
      for (auto& part : parts) part->wait();
    } catch (...) {
      error = exception_text(std::current_exception());
    }
    lock.lock();
  } else {
    const auto parts = run_by_waiter(*work);
    if (!parts.empty()) {
      lock.unlock();
      for (const auto& part : parts) {
        try {
          part->wait();
        } catch (const std::exception&) {
          break;  // its future tells
        }
      }
      lock.lock();
    }
    if (!work->finished) {
      lock.unlock();
      yield_until(work->finished);
      lock.lock();
    }
    work->changed.wait(lock, [&] { return work->finished.load(); });
    error = work->error;
  }
  tables().works.erase(id);
  return error;
}

bool work_is_completed(int64_t id) {
  auto work = find_work(id);
  if (!work) return true;
  std::lock_guard<std::mutex> lock(tables().mutex);
  return work->finished;
}

int64_t works_in_flight() {
  std::lock_guard<std::mutex> lock(tables().mutex);
  return static_cast<int64_t>(tables().works.size());
}

}  // namespace

Launch::Launch(std::shared_ptr<Group> group, const char* operation, std::string detail, std::vector<at::Tensor> tensors,
               size_t alike, bool between_two)
    : group_(std::move(group)), keep_(std::move(tensors)) {
  GroupState& state = *group_->state;
  {
    std::lock_guard<std::mutex> lock(state.mutex);
    if (!state.failure.empty()) throw Error("COLLECTIVE_FAILED", state.failure);
  }
  index_ = state.flight.launch(operation, std::move(detail), at::TensorList(keep_).slice(0, alike), between_two);
}

Launch::~Launch() {
  if (!tracked_) group_->state->flight.finished(index_, true);
}

int64_t Launch::track(std::vector<WorkPtr> works, Completion completion, std::function<void()> finish) {
  tracked_ = true;
  auto tracked = std::make_shared<TrackedWork>();
  tracked->works = works;
  tracked->keep = std::move(keep_);
  tracked->unfinished = works.size();
  tracked->finish = std::move(finish);
  tracked->deadline = Clock::now() + group_->timeout;
  if (group_->works_on_streams) tracked->group = group_;
  tracked->state = group_->state;
  tracked->flight_index = index_;
  ++tracked->state->in_flight;
  {
    std::lock_guard<std::mutex> lock(tables().mutex);
    tables().running.insert(tracked);
  }
  int64_t id = insert_work(tracked);
  if (works.empty()) {
    finish_part(tracked, "", true);
  } else if (group_->works_on_streams) {
    auto& t = tables();
    std::lock_guard<std::mutex> lock(t.mutex);
    t.polled.push_back(tracked);
    if (!t.poller_running) {
      t.poller_running = true;
      std::thread(run_poller).detach();
    }
    t.polled_changed.notify_one();
  } else if (completion == Completion::kByWaiting) {
    run_on_waiter([tracked, works = std::move(works)]() mutable {
      std::string error;
      try {
        for (auto& work : works) work->wait();
      } catch (...) {
        error = exception_text(std::current_exception());
      }
      works.clear();
      finish_part(tracked, error, true);
    });
  } else {
    for (auto& work : works) {
      work->getFuture()->addCallback([tracked](c10::ivalue::Future& future) {
        finish_part(tracked, future.hasError() ? exception_text(future.exception_ptr()) : "");
      });
    }
  }
  return id;
}

void fail_group(const std::shared_ptr<GroupState>& state, const std::string& text) {
  {
    std::lock_guard<std::mutex> lock(state->mutex);
    if (state->failure.empty()) state->failure = text;
  }
  std::vector<std::shared_ptr<TrackedWork>> running;
  {
    std::lock_guard<std::mutex> lock(tables().mutex);
    for (const auto& work : tables().running)
      if (work->state == state) running.push_back(work);
  }
  for (const auto& work : running) {
    std::vector<WorkPtr> parts;
    {
      std::lock_guard<std::mutex> lock(tables().mutex);
      parts = run_by_waiter(*work);
    }
    finish_part(work, text, true);
    for (const auto& part : parts) part->abort();  // whoever waits is within it
  }
}

void fail_overdue(std::chrono::milliseconds grace) {
  std::vector<std::shared_ptr<TrackedWork>> overdue;
  {
    const auto now = Clock::now();
    std::lock_guard<std::mutex> lock(tables().mutex);
    for (const auto& work : tables().running)
      if (now > work->deadline + grace) overdue.push_back(work);
  }
  for (const auto& work : overdue) finish_part(work, "timed out; the backend did not say so", true);
}

void fail_groups_in_flight(const std::string& text) {
  std::unordered_set<std::shared_ptr<GroupState>> states;
  {
    std::lock_guard<std::mutex> lock(tables().mutex);
    for (const auto& work : tables().running) states.insert(work->state);
  }
  for (const auto& state : states) fail_group(state, text);
}

void release_work(int64_t id) {
  std::shared_ptr<TrackedWork> released;
  std::lock_guard<std::mutex> lock(tables().mutex);
  auto found = tables().works.find(id);
  if (found == tables().works.end()) return;
  released = std::move(found->second);
  tables().works.erase(found);
}

void release_works_of(std::thread::id owner) {
  std::vector<std::shared_ptr<TrackedWork>> released;
  std::lock_guard<std::mutex> lock(tables().mutex);
  std::erase_if(tables().works, [&](const auto& entry) {
    if (entry.second->owner != owner) return false;
    released.push_back(entry.second);
    return true;
  });
}

int64_t run_as_work(std::function<void()> function) {
  auto tracked = std::make_shared<TrackedWork>();
  tracked->unfinished = 1;
  int64_t id = insert_work(tracked);
  run_on_waiter([tracked, function = std::move(function)]() mutable {
    std::string error;
    try {
      function();
      function = nullptr;  // what it holds is let go before the work counts as finished
    } catch (...) {
      error = exception_text(std::current_exception());
    }
    finish_part(tracked, error);
  });
  return id;
}

bool on_work_finished(int64_t id, std::function<void(const std::string& error)> callback) {
  std::string error;
  {
    auto& t = tables();
    std::lock_guard<std::mutex> lock(t.mutex);
    auto found = t.works.find(id);
    if (found == t.works.end()) return false;
    auto work = found->second;
    t.works.erase(found);
    if (!work->finished) {
      work->callbacks.push_back(std::move(callback));
      return true;
    }
    error = work->error;
  }
  callback(error);
  return true;
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("work_wait(int work) -> str", &work_wait);
  m.def("work_is_completed(int work) -> bool", &work_is_completed);
  m.def("work_release(int work) -> ()", &release_work);
  m.def("works_in_flight() -> int", &works_in_flight);
}

}  // namespace shardloop
