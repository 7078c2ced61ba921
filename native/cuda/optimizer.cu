// The optimizer ops on CUDA: the rules of kernels/optimizer_rules.h, compiled without fused multiply-adds
// (CMakeLists.txt), in one pass over memory. A launch takes some tens of tensors by value, so no table has to be copied
// to the device first.
#include <ATen/Functions.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "optimizer_lists.h"

namespace shardloop {
namespace {

constexpr int kTensors = 48;  // of a launch; its arguments must stay below 4 KiB
constexpr int kThreads = 256;
constexpr int64_t kUnit = 16 * kThreads;          // elements that a block of threads takes at once
constexpr int64_t kSquaresUnit = 256 * kThreads;  // the same for the norm, which leaves one sum a unit

// The tensors of a launch, and how many units lie before each.
struct Table {
  void* master[kTensors];
  void* parameter[kTensors];
  const void* gradient[kTensors];
  void* states[2][kTensors];
  int64_t n[kTensors];
  int64_t before[kTensors + 1];
  int count;
};
static_assert(sizeof(Table) < 3584, "the arguments of a kernel have 4 KiB");

template <class T>
__device__ __forceinline__ T load(const void* at, int64_t i, Kind kind) {
  switch (kind) {
    case Kind::f64: return static_cast<T>(static_cast<const double*>(at)[i]);
    case Kind::f32: return static_cast<T>(static_cast<const float*>(at)[i]);
    case Kind::bf16: return static_cast<T>(static_cast<float>(static_cast<const c10::BFloat16*>(at)[i]));
    default: return static_cast<T>(static_cast<float>(static_cast<const c10::Half*>(at)[i]));
  }
}

template <class T>
__device__ __forceinline__ void store(void* at, int64_t i, Kind kind, T value) {
  switch (kind) {
    case Kind::f64: static_cast<double*>(at)[i] = value; break;
    case Kind::f32: static_cast<float*>(at)[i] = static_cast<float>(value); break;
    case Kind::bf16: static_cast<c10::BFloat16*>(at)[i] = static_cast<c10::BFloat16>(static_cast<float>(value)); break;
    default: static_cast<c10::Half*>(at)[i] = static_cast<c10::Half>(static_cast<float>(value));
  }
}

__device__ __forceinline__ int tensor_of(const Table& table, int64_t unit) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.before[middle] <= unit)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class T, int kStates, class RuleOf>
__global__ void __launch_bounds__(kThreads) step_kernel(const Table table, const Kinds kinds, const RuleOf rule) {
  for (int64_t unit = blockIdx.x; unit < table.before[table.count]; unit += gridDim.x) {
    const int t = tensor_of(table, unit);
    const int64_t begin = (unit - table.before[t]) * kUnit;
    const int64_t end = begin + kUnit < table.n[t] ? begin + kUnit : table.n[t];
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      T p = load<T>(table.master[t], i, kinds.master);
      const T g = load<T>(table.gradient[t], i, kinds.gradient);
      T m = 0, v = 0;
      if constexpr (kStates > 0) m = load<T>(table.states[0][t], i, kinds.master);
      if constexpr (kStates > 1) v = load<T>(table.states[1][t], i, kinds.master);
      rule(p, g, m, v);
      store(table.master[t], i, kinds.master, p);
      if constexpr (kStates > 0) store(table.states[0][t], i, kinds.master, m);
      if constexpr (kStates > 1) store(table.states[1][t], i, kinds.master, v);
      if (kinds.parameter != Kind::none) store(table.parameter[t], i, kinds.parameter, p);
    }
  }
}

// Each block of threads leaves the sums of its units. The order within a unit is fixed, so the result is too.
__global__ void __launch_bounds__(kThreads) squares_kernel(const Table table, const Kind kind, double* sums) {
  __shared__ double partial[kThreads];
  for (int64_t unit = blockIdx.x; unit < table.before[table.count]; unit += gridDim.x) {
    const int t = tensor_of(table, unit);
    const int64_t begin = (unit - table.before[t]) * kSquaresUnit;
    const int64_t end = begin + kSquaresUnit < table.n[t] ? begin + kSquaresUnit : table.n[t];
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      const double x = load<double>(table.gradient[t], i, kind);
      sum += x * x;
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int width = kThreads / 2; width > 0; width /= 2) {
      if (threadIdx.x < width) partial[threadIdx.x] += partial[threadIdx.x + width];
      __syncthreads();
    }
    if (threadIdx.x == 0) sums[unit] = partial[0];
    __syncthreads();
  }
}

