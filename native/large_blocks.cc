// The blocks of large_blocks.h: those that live by address, free ones by address, size and age, under one lock.
#include "large_blocks.h"

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace shardloop {
namespace {

constexpr size_t kPage = size_t{64} << 10;

size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// What free blocks may hold beyond what was live at once, as a part of it: without it a step gives back in its backward
// what its next forward takes, and page faults take 2 to 5 % of its time.
constexpr size_t kSlack = 32;

struct Live {
  size_t size, asked;
};

struct Idle {
  size_t size;
  std::list<char*>::iterator age;
};

// Idle blocks never touch: neighbours are one block, of which a smaller request takes the beginning.
struct Blocks {
  std::mutex mutex;
  std::unordered_map<const void*, Live> live;
  std::map<char*, Idle> idle;
  std::set<std::pair<size_t, char*>> by_size;       // the idle ones
  std::list<char*> ages;                            // the idle ones, the longest free first
  size_t live_bytes = 0, idle_bytes = 0, most = 0;  // `most` was live at once
};

// Never destroyed: tensors may outlive everything else.
Blocks& blocks() {
  static auto* all = new Blocks;
  return *all;
}

void* map_pages(size_t size) {
#ifdef __linux__
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return address == MAP_FAILED ? nullptr : address;
#else
  return size == 0 ? nullptr : nullptr;
#endif
}

void unmap(char* address, size_t size) {
#ifdef __linux__
  munmap(address, size);
#else
  (void)address, (void)size;
#endif
}

// An idle block, ahead of another in age.
void insert(Blocks& all, char* address, size_t size, std::list<char*>::iterator before) {
  all.idle.emplace(address, Idle{size, all.ages.insert(before, address)});
  all.by_size.emplace(size, address);
  all.idle_bytes += size;
}

// No longer idle; gives what came behind it in age.
std::list<char*>::iterator remove(Blocks& all, std::map<char*, Idle>::iterator block) {
  const auto behind = all.ages.erase(block->second.age);
  all.by_size.erase({block->second.size, block->first});
  all.idle_bytes -= block->second.size;
  all.idle.erase(block);
  return behind;
}

// The smallest idle block of at least `size`, cut to it; or null.
char* take_idle(Blocks& all, size_t size) {
  const auto found = all.by_size.lower_bound({size, nullptr});
  if (found == all.by_size.end()) return nullptr;
  const auto [whole, address] = *found;
  const auto behind = remove(all, all.idle.find(address));
  if (whole > size) insert(all, address + size, whole - size, behind);
  return address;
}

void give_idle(Blocks& all, char* address, size_t size) {
  auto next = all.idle.lower_bound(address);
  if (next != all.idle.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second.size == address) {
      address = previous->first;
      size += previous->second.size;
      remove(all, previous);
    }
  }
  if (next != all.idle.end() && address + size == next->first) {
    size += next->second.size;
    remove(all, next);
  }
  insert(all, address, size, all.ages.end());
}

// Gives idle memory to the kernel until at most `allowed` bytes are left.
void shrink(Blocks& all, size_t allowed) {
  while (all.idle_bytes > allowed && !all.ages.empty()) {
    const auto oldest = all.idle.find(all.ages.front());
    const auto [address, size] = std::pair(oldest->first, oldest->second.size);
    const size_t cut = std::min(size, pages(all.idle_bytes - allowed));
    const auto behind = remove(all, oldest);
    unmap(address + size - cut, cut);
    if (size > cut) insert(all, address, size - cut, behind);
  }
}

}  // namespace

void* take_large(size_t bytes) {
  Blocks& all = blocks();
  const size_t size = pages(bytes);
  const std::lock_guard lock(all.mutex);
  char* address = take_idle(all, size);
  all.live_bytes += size;
  all.most = std::max(all.most, all.live_bytes);
  const size_t limit = all.most + all.most / kSlack;
  shrink(all, limit - all.live_bytes);
  if (!address) address = static_cast<char*>(map_pages(size));
  if (!address) {
    all.live_bytes -= size;
    return nullptr;
  }
  all.live.emplace(address, Live{size, bytes});
  return address;
}

size_t large_size(const void* block) {
  if (reinterpret_cast<uintptr_t>(block) % 4096 != 0) return 0;  // no lock for what cannot be one
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.live.find(block);
  return found == all.live.end() ? 0 : found->second.asked;
}

bool give_large(void* block) {
  if (block == nullptr || reinterpret_cast<uintptr_t>(block) % 4096 != 0) return false;
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto found = all.live.find(block);
  if (found == all.live.end()) return false;
  const size_t size = found->second.size;
  all.live.erase(found);
  all.live_bytes -= size;
  give_idle(all, static_cast<char*>(block), size);
  return true;
}

size_t idle_large() {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  return all.idle_bytes;
}

void trim_large() {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  shrink(all, 0);
  all.most = all.live_bytes;
}

}  // namespace shardloop
