// The optimizer ops: shardloop::adamw_step_, sgd_step_ and lion_step_, one pass over memory each, and grad_squares.
// Their schemas, and their CPU side: how blocks of the list go to threads. CUDA's is
// cuda/optimizer.cu.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "cpu_level.h"
#include "kernels/optimizer_cpu.h"
#include "optimizer_lists.h"
#include "parallel.h"

namespace shardloop {
namespace {

constexpr int64_t kGrainBlocks = 32;  // as many elements as ATen's grain: fewer are not worth a second thread
constexpr int64_t kSquaresBlock = 8 * kBlock;

const CpuKernels& kernels() {
#if defined(__x86_64__)
  return best_of(kOptimizerPlain, kOptimizerAvx2, kOptimizerAvx512);
#else
  return kOptimizerPlain;
#endif
}

// How many blocks lie before each tensor; at the end, how many there are. So one large tensor and many small ones are
// both spread evenly.
template <class Count>
std::vector<int64_t> blocks_before(size_t n, int64_t block, const Count& count) {
  std::vector<int64_t> before(n + 1, 0);
  for (size_t i = 0; i < n; ++i) before[i + 1] = before[i] + (count(i) + block - 1) / block;
  return before;
}

// The tensor that holds a block.
size_t tensor_of(const std::vector<int64_t>& before, int64_t block) {
  return static_cast<size_t>(std::upper_bound(before.begin(), before.end(), block) - before.begin()) - 1;
}

int64_t bytes_of(Kind kind) {
  switch (kind) {
    case Kind::f64: return 8;
    case Kind::f32: return 4;
    default: return 2;
  }
}

void* advanced(void* at, int64_t elements, Kind kind) {
  return at == nullptr ? nullptr : static_cast<char*>(at) + elements * bytes_of(kind);
}

void step_on_cpu(const Step& step) {
  const auto before = blocks_before(step.items.size(), kBlock, [&](size_t i) { return step.items[i].n; });
  const CpuKernels& table = kernels();
  const Kinds kinds = step.kinds;
  parallel_for(before.back(), kGrainBlocks, [&](int64_t begin, int64_t end) {
    size_t i = tensor_of(before, begin);
    for (int64_t block = begin; block < end; ++block) {
      while (block >= before[i + 1]) ++i;
      const Item& item = step.items[i];
      const int64_t from = (block - before[i]) * kBlock;
      const BlockPointers at = {
          advanced(item.master, from, kinds.master),
          advanced(item.parameter, from, kinds.parameter),
          advanced(const_cast<void*>(item.gradient), from, kinds.gradient),
          {advanced(item.states[0], from, kinds.master), advanced(item.states[1], from, kinds.master)}};
      table.step(at, std::min(kBlock, item.n - from), kinds, step.settings);
    }
  });
}

// The sum of all squares, in double, and the first tensor that has an element that is not finite (-1: none). The sums
// of blocks are added in their order, so the result does not depend on the number of threads.
std::tuple<double, int64_t> grad_squares(at::TensorList gradients) {
  const auto dense = prepare_gradients("shardloop::grad_squares", gradients);
  const auto before = blocks_before(dense.size(), kSquaresBlock, [&](size_t i) { return dense[i].numel(); });
  const CpuKernels& table = kernels();
  std::vector<double> sums(static_cast<size_t>(before.back()));
  parallel_for(before.back(), kGrainBlocks * kBlock / kSquaresBlock, [&](int64_t begin, int64_t end) {
    size_t i = tensor_of(before, begin);
    for (int64_t block = begin; block < end; ++block) {
      while (block >= before[i + 1]) ++i;
      const Kind kind = kind_of(dense[i].scalar_type());
      const int64_t from = (block - before[i]) * kSquaresBlock;
      const void* values = advanced(const_cast<void*>(dense[i].const_data_ptr()), from, kind);
      sums[block] = table.squares(values, std::min(kSquaresBlock, dense[i].numel() - from), kind);
    }
  });
  double total = 0;
  int64_t odd = -1;
  for (size_t block = 0; block < sums.size(); ++block) {
    if (odd < 0 && !std::isfinite(sums[block])) odd = static_cast<int64_t>(tensor_of(before, block));
    total += sums[block];
  }
  return {total, odd};
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def(
      "adamw_step_(Tensor(a!)[] masters, Tensor(b!)[] parameters, Tensor[] gradients, Tensor(c!)[] exp_avgs, "
      "Tensor(d!)[] exp_avg_sqs, *, float lr, float beta1, float beta2, float eps, float weight_decay, "
      "float correction1, float correction2, float grad_scale) -> ()");
  m.def(
      "sgd_step_(Tensor(a!)[] masters, Tensor(b!)[] parameters, Tensor[] gradients, Tensor(c!)[] momentum_buffers, *, "
      "float lr, float momentum, float weight_decay, bool nesterov, float grad_scale) -> ()");
  m.def(
      "lion_step_(Tensor(a!)[] masters, Tensor(b!)[] parameters, Tensor[] gradients, Tensor(c!)[] exp_avgs, *, "
      "float lr, float beta1, float beta2, float weight_decay, float grad_scale) -> ()");
  m.def("grad_squares(Tensor[] gradients) -> (float, int)");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) {
  implement_steps<&step_on_cpu>(m);
  m.impl("grad_squares", &grad_squares);
}

}  // namespace
}  // namespace shardloop
