// Work spread over libtorch's own CPU threads. at::parallel_for is OpenMP in the caller, which would bring a second
// OpenMP runtime into the process; a TensorIterator runs the same loop inside libtorch.
#pragma once
#include <cstdint>
#include <functional>

namespace shardloop {

// Calls fn(begin, end) for parts of [0, n), at least `grain` long, on several threads. Throws what fn throws.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn);

}  // namespace shardloop
