// How ranks meet in shared memory, and how they wait there; see shared_segment.h.
#include "shared_segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace shardloop {
namespace {

using namespace std::chrono_literals;

constexpr auto kSlice = 20ms;  // how long a sleeper does not look at peers, failure and deadline
constexpr int kPauses = 50;    // about a microsecond
constexpr size_t kPage = 4096;

size_t round_up(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, std::chrono::nanoseconds time) {
  const timespec slice{0, static_cast<long>(time.count())};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &slice, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Steps wrap around after 2^32.
bool reached(uint32_t published, uint32_t count) { return static_cast<int32_t>(published - count) >= 0; }

int cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// Why a rank cannot take part; told to all, so that they agree.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

Refusal refusal_with(const char* what) { return Refusal(std::string(what) + ": " + std::strerror(errno)); }

// From another process; 0 or the error.
int read_memory(int process, const char* from, char* to, size_t bytes) {
  while (bytes > 0) {
    const iovec here{to, bytes}, there{const_cast<char*>(from), bytes};
    const ssize_t got = process_vm_readv(process, &here, 1, &there, 1, 0);
    if (got <= 0) return got < 0 ? errno : EFAULT;
    from += got, to += got, bytes -= got;
  }
  return 0;
}

int pidfd_open(int process) { return static_cast<int>(syscall(SYS_pidfd_open, process, 0)); }

// All of it is taken at once: a machine without room is then a text here, and not a signal at some later write.
int make_file(size_t bytes) {
  const int file = static_cast<int>(syscall(SYS_memfd_create, "shardloop", 1u /* closed by exec */));
  if (file < 0) throw refusal_with("memfd_create");
  const auto size = static_cast<off_t>(bytes);
  if (ftruncate(file, size) == 0 && fallocate(file, 0, 0, size) == 0) return file;
  const Refusal refusal = refusal_with("no memory for it");
  close(file);
  throw refusal;
}

int open_file(const std::string& of_first, size_t bytes, uint64_t& token) {
  std::istringstream words(of_first);
  std::string process, number;
  words >> process >> number >> token;
  if (process == "!") throw Refusal("rank 0 could not make it");
  const int file = open(("/proc/" + process + "/fd/" + number).c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) throw refusal_with("opening that of rank 0");
  struct stat info {};
  if (fstat(file, &info) == 0 && info.st_size == static_cast<off_t>(bytes)) return file;
  close(file);
  throw Refusal("it does not see the processes of rank 0");
}

// A namespace in which process ids mean the same on all ranks.
std::string process_namespace() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? std::to_string(info.st_dev) + "." + std::to_string(info.st_ino) : "?";
}

void set(c10d::Store& store, const std::string& key, const std::string& text) {
  store.set(key, std::vector<uint8_t>(text.begin(), text.end()));
}

std::string get(c10d::Store& store, const std::string& key) {
  const auto bytes = store.get(key);
  return {bytes.begin(), bytes.end()};
}

std::string describe(const Header& header) {
  static const char* const names[] = {"nothing", "all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier"};
  std::ostringstream text;
  text << names[header.kind % 6] << " of " << header.bytes << " bytes";
  if (header.kind == kBroadcast) text << " from root " << header.root;
  if (header.kind <= kReduceScatter) text << " (dtype " << header.dtype << ", operation " << header.op << ")";
  return text.str();
}

}  // namespace

struct alignas(128) SharedSegment::Place {
  std::atomic<uint32_t> published;  // also the word on which others sleep
  std::atomic<uint32_t> sleepers;
  std::atomic<uint32_t> left;
  std::atomic<int> processor;  // on which its last operation began
  // Of operations by their number; nobody is more than one operation ahead.
  alignas(64) Header headers[2];
  const char* inputs[2];
};

struct SharedSegment::Control {
  uint64_t token;
  std::atomic<uint32_t> failed;  // 1: the text is being written, 2: it can be read
  char text[1000];
};

