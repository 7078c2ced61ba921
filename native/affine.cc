// shardloop::affine: y = x W + b for few rows on the CPU, in float32 and bfloat16, without gradients: what generation
// spends its time on. lib/nn/affine.ts has the reference beside it, libtorch's linear, and says when this one is taken.
#include "kernels/affine.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu_level.h"
#include "error.h"
#include "parallel.h"

namespace shardloop {
namespace {

using at::Tensor;

constexpr int64_t kUnit = 64;         // outputs that go to one thread together: whole vectors of both dtypes
constexpr int64_t kGrain = 64 << 10;  // weights that are worth a second thread

const AffineKernels& kernels() {
#if defined(__x86_64__)
  return best_of(kAffinePlain, kAffineAvx2, kAffineAvx512);
#else
  return kAffinePlain;
#endif
}

// The shape of y, when everything fits together.
std::vector<int64_t> check(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool across) {
  const auto type = x.scalar_type();
  const auto like_x = [&](const Tensor& t) { return t.scalar_type() == type && t.device() == x.device(); };
  const bool right = (type == at::kFloat || type == at::kBFloat16) && x.dim() >= 1 && weight.dim() == 2 &&
                     like_x(weight) && weight.size(across ? 0 : 1) == x.size(-1);
  const int64_t out = right ? weight.size(across ? 1 : 0) : 0;
  if (!right || (bias && (!like_x(*bias) || bias->dim() != 1 || bias->size(0) != out)))
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::affine: expected x (..., in), weight (in, out) across or (out, in) and bias (out), of one device "
        "and one dtype of float32 and bfloat16.");
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = out;
  return sizes;
}

Tensor on_cpu(const Tensor& given, const Tensor& given_weight, const std::optional<Tensor>& given_bias, bool across) {
  const auto sizes = check(given, given_weight, given_bias, across);
  Tensor y = at::empty(sizes, given.options().requires_grad(false));
  if (y.numel() == 0) return y;
  const Tensor x = given.contiguous(), weight = given_weight.contiguous();
  const Tensor bias = given_bias ? given_bias->contiguous() : Tensor();
  const int64_t in = x.size(-1), out = sizes.back();
  const AffineShape shape{y.numel() / out, in, out, x.scalar_type() == at::kBFloat16, across};
  const AffineKernels& table = kernels();
  const Tensor packed = at::empty({table.packed_size(shape)}, at::kFloat);
  auto* floats = packed.mutable_data_ptr<float>();
  table.pack(shape, x.const_data_ptr(), floats);
  const void* from = weight.const_data_ptr();
  const void* added = bias.defined() ? bias.const_data_ptr() : nullptr;
  void* to = y.mutable_data_ptr();
  parallel_for((out + kUnit - 1) / kUnit, std::max<int64_t>(1, kGrain / (kUnit * std::max<int64_t>(1, in))),
               [&](int64_t begin, int64_t end) {
                 table.outputs(shape, floats, from, added, to, begin * kUnit, std::min(end * kUnit, out));
               });
  return y;
}

Tensor on_meta(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool across) {
  return at::empty(check(x, weight, bias, across), x.options().device(at::kMeta));
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("affine(Tensor x, Tensor weight, Tensor? bias, *, bool across) -> Tensor");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) { m.impl("affine", &on_cpu); }

TORCH_LIBRARY_IMPL(shardloop, Meta, m) { m.impl("affine", &on_meta); }

}  // namespace
}  // namespace shardloop