int blocks_for(int64_t units) {
  const int64_t most = static_cast<int64_t>(at::cuda::getCurrentDeviceProperties()->multiProcessorCount) * 8;
  return static_cast<int>(std::min(units, most));
}

template <class T, int kStates, class RuleOf>
void launch(const Table& table, const Kinds& kinds, const RuleOf& rule) {
  const int blocks = blocks_for(table.before[table.count]);
  step_kernel<T, kStates, RuleOf><<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(table, kinds, rule);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T>
void launch_rule(const Table& table, const Kinds& kinds, const Settings& settings) {
  switch (settings.rule) {
    case Rule::adamw: return launch<T, 2>(table, kinds, AdamwRule<T>(settings));
    case Rule::lion: return launch<T, 1>(table, kinds, LionRule<T>(settings));
    case Rule::sgd:
      if (settings.states == 1) return launch<T, 1>(table, kinds, SgdRule<T, true>(settings));
      return launch<T, 0>(table, kinds, SgdRule<T, false>(settings));
  }
}

void append(Table& table, const Item& item, int64_t unit) {
  const int t = table.count++;
  table.master[t] = item.master;
  table.parameter[t] = item.parameter;
  table.gradient[t] = item.gradient;
  for (int k = 0; k < 2; ++k) table.states[k][t] = item.states[k];
  table.n[t] = item.n;
  table.before[t + 1] = table.before[t] + (item.n + unit - 1) / unit;
}

void step_on_cuda(const Step& step) {
  c10::cuda::CUDAGuard guard(step.device);
  for (size_t from = 0; from < step.items.size(); from += kTensors) {
    Table table{};
    for (size_t i = from; i < std::min(from + kTensors, step.items.size()); ++i) append(table, step.items[i], kUnit);
    if (step.kinds.master == Kind::f64)
      launch_rule<double>(table, step.kinds, step.settings);
    else
      launch_rule<float>(table, step.kinds, step.settings);
  }
}

// As on the CPU (optimizer_ops.cc). Waits for the device.
std::tuple<double, int64_t> grad_squares(at::TensorList gradients) {
  const auto dense = prepare_gradients("shardloop::grad_squares", gradients);
  std::vector<int64_t> before(dense.size() + 1, 0);
  for (size_t i = 0; i < dense.size(); ++i)
    before[i + 1] = before[i] + (dense[i].numel() + kSquaresUnit - 1) / kSquaresUnit;
  if (before.back() == 0) return {0.0, -1};
  c10::cuda::CUDAGuard guard(dense[0].device());
  const at::Tensor sums = at::empty({before.back()}, dense[0].options().dtype(at::kDouble).requires_grad(false));
  for (size_t from = 0; from < dense.size();) {
    const Kind kind = kind_of(dense[from].scalar_type());
    Table table{};
    size_t i = from;
    for (; i < dense.size() && table.count < kTensors && kind_of(dense[i].scalar_type()) == kind; ++i)
      append(table, {nullptr, nullptr, dense[i].const_data_ptr(), {nullptr, nullptr}, dense[i].numel()}, kSquaresUnit);
    if (const int64_t units = table.before[table.count]; units > 0) {
      squares_kernel<<<blocks_for(units), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
          table, kind, sums.mutable_data_ptr<double>() + before[from]);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
    from = i;
  }
  const at::Tensor host = sums.cpu();
  const double* values = host.const_data_ptr<double>();
  double total = 0;
  int64_t odd = -1;
  for (int64_t unit = 0; unit < before.back(); ++unit) {
    if (odd < 0 && !std::isfinite(values[unit]))
      odd = std::upper_bound(before.begin(), before.end(), unit) - before.begin() - 1;
    total += values[unit];
  }
  return {total, odd};
}

TORCH_LIBRARY_IMPL(shardloop, CUDA, m) {
  implement_steps<&step_on_cuda>(m);
  m.impl("grad_squares", &grad_squares);
}

}  // namespace
}  // namespace shardloop
