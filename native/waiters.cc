// The threads of waiters.h. Each runs one function after the other, and ends when none came for a while.
#include "waiters.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace shardloop {
namespace {

constexpr std::chrono::seconds kIdle(5);
constexpr std::chrono::milliseconds kYield(1);

struct Waiters {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> functions;  // each of them is promised to an idle thread
  size_t idle = 0;
};

// Never destroyed: the threads may still wait while the process exits.
Waiters& waiters() {
  static Waiters* instance = new Waiters();
  return *instance;
}

void run(std::function<void()> function) {
  Waiters& w = waiters();
  while (true) {
    function();
    function = nullptr;  // what it holds is let go before the thread is idle
    std::unique_lock<std::mutex> lock(w.mutex);
    ++w.idle;
    const bool more = w.changed.wait_for(lock, kIdle, [&] { return !w.functions.empty(); });
    --w.idle;
    if (!more) return;
    function = std::move(w.functions.front());
    w.functions.pop_front();
  }
}

}  // namespace

void run_on_waiter(std::function<void()> function) {
  Waiters& w = waiters();
  {
    std::lock_guard<std::mutex> lock(w.mutex);
    if (w.idle > w.functions.size()) {
      w.functions.push_back(std::move(function));
      w.changed.notify_one();
      return;
    }
  }
  std::thread(run, std::move(function)).detach();
}

void yield_until(const std::atomic<bool>& done) {
  const auto end = std::chrono::steady_clock::now() + kYield;
  while (!done && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace shardloop