SharedSegment::SharedSegment(c10d::Store& store, int rank, int size)
    : rank_(rank), size_(size), spins_(size <= cores()), processes_(size) {
  static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);
  static_assert(sizeof(Control) <= kPage);
  slots_at_ = round_up(kPage + size * sizeof(Place));
  bytes_ = slots_at_ + size * kSlots * kSlotBytes;
  // What each rank says: "process file token namespace address-of-token", or "!" and why it cannot.
  const auto key = [](int of) { return "shared/" + std::to_string(of); };
  uint64_t token = 0;
  int file = -1;
  std::string mine;
  try {
    if (rank == 0) {
      file = make_file(bytes_);
      std::random_device random;
      token = static_cast<uint64_t>(random()) << 32 | random();
    } else {
      file = open_file(get(store, key(0)), bytes_, token);
    }
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) throw refusal_with("mmap");
    memory_ = static_cast<char*>(memory);
    auto& control = *reinterpret_cast<Control*>(memory_);
    if (rank == 0) control.token = token;
    if (control.token != token) throw Refusal("it does not see the processes of rank 0");
    const int itself = pidfd_open(getpid());
    if (itself < 0) throw refusal_with("pidfd_open");
    close(itself);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);  // where Yama asks for it; the others may read this process
    token_ = token;
    std::ostringstream text;
    text << getpid() << ' ' << file << ' ' << token << ' ' << process_namespace() << ' '
         << reinterpret_cast<uintptr_t>(&token_);
    mine = text.str();
  } catch (const Refusal& refusal) {
    mine = std::string("! ") + refusal.what();
  }
  set(store, key(rank), mine);
  // All ranks read the same, and come to the same end.
  std::string refusal, first_namespace;
  for (int other = 0; other < size; ++other) {
    const std::string text = get(store, key(other));
    std::istringstream words(text);
    std::string process, number, same_token, name;
    uintptr_t address = 0;
    words >> process >> number >> same_token >> name >> address;
    if (other == 0) first_namespace = name;
    if (!refusal.empty()) continue;
    if (process == "!") {
      refusal = "rank " + std::to_string(other) + ": " + text.substr(2);
    } else if (name != first_namespace) {
      refusal = "rank " + std::to_string(other) + ": it does not see the processes of rank 0";
    } else if (const int id = std::stoi(process); id != getpid()) {
      processes_[other] = {id, pidfd_open(id)};
      if (processes_[other].descriptor < 0) processes_[other].descriptor = kGone;
      // Whether its memory can be read: what it says of itself stands there as well.
      uint64_t seen = 0;
      const char* const there = reinterpret_cast<const char*>(address);
      if (read_memory(id, there, reinterpret_cast<char*>(&seen), sizeof seen) != 0 || seen != token) reads_ = false;
    }
  }
  if (file >= 0) close(file);
  if (refusal.empty()) return;
  release();
  // Rank 0 may be the store's host, and leaves when all have read what it did.
  const auto end = Clock::now() + 2s;
  for (auto read = store.add("shared/read", 1); rank == 0 && read < size && Clock::now() < end;
       read = store.add("shared/read", 0))
    std::this_thread::sleep_for(5ms);
  throw std::runtime_error("the ranks cannot share memory: " + refusal);
}

SharedSegment::~SharedSegment() { release(); }

