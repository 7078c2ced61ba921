#include "parallel.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>

namespace shardloop {

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& fn) {
  if (n <= 0) return;
  if (n <= grain || at::get_num_threads() == 1 || at::in_parallel_region()) return fn(0, n);
  // One byte stands for each index; it is never read. Only its address tells a thread where its part begins.
  at::Tensor indices = at::empty({n}, at::kByte);

  auto iterator = at::TensorIterator::nullary_op(indices);
  const char* base = static_cast<const char*>(indices.const_data_ptr());
  iterator.for_each(
      [&](char** data, const int64_t* /*strides*/, int64_t count) {
        const int64_t begin = data[0] - base;
        fn(begin, begin + count);
      },
      std::max<int64_t>(grain, 1));
}

}  // namespace shardloop
