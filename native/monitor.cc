#include "monitor.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>

#include "works.h"

namespace shardloop {
namespace {

using namespace std::chrono_literals;
using Bytes = std::vector<uint8_t>;

constexpr auto kCycle = 150ms;
constexpr auto kAnswer = 2 * kCycle + 100ms;  // by then every rank that lives has answered
constexpr auto kPatience = 400ms;             // beyond this a store counts as dead

// Not the group itself: its destructor waits for the operations in flight, and must not run here.
struct Watched {
  std::shared_ptr<GroupState> state;
  StorePtr store;
  int rank;
  uint64_t version = UINT64_MAX;
  int64_t asked = 0, beat = 0;
  // The group is closed here: what is said of it from now on must not overwrite that.
  std::shared_ptr<std::atomic<bool>> left = std::make_shared<std::atomic<bool>>(false);
};

struct Watch {
  std::mutex mutex;
  std::vector<std::shared_ptr<Watched>> groups;
  std::condition_variable changed;
  bool running = false;
  std::timed_mutex looking;  // held while a store is spoken to
};

// Never destroyed: the thread outlives main().
Watch& the_watch() {
  static Watch* instance = new Watch();
  return *instance;
}

std::string status_key(int rank) { return "status/" + std::to_string(rank); }

void set(c10d::Store& store, const std::string& key, const std::string& text) {
  store.set(key, Bytes(text.begin(), text.end()));
}

std::string get(c10d::Store& store, const std::string& key) {
  if (!store.check({key})) return "";
  const Bytes bytes = store.get(key);
  return {bytes.begin(), bytes.end()};
}

std::string status(const GroupState& state, int64_t beat, bool left) {
  std::string text = state.flight.json();
  text.pop_back();
  return text + ",\"beat\":" + std::to_string(beat) + ",\"left\":" + (left ? "true" : "false") + "}";
}

// One look at one group. What the store throws ends its watch: then nobody can be told anything any more.
void look(Watched& watched) {
  if (watched.left->load()) return;
  const std::string failure = get(*watched.store, "failure");
  if (!failure.empty()) fail_group(watched.state, failure);
  const int64_t asked = watched.store->add("ask", 0);
  const uint64_t version = watched.state->flight.version();
  if (asked == watched.asked && version == watched.version) return;
  watched.asked = asked;
  watched.version = version;
  set(*watched.store, status_key(watched.rank), status(*watched.state, ++watched.beat, false));
}

void run() {
  Watch& watch = the_watch();
  std::unique_lock<std::mutex> lock(watch.mutex);
  while (true) {
    watch.changed.wait(lock, [&] { return !watch.groups.empty(); });
    auto groups = watch.groups;
    lock.unlock();
    std::vector<std::shared_ptr<Watched>> ended;
    for (const auto& watched : groups) {
      std::lock_guard<std::timed_mutex> looking(watch.looking);
      try {
        look(*watched);
      } catch (const std::exception&) {
        ended.push_back(watched);
      }
    }
    groups.clear();
    fail_overdue(500ms);
    lock.lock();
    for (const auto& watched : ended) std::erase(watch.groups, watched);
    watch.changed.wait_for(lock, kCycle);
  }
}

// Runs `work` on a thread of its own, and waits for it no longer than `patience`: a store whose host is stopped answers
// neither yes nor no. False: it did not end in time, or threw.
bool within(std::chrono::milliseconds patience, std::function<void()> work) {
  struct State {
    std::mutex mutex;
    std::condition_variable done;
    bool ended = false, well = false;
  };
  auto state = std::make_shared<State>();
  std::thread([state, work = std::move(work)] {
    bool well = true;
    try {
      work();
    } catch (const std::exception&) {
      well = false;
    }
    std::lock_guard<std::mutex> lock(state->mutex);
    state->ended = true;
    state->well = well;
    state->done.notify_all();
  }).detach();
  std::unique_lock<std::mutex> lock(state->mutex);
  return state->done.wait_for(lock, patience, [&] { return state->ended; }) && state->well;
}

}  // namespace

void watch(const Group& group) {
  if (!group.watch_store) return;
  // At once, so that a rank which dies in its first moments is known to have been there.
  set(*group.watch_store, status_key(group.backend->getRank()), status(*group.state, 0, false));
  Watch& watch = the_watch();
  std::lock_guard<std::mutex> lock(watch.mutex);
  watch.groups.push_back(std::make_shared<Watched>(Watched{group.state, group.watch_store, group.backend->getRank()}));
  if (!watch.running) {
    watch.running = true;
    // While the process exits, the thread must not be within libtorch, whose statics go.
    std::atexit([] { (void)!the_watch().looking.try_lock_for(kPatience); });
    std::thread(run).detach();
  }
  watch.changed.notify_all();
}

void unwatch(const Group& group) {
  Watch& watch = the_watch();
  {
    std::lock_guard<std::mutex> lock(watch.mutex);
    std::erase_if(watch.groups, [&](const auto& watched) {
      if (watched->state != group.state) return false;
      watched->left->store(true);
      return true;
    });
  }
  if (!group.watch_store) return;
  // A look that began before is let end.
  if (watch.looking.try_lock_for(kPatience)) watch.looking.unlock();
  within(kPatience, [store = group.watch_store, key = status_key(group.backend->getRank()),
                     text = status(*group.state, INT64_MAX >> 11, true)] { set(*store, key, text); });
}

std::vector<std::string> ask_ranks(const Group& group) {
  if (!group.watch_store) return {};
  const int size = group.backend->getSize();
  auto before = std::make_shared<std::vector<std::string>>(size);
  auto after = std::make_shared<std::vector<std::string>>(size);
  const auto read = [store = group.watch_store, size](std::vector<std::string>* into) {
    for (int rank = 0; rank < size; ++rank) (*into)[rank] = get(*store, status_key(rank));
  };
  if (!within(kPatience, [=, store = group.watch_store] {
        read(before.get());
        store->add("ask", 1);
      })) {
    return {};
  }
  std::this_thread::sleep_for(kAnswer);
  if (!within(kPatience, [=] { read(after.get()); })) *after = *before;
  std::vector<std::string> answers(size);
  for (int rank = 0; rank < size; ++rank) {
    if ((*after)[rank].empty()) continue;
    const bool alive = rank == group.backend->getRank() || (*after)[rank] != (*before)[rank];
    answers[rank] = (alive ? "+" : "-") + (*after)[rank];
  }
  return answers;
}

std::string tell_failure(const Group& group, const std::string& text) {
  if (!group.watch_store) return "";
  auto first = std::make_shared<std::string>();
  const bool told = within(kPatience, [store = group.watch_store, text, first] {
    const Bytes kept = store->compareSet("failure", {}, Bytes(text.begin(), text.end()));
    *first = std::string(kept.begin(), kept.end());
  });
  return told ? *first : "";
}

}  // namespace shardloop
