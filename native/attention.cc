// shardloop::attention and shardloop::self_attention: softmax(scale q k^T) v of each head on the CPU, forward and
// backward, over q, k and v where they lie, half precision included. The forward keeps a number a query beside the
// output. lib/nn/attention.ts has the composed reference beside it, libtorch's scaled_dot_product_attention.
#include "kernels/attention.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "cpu_level.h"
#include "error.h"
#include "optimizer_lists.h"
#include "parallel.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 1 << 16;  // multiplications that are worth a second thread

const AttentionKernels& kernels() {
#if defined(__x86_64__)
  return best_of(kAttentionPlain, kAttentionAvx2, kAttentionAvx512);
#else
  return kAttentionPlain;
#endif
}

void check(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto type = q.scalar_type();
  const bool right = q.dim() == 4 && k.sizes() == q.sizes() && v.sizes() == q.sizes() && k.scalar_type() == type &&
                     v.scalar_type() == type && k.device() == q.device() && v.device() == q.device() &&
                     (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf);
  if (!right)
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::attention: expected q, k and v of one shape (B, H, T, D), one device and one dtype of float32, "
        "bfloat16 and float16.");
}

// A tensor (B, H, T, D) whose rows of D elements are dense.
Tensor dense(const Tensor& t) { return t.size(3) > 1 && t.stride(3) != 1 ? t.contiguous() : t; }

HeadRows rows_of(const Tensor& t, int64_t head) {
  const int64_t at = head / t.size(1) * t.stride(0) + head % t.size(1) * t.stride(1);
  return {static_cast<char*>(const_cast<void*>(t.const_data_ptr())) + at * t.element_size(), t.stride(2)};
}

HeadShape shape_of(const Tensor& q, bool causal, double scale) {
  return {q.size(2), q.size(3), static_cast<float>(scale), causal, kind_of(q.scalar_type())};
}

// Calls run(head, scratch memory) for every head of every sequence, on several threads.
template <class Run>
void each_head(const Tensor& q, const HeadShape& shape, const Run& run) {
  const int64_t work = std::max<int64_t>(1, shape.tokens * shape.tokens * shape.width);
  const AttentionKernels& table = kernels();
  parallel_for(q.size(0) * q.size(1), std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
    const Tensor scratch = at::empty({table.scratch(shape)}, at::kFloat);
    for (int64_t head = begin; head < end; ++head) run(table, head, scratch.mutable_data_ptr<float>());
  });
}

using Two = std::tuple<Tensor, Tensor>;

// The output (B, H, T, D), which lies as (B, T, H, D), and the logsumexp of each query (B, H, T).
Two outputs_of(const Tensor& q, at::Device device = at::kCPU) {
  const auto options = q.options().device(device);
  const Tensor out = at::empty({q.size(0), q.size(2), q.size(1), q.size(3)}, options).transpose(1, 2);
  return {out, at::empty({q.size(0), q.size(1), q.size(2)}, options.dtype(at::kFloat))};
}

Two heads_on_cpu(const Tensor& given_q, const Tensor& given_k, const Tensor& given_v, bool causal, double scale) {
  check(given_q, given_k, given_v);
  const Tensor q = dense(given_q), k = dense(given_k), v = dense(given_v);
  const auto [out, logsumexp] = outputs_of(q);
  const HeadShape shape = shape_of(q, causal, scale);
  auto* sums = logsumexp.mutable_data_ptr<float>();
  each_head(q, shape, [&](const AttentionKernels& table, int64_t head, float* scratch) {
    table.forward(shape, rows_of(q, head), rows_of(k, head), rows_of(v, head), rows_of(out, head),
                  sums + head * shape.tokens, scratch);
  });
  return {out, logsumexp};
}

Tensor packed_like(const Tensor& q, at::Device device = at::kCPU) {
  return at::empty({q.size(0), q.size(2), 3, q.size(1), q.size(3)}, q.options().device(device));
}

// q, k or v of (B, T, 3, H, D), as (B, H, T, D).
Tensor unpacked(const Tensor& packed, int64_t i) { return packed.select(2, i).transpose(1, 2); }

// The gradients of q, k and v in one tensor (B, T, 3, H, D).
Tensor heads_backward_on_cpu(const Tensor& given_gradient, const Tensor& given_q, const Tensor& given_k,
                             const Tensor& given_v, const Tensor& given_out, const Tensor& given_sums, bool causal,
                             double scale) {
  check(given_q, given_k, given_v);
  const auto fits = [&](const Tensor& t, at::IntArrayRef sizes) {
    return t.sizes() == sizes && t.device() == given_q.device();
  };
  const auto sizes = given_q.sizes();
  if (!fits(given_gradient, sizes) || !fits(given_out, sizes) || !fits(given_sums, sizes.slice(0, 3)))
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::attention_heads_backward: expected gradient and output of q's shape, and logsumexp (B, H, T).");
  const Tensor gradient = dense(given_gradient.to(given_q.scalar_type()));
  const Tensor out = dense(given_out.to(given_q.scalar_type()));
  const Tensor logsumexp = given_sums.to(at::kFloat).contiguous();
  const Tensor q = dense(given_q), k = dense(given_k), v = dense(given_v);
  Tensor result = packed_like(q);
  const Tensor dq = unpacked(result, 0), dk = unpacked(result, 1), dv = unpacked(result, 2);
  const HeadShape shape = shape_of(q, causal, scale);
  const auto* sums = logsumexp.const_data_ptr<float>();
  each_head(q, shape, [&](const AttentionKernels& table, int64_t head, float* scratch) {
    table.backward(shape, rows_of(q, head), rows_of(k, head), rows_of(v, head), rows_of(out, head),
                   rows_of(gradient, head), sums + head * shape.tokens, rows_of(dq, head), rows_of(dk, head),
                   rows_of(dv, head), scratch);
  });
  return result;
}