void SharedSegment::release() {
  for (const Process& process : processes_)
    if (process.descriptor >= 0) close(process.descriptor);
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

SharedSegment::Place& SharedSegment::place(int rank) const { return reinterpret_cast<Place*>(memory_ + kPage)[rank]; }

char* SharedSegment::slot(int rank, uint32_t step) const {
  return memory_ + slots_at_ + (static_cast<size_t>(rank) * kSlots + step % kSlots) * kSlotBytes;
}

void SharedSegment::begin(const Header& header, const char* input) {
  first_step_ = step_;
  Place& own = place(rank_);
  own.headers[++operation_ % 2] = header;
  own.inputs[operation_ % 2] = reads_ ? input : nullptr;
  own.processor.store(sched_getcpu(), std::memory_order_relaxed);
}

bool SharedSegment::in_reach() const {
  for (int rank = 0; rank < size_; ++rank)
    if (place(rank).inputs[operation_ % 2] == nullptr) return false;
  return true;
}

void SharedSegment::read(int other, size_t offset, char* to, size_t bytes) {
  const char* from = place(other).inputs[operation_ % 2] + offset;
  if (processes_[other].descriptor == kHere) {
    std::memcpy(to, from, bytes);
  } else if (const int error = read_memory(processes_[other].id, from, to, bytes); error != 0) {
    throw std::runtime_error("Connection closed by peer: the memory of rank " + std::to_string(other) +
                             " of the group cannot be read: " + std::strerror(error));
  }
}

void SharedSegment::check_reads(Clock::time_point deadline) const {
  for (int other = 0; other < size_; ++other) {
    if (other == rank_) continue;
    if (const std::string reason = why_not(other, deadline); !reason.empty()) throw std::runtime_error(reason);
  }
}

void SharedSegment::publish() {
  Place& own = place(rank_);
  own.published.store(++step_);
  if (own.sleepers.load() > 0) futex_wake(own.published);
}

void SharedSegment::wait(uint32_t count, std::chrono::nanoseconds spin, Clock::time_point deadline) {
  Clock::time_point spin_until{};
  for (int i = 1; i < size_; ++i) {
    const int other = (rank_ + i) % size_;
    if (!reached(place(other).published.load(std::memory_order_acquire), count)) {
      if (spin_until == Clock::time_point{}) spin_until = Clock::now() + spin;
      wait_for(other, count, spin_until, deadline);
    }
    if (count == first_step_ + 1) compare(other);
  }
}

void SharedSegment::wait_for(int other, uint32_t count, Clock::time_point spin_until, Clock::time_point deadline) {
  auto& word = place(other).published;
  const auto here = [&] { return reached(word.load(std::memory_order_acquire), count); };
  // The other may be waiting for this very processor: soon it yields, and where it knows so, it sleeps, since the
  // scheduler looks for an idle processor for whoever is woken, but leaves together those that only yield.
  const auto& processor = place(other).processor;
  for (int turn = 0; spins_ && (turn == 0 || Clock::now() < spin_until); ++turn) {
    for (int i = 0; i < kPauses; ++i) {
      if (here()) return;
      pause_processor();
    }
    if (turn == 0) continue;
    if (processor.load(std::memory_order_relaxed) == sched_getcpu()) break;
    sched_yield();
  }
  auto& sleepers = place(other).sleepers;
  while (true) {
    // It may have published its last step and gone just now, so the step is asked for again behind the reason.
    const std::string reason = why_not(other, deadline);
    if (here()) return;
    if (!reason.empty()) throw std::runtime_error(reason);
    // Either the other sees a sleeper behind its store, or this sees the store behind its count: both are seq_cst.
    sleepers.fetch_add(1);
    const uint32_t seen = word.load();
    if (!reached(seen, count)) futex_wait(word, seen, kSlice);
    sleepers.fetch_sub(1);
    if (here()) return;
  }
}

// What ends a wait other than the step; empty: nothing.
std::string SharedSegment::why_not(int other, Clock::time_point deadline) const {
  const auto& control = *reinterpret_cast<const Control*>(memory_);
  const std::string name = "rank " + std::to_string(other) + " of the group";
  if (left_.load()) return "the group was aborted";
  if (control.failed.load() == 2) return control.text;
  const int descriptor = processes_[other].descriptor;
  pollfd process{descriptor, POLLIN, 0};
  if (descriptor == kGone || (descriptor >= 0 && poll(&process, 1, 0) > 0))
    return "Connection closed by peer: the process of " + name + " has ended";
  if (place(other).left.load() != 0) return "Connection closed by peer: " + name + " has left it";
  if (Clock::now() >= deadline) return "Timed out waiting for " + name;
  return "";
}

void SharedSegment::compare(int other) {
  const Header& mine = place(rank_).headers[operation_ % 2];
  const Header& theirs = place(other).headers[operation_ % 2];
  if (mine == theirs) return;
  throw std::runtime_error("The operations of the ranks differ: rank " + std::to_string(rank_) +
                           " of the group called " + describe(mine) + ", rank " + std::to_string(other) + " " +
                           describe(theirs));
}

void SharedSegment::fail(const std::string& text) {
  auto& control = *reinterpret_cast<Control*>(memory_);
  uint32_t none = 0;
  if (!control.failed.compare_exchange_strong(none, 1)) return;
  std::strncpy(control.text, text.c_str(), sizeof control.text - 1);
  control.failed.store(2);
  wake_all();
}

void SharedSegment::leave() {
  left_.store(true);
  place(rank_).left.store(1);
  wake_all();
}

void SharedSegment::wake_all() {
  for (int rank = 0; rank < size_; ++rank) futex_wake(place(rank).published);
}

}  // namespace shardloop
