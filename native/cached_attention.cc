// shardloop::cached_attention: new positions join the cache of keys and values, and attend to all that it holds, on the
// CPU, in float32 and bfloat16, without gradients. Only positions that are held are read. lib/nn/cached-attention.ts
// has the composed reference beside it.
#include "kernels/cached_attention.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

#include "cpu_level.h"
#include "error.h"
#include "parallel.h"

namespace shardloop {
namespace {

using at::Tensor;

constexpr int64_t kGrain = 1 << 15;  // multiplications that are worth a second thread

const CachedAttentionKernels& kernels() {
#if defined(__x86_64__)
  return best_of(kCachedAttentionPlain, kCachedAttentionAvx2, kCachedAttentionAvx512);
#else
  return kCachedAttentionPlain;
#endif
}

void check(const Tensor& qkv, const Tensor& keys, const Tensor& values, int64_t past,
           const std::optional<Tensor>& mask) {
  const auto type = qkv.scalar_type();
  const bool fits = qkv.dim() == 5 && qkv.size(2) == 3 && (type == at::kFloat || type == at::kBFloat16);
  const auto is_cache = [&](const Tensor& t) {
    return t.dim() == 4 && t.size(0) == qkv.size(0) && t.size(1) == qkv.size(3) && t.size(3) == qkv.size(4) &&
           past >= 0 && past <= t.size(2) - qkv.size(1) && t.scalar_type() == type && t.device() == qkv.device() &&
           t.is_contiguous();
  };
  if (!fits || !is_cache(keys) || !is_cache(values) || keys.sizes() != values.sizes() || keys.is_alias_of(values))
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::cached_attention: expected q, k and v together, (B, T, 3, H, D), and contiguous keys and values "
        "(B, H, L, D) of their own memory with past + T of L positions; one device and one dtype of float32 and "
        "bfloat16.");
  if (mask && (mask->scalar_type() != at::kBool || mask->device() != qkv.device() ||
               mask->sizes() != at::IntArrayRef{qkv.size(0), 1, qkv.size(1), past + qkv.size(1)}))
    throw Error("BAD_ARGUMENT", "shardloop::cached_attention: expected a mask of bool, (B, 1, T, past + T).");
}

Tensor output_of(const Tensor& qkv) {
  return at::empty({qkv.size(0), qkv.size(1), qkv.size(3) * qkv.size(4)}, qkv.options().requires_grad(false));
}

Tensor on_cpu(const Tensor& given, const Tensor& keys, const Tensor& values, int64_t past,
              const std::optional<Tensor>& given_mask, double scale) {
  check(given, keys, values, past, given_mask);
  const Tensor qkv = given.contiguous();
  const Tensor mask = given_mask ? given_mask->contiguous() : Tensor();
  Tensor out = output_of(qkv);
  if (out.numel() == 0) return out;
  const int64_t tokens = qkv.size(1), heads = qkv.size(3), width = qkv.size(4), all = past + tokens;
  const CachedShape shape{tokens,
                          width,
                          past,
                          3 * heads * width,
                          heads * width,
                          all,
                          static_cast<float>(scale),
                          qkv.scalar_type() == at::kBFloat16};
  const int64_t bytes = qkv.element_size(), held = keys.size(2) * width;
  const auto* from = static_cast<const char*>(qkv.const_data_ptr());
  auto* k = static_cast<char*>(keys.mutable_data_ptr());
  auto* v = static_cast<char*>(values.mutable_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const bool* seen = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
  const CachedAttentionKernels& table = kernels();
  const int64_t work = std::max<int64_t>(1, 2 * tokens * all * width);
  parallel_for(qkv.size(0) * heads, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    const Tensor scratch = at::empty({table.scratch(shape)}, at::kFloat);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / heads, head = i % heads;
      const char* q = from + (row * tokens * shape.in_row + head * width) * bytes;
      table.attend(shape, q, q + shape.out_row * bytes, q + 2 * shape.out_row * bytes, k + i * held * bytes,
                   v + i * held * bytes, seen == nullptr ? nullptr : seen + row * tokens * all,
                   to + (row * tokens * shape.out_row + head * width) * bytes, scratch.mutable_data_ptr<float>());
    }
  });
  for (const Tensor& t : {keys, values})
    if (!t.is_inference()) t.unsafeGetTensorImpl()->bump_version();
  return out;
}

Tensor on_meta(const Tensor& qkv, const Tensor& keys, const Tensor& values, int64_t past,
               const std::optional<Tensor>& mask, double) {
  check(qkv, keys, values, past, mask);
  return output_of(qkv);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def(
      "cached_attention(Tensor qkv, Tensor(a!) keys, Tensor(b!) values, int past, Tensor? mask, *, float scale) -> "
      "Tensor");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) { m.impl("cached_attention", &on_cpu); }

TORCH_LIBRARY_IMPL(shardloop, Meta, m) { m.impl("cached_attention", &on_meta); }

}  // namespace
}  // namespace shardloop
