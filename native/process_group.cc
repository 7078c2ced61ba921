// The tables of stores, groups and backends behind process_group.h, and the operators that open and close them.
#include "process_group.h"

#include <torch/library.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <unordered_map>

#include "error.h"
#include "monitor.h"
#include "works.h"

namespace shardloop {
namespace {

struct Tables {
  std::mutex mutex;
  std::map<std::string, BackendFactory> factories;
  std::map<std::string, StorePtr> named_stores;
  std::unordered_map<int64_t, StorePtr> stores;
  std::unordered_map<int64_t, std::shared_ptr<Group>> groups;
  std::unordered_map<int64_t, std::thread::id> owners;  // of stores and groups: who opened them
  int64_t next_id = 1;
};

// Never destroyed: threads may still close groups while the process exits.
Tables& tables() {
  static Tables* instance = new Tables();
  return *instance;
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

StorePtr find_store(int64_t id) {
  auto& t = tables();
  std::lock_guard<std::mutex> lock(t.mutex);
  auto found = t.stores.find(id);
  if (found == t.stores.end()) throw Error("BAD_ARGUMENT", "there is no open store " + std::to_string(id));
  return found->second;
}

BackendFactory find_factory(const std::string& name) {
  std::lock_guard<std::mutex> lock(tables().mutex);
  auto found = tables().factories.find(name);
  if (found == tables().factories.end()) throw Error("BAD_ARGUMENT", "there is no backend '" + name + "' here");
  return found->second;
}

// ---- operators ----

int64_t insert_store(StorePtr store) {
  auto& t = tables();
  std::lock_guard<std::mutex> lock(t.mutex);
  t.stores.emplace(t.next_id, std::move(store));
  t.owners.emplace(t.next_id, std::this_thread::get_id());
  return t.next_id++;
}

// Serves a store on the port (0: a free one). The server lives as long as the store is open.
int64_t store_serve(const std::string& host, int64_t port, double timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = true;
  options.waitWorkers = false;
  options.timeout = milliseconds(timeout);
  return insert_store(c10::make_intrusive<c10d::TCPStore>(host, options));
}

int64_t store_port(int64_t id) {
  auto store = c10::dynamic_intrusive_pointer_cast<c10d::TCPStore>(find_store(id));
  if (!store) throw Error("BAD_ARGUMENT", "store " + std::to_string(id) + " is not a TCP store and has no port");
  return store->getPort();
}

void store_close(int64_t id) {
  auto& t = tables();
  StorePtr closing;
  std::lock_guard<std::mutex> lock(t.mutex);
  auto found = t.stores.find(id);
  if (found == t.stores.end()) return;
  closing = std::move(found->second);
  t.stores.erase(found);
  t.owners.erase(id);
}

bool store_is_open(int64_t id) {
  std::lock_guard<std::mutex> lock(tables().mutex);
  return tables().stores.count(id) > 0;
}

// What follows blocks until the store answers: for a process that has nothing else to do.

// Sets the key unless it is set. Returns what stands there now.
std::string store_first(int64_t id, const std::string& key, const std::string& text) {
  const auto bytes = find_store(id)->compareSet(key, {}, std::vector<uint8_t>(text.begin(), text.end()));
  return {bytes.begin(), bytes.end()};
}

// The text of a key; "" where it is not set.
std::string store_read(int64_t id, const std::string& key) {
  auto store = find_store(id);
  if (!store->check({key})) return "";
  const auto bytes = store->get(key);
  return {bytes.begin(), bytes.end()};
}

// Adds to a counter, which begins at 0, and returns it.
int64_t store_add(int64_t id, const std::string& key, int64_t n) { return find_store(id)->add(key, n); }

// A store inside this process, shared by every thread that names it.
int64_t store_in_process(const std::string& name) {
  auto& t = tables();
  std::lock_guard<std::mutex> lock(t.mutex);
  auto& store = t.named_stores[name];
  if (!store) store = c10::make_intrusive<c10d::HashStore>();
  t.stores.emplace(t.next_id, store);
  t.owners.emplace(t.next_id, std::this_thread::get_id());
  return t.next_id++;
}

// Connects to a store in the background. The first id is valid as soon as the work (the second) has finished.
std::tuple<int64_t, int64_t> store_connect(const std::string& host, int64_t port, double timeout) {
  auto& t = tables();
  int64_t id;
  {
    std::lock_guard<std::mutex> lock(t.mutex);
    id = t.next_id++;
    t.owners.emplace(id, std::this_thread::get_id());
  }
  int64_t work = run_as_work([=, &t] {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout);
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    std::lock_guard<std::mutex> lock(t.mutex);
    if (t.owners.count(id) > 0) t.stores.emplace(id, std::move(store));  // else its owner has ended meanwhile
  });
  return {id, work};
}

// Opens a process group in the background; every rank of it must. The first id is valid as soon as the work has
// finished.
std::tuple<int64_t, int64_t> group_open(int64_t store_id, const std::string& prefix, const std::string& backend,
                                        const std::string& device, int64_t rank, int64_t size, double timeout) {
  if (size < 1 || rank < 0 || rank >= size) throw Error("BAD_ARGUMENT", "a group needs 0 <= rank < size");
  auto& t = tables();
  auto store = find_store(store_id);
  const BackendFactory factory = find_factory(backend);
  int64_t id;
  {
    std::lock_guard<std::mutex> lock(t.mutex);
    id = t.next_id++;
    t.owners.emplace(id, std::this_thread::get_id());
  }
  int64_t work = run_as_work([=, &t] {
    auto group = std::make_shared<Group>();
    group->timeout = milliseconds(timeout);
    group->state->flight.group = id;
    group->works_on_streams = factory.works_on_streams;
    group->store = c10::make_intrusive<c10d::PrefixStore>(prefix, store);
    group->store->setTimeout(group->timeout);
    group->backend =
        factory.create({group->store, static_cast<int>(rank), static_cast<int>(size), group->timeout, device});
    if (factory.has_peers) {
      group->watch_store = c10::make_intrusive<c10d::PrefixStore>(prefix + "/watch", store->clone());
      watch(*group);
    }
    {
      std::lock_guard<std::mutex> lock(t.mutex);
      if (t.owners.count(id) > 0) {
        t.groups.emplace(id, std::move(group));
        return;
      }
    }
    unwatch(*group);  // its owner has ended meanwhile
  });
  return {id, work};
}

// Closes a group in the background: its destructor waits for the operations in flight, or for their timeout. Returns
// the work of closing, and how many operations are in flight.
std::tuple<int64_t, int64_t> group_close(int64_t id, bool abort) {
  auto& t = tables();
  std::shared_ptr<Group> closing;
  {
    std::lock_guard<std::mutex> lock(t.mutex);
    auto found = t.groups.find(id);
    if (found != t.groups.end()) {
      closing = std::move(found->second);
      t.groups.erase(found);
      t.owners.erase(id);
    }
  }
  const int64_t in_flight = closing ? closing->state->in_flight.load() : 0;
  const int64_t work = run_as_work([closing = std::move(closing), abort]() mutable {
    if (!closing) return;
    unwatch(*closing);
    if (abort) closing->backend->abort();
    closing.reset();
  });
  return {work, in_flight};
}

// What the ranks of a group say of themselves; see monitor.h. Blocks for about half a second.
std::vector<std::string> group_ask(int64_t id) { return ask_ranks(*find_group(id)); }

// Tells a failure to the other ranks and ends this rank's other operations. Returns the first failure of the group.
std::string group_fail(int64_t id, const std::string& text) {
  auto group = find_group(id);
  const std::string first = tell_failure(*group, text);
  fail_group(group->state, first.empty() ? text : first);
  return first;
}

// Every rank's text for the operation of this number, by rank; "" from those that do not come before the timeout.
// Blocks: it is for the checking mode.
std::vector<std::string> group_agree(int64_t id, int64_t number, const std::string& text) {
  auto group = find_group(id);
  const auto key = [](int64_t n, int rank) { return "agree/" + std::to_string(n) + "/" + std::to_string(rank); };
  const int own = group->backend->getRank(), size = group->backend->getSize();
  c10d::Store& store = *group->store;
  store.set(key(number, own), std::vector<uint8_t>(text.begin(), text.end()));
  using Clock = std::chrono::steady_clock;
  const std::chrono::milliseconds round(250), grace(1000);  // a difference is not kept waiting for those who are late
  auto deadline = Clock::now() + group->timeout;
  std::vector<std::string> texts(size);
  texts[own] = text;
  bool differ = false;
  int missing = size - 1;
  do {
    for (int rank = 0; rank < size; ++rank) {
      if (!texts[rank].empty()) continue;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      try {
        store.wait({key(number, rank)}, std::clamp(left, std::chrono::milliseconds(1), round));
      } catch (const c10::DistNetworkError&) {
        throw Error("COLLECTIVE_FAILED", "the store where the ranks compare operations is gone: its host left or died");
      } catch (const std::exception&) {
        continue;
      }
      const auto bytes = store.get(key(number, rank));
      texts[rank] = std::string(bytes.begin(), bytes.end());
      --missing;
      if (texts[rank] == text || differ) continue;
      differ = true;
      deadline = std::min(deadline, Clock::now() + grace);
    }
  } while (missing > 0 && Clock::now() < deadline);
  // Who reads number n has read n - 1, so n - 2 was read by all.
  if (number > 2) store.deleteKey(key(number - 2, own));
  return texts;
}

bool backend_available(const std::string& name) {
  std::lock_guard<std::mutex> lock(tables().mutex);
  return tables().factories.count(name) > 0;
}

}  // namespace

void register_backend(const std::string& name, BackendFactory factory) {
  std::lock_guard<std::mutex> lock(tables().mutex);
  tables().factories[name] = factory;
}

void close_owned(std::thread::id owner) {
  auto& t = tables();
  std::vector<int64_t> groups, stores;
  {
    std::lock_guard<std::mutex> lock(t.mutex);
    for (const auto& [id, who] : t.owners)
      if (who == owner) (t.groups.count(id) > 0 ? groups : stores).push_back(id);
    for (int64_t id : stores)
      if (t.stores.count(id) == 0) t.owners.erase(id);  // still being opened
  }
  for (int64_t id : groups) {
    bool failed;
    {
      GroupState& state = *find_group(id)->state;
      std::lock_guard<std::mutex> lock(state.mutex);
      failed = !state.failure.empty();
    }
    release_work(std::get<0>(group_close(id, failed)));
  }
  for (int64_t id : stores) store_close(id);
}

std::shared_ptr<Group> find_group(int64_t id) {
  std::lock_guard<std::mutex> lock(tables().mutex);
  auto found = tables().groups.find(id);
  if (found == tables().groups.end()) throw Error("BAD_ARGUMENT", "there is no open group " + std::to_string(id));
  return found->second;
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("store_serve(str host, int port, float timeout) -> int", &store_serve);
  m.def("store_connect(str host, int port, float timeout) -> (int, int)", &store_connect);
  m.def("store_in_process(str name) -> int", &store_in_process);
  m.def("store_port(int store) -> int", &store_port);
  m.def("store_close(int store) -> ()", &store_close);
  m.def("store_is_open(int store) -> bool", &store_is_open);
  m.def("store_first(int store, str key, str text) -> str", &store_first);
  m.def("store_read(int store, str key) -> str", &store_read);
  m.def("store_add(int store, str key, int n) -> int", &store_add);
  m.def("group_open(int store, str prefix, str backend, str device, int rank, int size, float timeout) -> (int, int)",
        &group_open);
  m.def("group_close(int group, bool abort) -> (int, int)", &group_close);
  m.def("group_ask(int group) -> str[]", &group_ask);
  m.def("group_fail(int group, str text) -> str", &group_fail);
  m.def("group_agree(int group, int number, str text) -> str[]", &group_agree);
  m.def("record_times(bool enabled) -> ()", &record_times);
  m.def("take_times() -> int[]", &take_times);
  m.def("backend_available(str name) -> bool", &backend_available);
}

}  // namespace shardloop
