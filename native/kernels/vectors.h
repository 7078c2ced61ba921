// The widest vector of floats that the instruction set of the including file has. As with blocks.h all of it is local
// to that file.
#pragma once

namespace shardloop {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float Vector __attribute__((vector_size(kWidth * sizeof(float)), aligned(4), may_alias));

}  // namespace
}  // namespace shardloop
