#include "callback_queue.h"

#include <ATen/ThreadLocalState.h>

#include "error.h"

namespace shardloop {

std::shared_ptr<CallbackQueue> CallbackQueue::of_this_thread() {
  thread_local std::shared_ptr<CallbackQueue> queue = std::make_shared<CallbackQueue>();
  return queue;
}

void CallbackQueue::run(std::function<void()> work) {
  if (std::this_thread::get_id() == owner_) return work();
  Job job{&work, nullptr, false};
  std::unique_lock<std::mutex> lock(mutex);
  if (!serving_) {
    throw Error(
        "CALLBACK_THREAD",
        "The backward of a custom function ran on a thread that cannot call JavaScript. Start it with backward() or "
        "grad() on the thread that made the function.");
  }
  jobs_.push_back(&job);
  changed_.notify_all();
  changed_.wait(lock, [&] { return job.done; });
  if (job.failure) std::rethrow_exception(job.failure);
}

void CallbackQueue::serve_during(const std::function<void()>& engine) {
  std::exception_ptr failure;
  bool finished = false;
  {
    std::lock_guard<std::mutex> lock(mutex);
    serving_ = true;
  }
  const at::ThreadLocalState state;
  std::thread helper([&] {
    try {
      at::ThreadLocalStateGuard guard(state);
      engine();
    } catch (...) {
      failure = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(mutex);
    finished = true;
    changed_.notify_all();
  });
  {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      changed_.wait(lock, [&] { return finished || !jobs_.empty(); });
      if (jobs_.empty()) break;
      Job* job = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      try {
        (*job->work)();
      } catch (...) {
        job->failure = std::current_exception();
      }
      lock.lock();
      job->done = true;
      changed_.notify_all();
    }
    serving_ = false;
  }
  helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace shardloop
