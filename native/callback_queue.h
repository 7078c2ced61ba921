// Lets a backward pass that runs on another thread call back into the JavaScript thread that waits for it. On the CPU
// the engine runs nodes on the calling thread and the queue stays unused; on CUDA it runs them on threads of its own,
// so the caller lends the engine to a helper thread and serves this queue meanwhile. No N-API here.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace shardloop {

class CallbackQueue {
 public:
  // The queue of the calling (JavaScript) thread.
  static std::shared_ptr<CallbackQueue> of_this_thread();

  // Runs `work` on the owner's thread and waits for it; at once when called there. Throws what `work` throws, and
  // CALLBACK_THREAD when the owner is not serving.
  void run(std::function<void()> work);

  // Runs `engine` on a helper thread while this thread serves; rethrows what it threw.
  void serve_during(const std::function<void()>& engine);

  int nodes = 0;  // JavaScript nodes that the owner has made and that live, changed under `mutex`
  std::mutex mutex;

 private:
  struct Job {
    std::function<void()>* work;
    std::exception_ptr failure;
    bool done = false;
  };
  std::thread::id owner_ = std::this_thread::get_id();
  std::condition_variable changed_;
  std::deque<Job*> jobs_;
  bool serving_ = false;
};

}  // namespace shardloop
