// The blocks of large_blocks.h: those that live by address, free ones by age and by size, under one lock.
#include "large_blocks.h"

#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <unordered_map>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace shardloop {
namespace {

constexpr size_t kPage = size_t{64} << 10;

// What free blocks may hold beyond what was live at once, as a part of it: without it a step gives back in its backward
// what its next forward takes, and page faults take 2 to 5 % of its time.
constexpr size_t kSlack = 32;

// A free block serves requests of its size down to an eighth less.
constexpr size_t kWaste = 8;

struct Block {
  void* address;
  size_t size;
};

struct Live {
  size_t size, asked;
};

struct Blocks {
  std::mutex mutex;
  std::unordered_map<const void*, Live> live;
  std::list<Block> idle;  // the longest free first
  std::multimap<size_t, std::list<Block>::iterator> by_size;
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

void unmap(const Block& block) {
#ifdef __linux__
  munmap(block.address, block.size);
#else
  (void)block;
#endif
}

void forget_oldest(Blocks& all) {
  const Block block = all.idle.front();
  auto [from, to] = all.by_size.equal_range(block.size);
  while (from != to && from->second != all.idle.begin()) ++from;
  if (from != to) all.by_size.erase(from);
  all.idle.pop_front();
  all.idle_bytes -= block.size;
  unmap(block);
}

}  // namespace

void* take_large(size_t bytes) {
  Blocks& all = blocks();
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  const std::lock_guard lock(all.mutex);
  Block block{nullptr, size};
  const auto found = all.by_size.lower_bound(size);
  if (found != all.by_size.end() && found->first - size <= size / kWaste) {
    block = *found->second;
    all.idle.erase(found->second);
    all.by_size.erase(found);
    all.idle_bytes -= block.size;
  }
  all.live_bytes += block.size;
  if (all.live_bytes > all.most) all.most = all.live_bytes;
  while (!all.idle.empty() && all.live_bytes + all.idle_bytes > all.most + all.most / kSlack) forget_oldest(all);
  if (!block.address) block.address = map_pages(size);
  if (!block.address) {
    all.live_bytes -= size;
    return nullptr;
  }
  all.live.emplace(block.address, Live{block.size, bytes});
  return block.address;
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
  const Block freed{block, found->second.size};
  all.live.erase(found);
  all.live_bytes -= freed.size;
  all.idle.push_back(freed);
  all.by_size.emplace(freed.size, std::prev(all.idle.end()));
  all.idle_bytes += freed.size;
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
  while (!all.idle.empty()) forget_oldest(all);
  all.most = all.live_bytes;
}

}  // namespace shardloop
