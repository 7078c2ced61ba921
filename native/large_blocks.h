// Memory for tensors of a megabyte and more, in pages of their own. Free blocks are kept, joined and cut for those that
// come, as long as live and free ones together are no more than a little above what was live at once: a step finds the
// memory of the step before without page faults, and no heap keeps what is free between blocks that live.
#pragma once
#include <cstddef>
#include <cstdint>

namespace shardloop {

// Blocks from this size on belong here, on Linux; elsewhere none do.
#ifdef __linux__
constexpr size_t kLargeFrom = size_t{1} << 20;
#else
constexpr size_t kLargeFrom = SIZE_MAX;
#endif

// A block of at least `bytes`, or null where the kernel gives none.
void* take_large(size_t bytes);

// The bytes that a live block of these was taken for, 0 of any other address.
size_t large_size(const void* block);

// Gives back a live block of these; false, and nothing is done, for any other address.
bool give_large(void* block);

// Bytes that free blocks hold.
size_t idle_large();

// Gives all free blocks to the kernel, and forgets how much was live at once.
void trim_large();

}  // namespace shardloop
