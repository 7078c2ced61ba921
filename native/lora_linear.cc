// shardloop::lora_linear: u W^T + b + scaling * (u A^T) B^T with W and b frozen, where u is x or, if asked, GELU of x
// by its tanh approximation. What the detour gives is added in place, forward and backward, so that no result of the
// layer's size stands twice; x alone and u A^T are kept, and gelu(x) is computed again. lib/peft/lora.ts has the
// composition beside it, which is the reference.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>

#include "error.h"
#include "gelu.h"
#include "linear.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& a, const Tensor& b) {
  const auto alike = [&](const Tensor& t) { return t.scalar_type() == x.scalar_type() && t.device() == x.device(); };
  const bool fits = x.dim() >= 1 && weight.dim() == 2 && a.dim() == 2 && b.dim() == 2 && x.size(-1) == weight.size(1) &&
                    a.size(1) == weight.size(1) && b.size(0) == weight.size(0) && a.size(0) == b.size(1) &&
                    alike(weight) && alike(a) && alike(b) &&
                    (!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0) && alike(*bias)));
  if (!fits)
    throw Error("BAD_ARGUMENT",
                "shardloop::lora_linear: expected x (..., K), weight (M, K), bias (M), a (R, K) and b (M, R) of one "
                "dtype on one device.");
  if (weight.requires_grad() || (bias && bias->requires_grad()))
    throw Error("BAD_ARGUMENT",
                "shardloop::lora_linear: expected a frozen weight and bias; its backward has no gradient of them.");
}

Tensor rows_of(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }

struct LoraLinear : torch::autograd::Function<LoraLinear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, const Tensor& a, const Tensor& b, double scaling,
                        bool gelu) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor u = rows_of(gelu ? gelu_tanh_forward(x) : x);  // (N, K)
    Tensor y = is_widened(u, weight, bias) ? widened_linear(u, weight, bias) : at::linear(u, weight, bias);
    const Tensor low = at::mm(u, a.t());  // (N, R)
    y.addmm_(low, b.t(), 1, scaling);
    context->save_for_backward({x, weight, a, b, low});
    context->saved_data["scaling"] = scaling;
    context->saved_data["gelu"] = gelu;
    context->saved_data["bias"] = bias.has_value();
    auto shape = x.sizes().vec();
    shape.back() = weight.size(0);
    return y.view(shape);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &a = saved[2], &b = saved[3], &low = saved[4];
    const double scaling = context->saved_data["scaling"].toDouble();
    const bool gelu = context->saved_data["gelu"].toBool();
    const size_t first = context->saved_data["bias"].toBool() ? 3 : 2;  // inputs that are not there are not counted
    const std::array<bool, 3> wanted{context->needs_input_grad(0), context->needs_input_grad(first),
                                     context->needs_input_grad(first + 1)};
    const Tensor slopes = rows_of(gradients[0]);  // (N, M)
    Tensor dx, da, db;
    if (at::GradMode::is_enabled()) {  // ATen's ops, which can be differentiated again
      const Tensor u = rows_of(gelu ? at::gelu(x, "tanh") : x);
      const Tensor of_low = at::mm(slopes, b) * scaling;  // (N, R)
      if (wanted[0]) dx = (at::mm(slopes, weight) + at::mm(of_low, a)).view(x.sizes());
      if (wanted[0] && gelu) dx = at::gelu_backward(dx, x, "tanh");
      if (wanted[1]) da = at::mm(of_low.t(), u);
      if (wanted[2]) db = at::mm(slopes.t(), at::mm(u, a.t())) * scaling;
      return {dx, Tensor(), Tensor(), da, db, Tensor(), Tensor()};
    }
    const Tensor of_low = wanted[0] || wanted[1] ? at::mm(slopes, b).mul_(scaling) : Tensor();  // (N, R)
    if (wanted[1]) da = at::mm(of_low.t(), rows_of(gelu ? gelu_tanh_forward(x) : x));           // (R, K)
    // The long side of a product of few rows goes along its memory: (R, M), a third of the time of (M, R).
    if (wanted[2]) db = at::mm(low.t(), slopes).t().contiguous().mul_(scaling);
    if (wanted[0]) {
      dx = is_widened(x, weight, {})
               ? std::get<0>(widened_linear_backward(slopes.contiguous(), {}, weight, {true, false, false}))
               : at::mm(slopes, weight);
      dx.addmm_(of_low, a);
      dx = dx.view(x.sizes());
      if (gelu) dx = gelu_tanh_backward(dx, x);
    }
    return {dx, Tensor(), Tensor(), da, db, Tensor(), Tensor()};
  }
};

Tensor lora_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& a,
                   const Tensor& b, double scaling, bool gelu) {
  check(x, weight, bias, a, b);
  return LoraLinear::apply(x, weight, bias, a, b, scaling, gelu);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def(
      "lora_linear(Tensor x, Tensor weight, Tensor? bias, Tensor a, Tensor b, *, float scaling, bool gelu=False) -> "
      "Tensor",
      torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &lora_linear));
}

}  // namespace
}  // namespace shardloop