// On meta tensors, for plans.
Two heads_on_meta(const Tensor& q, const Tensor& k, const Tensor& v, bool, double) {
  check(q, k, v);
  return outputs_of(q, at::kMeta);
}

Tensor heads_backward_on_meta(const Tensor&, const Tensor& q, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, bool, double) {
  return packed_like(q, at::kMeta);
}

Two call_heads(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("shardloop::attention_heads", "")
                             .typed<Two(const Tensor&, const Tensor&, const Tensor&, bool, double)>();
  return op.call(q, k, v, causal, scale);
}

Tensor call_heads_backward(const Tensor& gradient, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                           const Tensor& logsumexp, bool causal, double scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("shardloop::attention_heads_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                           const Tensor&, bool, double)>();
  return op.call(gradient, q, k, v, out, logsumexp, causal, scale);
}

// The same gradients of ATen's ops, where they are to be differentiated again.
std::tuple<Tensor, Tensor, Tensor> composed_gradients(const Tensor& gradient, const Tensor& q, const Tensor& k,
                                                      const Tensor& v, bool causal, double scale) {
  Tensor scores = at::matmul(q, k.transpose(2, 3)) * scale;
  if (causal) {
    const Tensor hidden = at::ones({q.size(2), q.size(2)}, q.options().dtype(at::kBool)).triu(1);
    scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  }
  const Tensor weights = at::softmax(scores, -1);
  const Tensor slopes = at::matmul(gradient, v.transpose(2, 3));
  const Tensor inner = weights * (slopes - (slopes * weights).sum(-1, true));
  return {at::matmul(inner, k) * scale, at::matmul(inner.transpose(2, 3), q) * scale,
          at::matmul(weights.transpose(2, 3), gradient)};
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v, bool causal,
                        double scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [out, logsumexp] = call_heads(q, k, v, causal, scale);
    context->save_for_backward({q, k, v, out, logsumexp});
    context->saved_data["causal"] = causal;
    context->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const bool causal = context->saved_data["causal"].toBool();
    const double scale = context->saved_data["scale"].toDouble();
    if (at::GradMode::is_enabled()) {
      auto [dq, dk, dv] = composed_gradients(gradients[0], saved[0], saved[1], saved[2], causal, scale);
      return {dq, dk, dv, Tensor(), Tensor()};
    }
    const Tensor all =
        call_heads_backward(gradients[0], saved[0], saved[1], saved[2], saved[3], saved[4], causal, scale);
    return {unpacked(all, 0), unpacked(all, 1), unpacked(all, 2), Tensor(), Tensor()};
  }
};

// The same for q, k and v that lie together: the gradient does too, so that nothing is copied.
struct SelfAttention : torch::autograd::Function<SelfAttention> {
  static Tensor forward(AutogradContext* context, const Tensor& qkv, bool causal, double scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [out, logsumexp] = call_heads(unpacked(qkv, 0), unpacked(qkv, 1), unpacked(qkv, 2), causal, scale);
    context->save_for_backward({qkv, out, logsumexp});
    context->saved_data["causal"] = causal;
    context->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor q = unpacked(saved[0], 0), k = unpacked(saved[0], 1), v = unpacked(saved[0], 2);
    const bool causal = context->saved_data["causal"].toBool();
    const double scale = context->saved_data["scale"].toDouble();
    if (at::GradMode::is_enabled()) {
      auto [dq, dk, dv] = composed_gradients(gradients[0], q, k, v, causal, scale);
      return {at::stack({dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)}, 2), Tensor(), Tensor()};
    }
    return {call_heads_backward(gradients[0], q, k, v, saved[1], saved[2], causal, scale), Tensor(), Tensor()};
  }
};

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale) {
  return Attention::apply(q, k, v, causal, scale);
}

Tensor self_attention(const Tensor& qkv, bool causal, double scale) {
  if (qkv.dim() != 5 || qkv.size(2) != 3)
    throw Error("BAD_ARGUMENT", "shardloop::self_attention: expected q, k and v together, (B, T, 3, H, D).");
  return SelfAttention::apply(qkv, causal, scale);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  constexpr auto kComposite = c10::DispatchKey::CompositeImplicitAutograd;
  m.def("attention(Tensor q, Tensor k, Tensor v, *, bool causal, float scale) -> Tensor",
        torch::dispatch(kComposite, &attention));
  m.def("self_attention(Tensor qkv, *, bool causal, float scale) -> Tensor",
        torch::dispatch(kComposite, &self_attention));
  m.def("attention_heads(Tensor q, Tensor k, Tensor v, bool causal, float scale) -> (Tensor, Tensor)");
  m.def(
      "attention_heads_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor out, Tensor logsumexp, "
      "bool causal, float scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) {
  m.impl("attention_heads", &heads_on_cpu);
  m.impl("attention_heads_backward", &heads_backward_on_cpu);
}

TORCH_LIBRARY_IMPL(shardloop, Meta, m) {
  m.impl("attention_heads", &heads_on_meta);
  m.impl("attention_heads_backward", &heads_backward_on_meta);
}

}  // namespace
}  // namespace shardloop
