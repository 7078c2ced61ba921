// How ranks meet in shared memory, and how they wait there; see shared_segment.h.
#include "shared_segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace shardloop {
namespace {

using namespace std::chrono_literals;

constexpr auto kApart = 1ms;   // how seldom a rank moves to another processor
constexpr auto kSlice = 20ms;  // how long a sleeper does not look at peers, failure and deadline
constexpr int kPauses = 15;    // some 0.2 us; longer makes two ranks on one processor slower, and others no faster

void futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* time = nullptr) {
  syscall(SYS_futex, &word, operation, value, time, nullptr, 0);
}

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

int pidfd_open(int process) { return static_cast<int>(syscall(SYS_pidfd_open, process, 0)); }

void require(bool done, const char* what) {
  if (!done) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

// "" where there is none.
std::string link(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::read_symlink(path, ignored).string();
}

std::string describe(const Header& header) {
  static const char* const names[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "barrier"};
  std::ostringstream text;
  text << names[header.kind % 5] << " of " << header.bytes << " bytes";
  if (header.kind == kBroadcast) text << " from root " << header.root;
  if (header.kind <= kReduceScatter)
    text << " (dtype " << static_cast<int>(header.dtype) << ", operation " << static_cast<int>(header.op) << ")";
  return text.str();
}

}  // namespace

SharedSegment::SharedSegment(c10d::Store& store, int rank, int size)
    : rank_(rank), size_(size), spins_(size <= cores()), bytes_(size * kRankBytes), processes_(size, {-1, POLLIN, 0}) {
  const auto key = [](int of) { return "shared/" + std::to_string(of); };
  int file = -1;
  std::string mine = "mapped";  // or what rank 0 made, or "!" and why a rank cannot
  try {
    const std::string processes = link("/proc/self/ns/pid");  // in which their ids mean the same
    if (rank == 0) {
      const std::string name = "shardloop-" + std::to_string(std::random_device()());
      file = memfd_create(name.c_str(), MFD_CLOEXEC);
      require(file >= 0, "memfd_create");
      // All of it is taken at once: no room for it is then a text here, and not a signal at some later write.
      const auto length = static_cast<off_t>(bytes_);
      require(ftruncate(file, length) == 0 && fallocate(file, 0, 0, length) == 0, "no memory for it");
      mine = name + ' ' + processes + " /proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
    } else {
      std::istringstream words(store.get_to_str(key(0)));
      std::string name, its_processes, path;
      words >> name >> its_processes >> path;
      if (processes != its_processes || link(path) != "/memfd:" + name + " (deleted)")
        throw std::runtime_error("it does not see the processes of rank 0");
      file = open(path.c_str(), O_RDWR | O_CLOEXEC);
      require(file >= 0, "opening that of rank 0");
    }
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    require(memory != MAP_FAILED, "mmap");
    memory_ = static_cast<char*>(memory);
    const int itself = pidfd_open(getpid());
    require(itself >= 0, "pidfd_open");
    close(itself);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);  // where Yama asks for it; the others may read this process
    place(rank).process = getpid();
    place(rank).memory = memory_;
  } catch (const std::runtime_error& refusal) {
    mine = std::string("!") + refusal.what();
  }
  store.set(key(rank), mine);
  // All ranks read the same, and come to the same end.
  std::string refusal;
  for (int other = 0; other < size; ++other) {
    const std::string text = store.get_to_str(key(other));
    if (text[0] == '!' && refusal.empty()) refusal = "rank " + std::to_string(other) + ": " + text.substr(1);
  }
  if (file >= 0) close(file);
  if (!refusal.empty()) {
    if (memory_ != nullptr) munmap(memory_, bytes_);
    // Rank 0 may be the store's host, and leaves when all have read what it did.
    const auto end = Clock::now() + 2s;
    for (auto read = store.add("shared/read", 1); rank == 0 && read < size && Clock::now() < end;
         read = store.add("shared/read", 0))
      std::this_thread::sleep_for(5ms);
    throw std::runtime_error("the ranks cannot share memory: " + refusal);
  }
  for (int other = 0; other < size; ++other) {
    processes_[other].fd = pidfd_open(place(other).process);
    char byte;
    reads_ = reads_ && read_memory(other, place(other).memory, &byte, 1);
  }
}

SharedSegment::~SharedSegment() {
  for (const pollfd& process : processes_)
    if (process.fd >= 0) close(process.fd);
  munmap(memory_, bytes_);
}

SharedSegment::Place& SharedSegment::place(int rank) const {
  return *reinterpret_cast<Place*>(memory_ + rank * kRankBytes);
}

