// What the allocator tells work_count.cc, while a count is under way.
#pragma once

#include <atomic>
#include <cstdint>

namespace shardloop {

extern std::atomic<bool> counting_blocks;
extern std::atomic<int64_t> counted_blocks, counted_bytes;

inline void count_block(int64_t bytes) {
  if (!counting_blocks.load(std::memory_order_relaxed)) return;
  counted_blocks.fetch_add(1, std::memory_order_relaxed);
  counted_bytes.fetch_add(bytes, std::memory_order_relaxed);
}

}  // namespace shardloop