char* SharedSegment::slot(int rank, uint32_t step) const {
  return memory_ + rank * kRankBytes + kPlaceBytes + step % kSlots * kSlotBytes;
}

Transfer& SharedSegment::given(int rank) const { return place(rank).transfers[operation_ % 2]; }

bool SharedSegment::read_memory(int other, const char* from, char* to, size_t bytes) const {
  while (bytes > 0) {
    const iovec here{to, bytes}, there{const_cast<char*>(from), bytes};
    const ssize_t got = process_vm_readv(place(other).process, &here, 1, &there, 1, 0);
    if (got <= 0) return false;
    from += got, to += got, bytes -= got;
  }
  return true;
}

void SharedSegment::publish() {
  Place& own = place(rank_);
  own.processor.store(sched_getcpu(), std::memory_order_relaxed);
  own.published.store(++step_);
  if (own.sleepers.load() > 0) futex(own.published, FUTEX_WAKE, INT_MAX);
}

void SharedSegment::wait(uint32_t count) {
  for (int i = 1; i < size_; ++i) {
    const int other = (rank_ + i) % size_;
    wait_for(other, count);
    const Header &mine = given(rank_).header, &theirs = given(other).header;
    if (count == first_step_ + 1 && mine != theirs)
      throw std::runtime_error("The operations of the ranks differ: rank " + std::to_string(rank_) +
                               " of the group called " + describe(mine) + ", rank " + std::to_string(other) + " " +
                               describe(theirs));
  }
}

void SharedSegment::wait_for(int other, uint32_t count) {
  Place& its = place(other);
  const auto here = [&] { return reached(its.published.load(std::memory_order_acquire), count); };
  if (here()) return;
  const auto until = Clock::now() + spin_;
  while (spins_ && Clock::now() < until) {
    for (int i = 0; i < kPauses; ++i) {
      if (here()) return;
      pause_processor();
    }
    part_from(other);
    sched_yield();  // the other may be waiting for this very processor
  }
  const timespec slice{0, std::chrono::nanoseconds(kSlice).count()};
  while (!here()) {
    // It may have published its last step and gone just now, so the step is asked for again behind the reason.
    const std::string reason = why_not(other);
    if (here()) return;
    if (!reason.empty()) throw std::runtime_error(reason);
    // Either the other sees a sleeper behind its store, or this sees the store behind its count: both are seq_cst.
    its.sleepers.fetch_add(1);
    const uint32_t seen = its.published.load();
    if (!reached(seen, count)) futex(its.published, FUTEX_WAIT, seen, &slice);
    its.sleepers.fetch_sub(1);
  }
}

// Two ranks that were woken on one processor stay there together for tens of milliseconds while another is idle, and an
// operation takes three times as long. One of them leaves it: it may not run there for a moment, so the scheduler moves
// it.
void SharedSegment::part_from(int other) {
  const int here = sched_getcpu();
  if (rank_ < other || place(other).processor.load(std::memory_order_relaxed) != here || Clock::now() < may_part_)
    return;
  may_part_ = Clock::now() + kApart;
  cpu_set_t all, others;
  if (here < 0 || sched_getaffinity(0, sizeof all, &all) != 0) return;
  others = all;
  CPU_CLR(here, &others);
  if (sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof all, &all);
}

std::string SharedSegment::why_not(int other) const {
  const std::string name = "rank " + std::to_string(other) + " of the group";
  if (left_.load()) return "the group was aborted";
  for (int rank = 0; rank < size_; ++rank)
    if (place(rank).state.load() == kFailed) return place(rank).failure;
  pollfd process = processes_[other];
  if (process.fd < 0 || poll(&process, 1, 0) > 0)
    return "Connection closed by peer: the process of " + name + " has ended";
  if (place(other).state.load() == kLeft) return "Connection closed by peer: " + name + " has left it";
  if (Clock::now() >= deadline_) return "Timed out waiting for " + name;
  return "";
}

void SharedSegment::fail(const std::string& text) {
  std::strncpy(place(rank_).failure, text.c_str(), sizeof(Place::failure) - 1);
  place(rank_).state.store(kFailed);
  wake_all();
}

void SharedSegment::leave() {
  left_.store(true);
  auto state = kHere;
  place(rank_).state.compare_exchange_strong(state, kLeft);
  wake_all();
}

void SharedSegment::wake_all() {
  for (int rank = 0; rank < size_; ++rank) futex(place(rank).published, FUTEX_WAKE, INT_MAX);
}

}  // namespace shardloop
