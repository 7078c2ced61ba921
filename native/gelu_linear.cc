// shardloop::gelu_linear: gelu(x) W^T + b, with GELU by its tanh approximation. The backward computes gelu(x) again, so
// that x alone is kept. The composition of gelu_tanh and linear is the reference.
#include <ATen/Functions.h>
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

void check(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const bool fits = x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) &&
                    weight.scalar_type() == x.scalar_type() && weight.device() == x.device() &&
                    (!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0) &&
                               bias->scalar_type() == x.scalar_type() && bias->device() == x.device()));
  if (!fits)
    throw Error("BAD_ARGUMENT",
                "shardloop::gelu_linear: expected x (..., K), weight (M, K) and bias (M) of one dtype on one device.");
}

Tensor rows_of(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// slopes^T rows (M, K), in the layout of the weight.
Tensor of_weight(const Tensor& slopes, const Tensor& rows, const Tensor& weight) {
  const bool transposed = weight.stride(0) == 1 && weight.stride(1) >= weight.size(0);
  return transposed ? at::mm(rows.t(), slopes).t() : at::mm(slopes.t(), rows);
}

struct GeluLinear : torch::autograd::Function<GeluLinear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias.has_value();
    const Tensor active = gelu_tanh_forward(x);
    return is_widened(active, weight, bias) ? widened_linear(active, weight, bias) : at::linear(active, weight, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &gradient = gradients[0];
    const std::array<bool, 3> wanted{context->needs_input_grad(0), context->needs_input_grad(1),
                                     context->saved_data["bias"].toBool() && context->needs_input_grad(2)};
    const bool again = at::GradMode::is_enabled();  // ATen's ops can be differentiated
    const Tensor slopes = rows_of(gradient);        // (N, M)
    Tensor dx, dw, db;
    if (!again && is_widened(x, weight, {})) {
      const auto active = wanted[1] ? std::optional<Tensor>(gelu_tanh_forward(x)) : std::nullopt;
      std::tie(dx, dw, db) = widened_linear_backward(gradient.contiguous(), active, weight, wanted);
    } else {
      if (wanted[1]) dw = of_weight(slopes, rows_of(again ? at::gelu(x, "tanh") : gelu_tanh_forward(x)), weight);
      if (wanted[0]) dx = at::mm(slopes, weight).view(x.sizes());
      if (wanted[2]) db = slopes.sum(0);
    }
    if (wanted[0]) dx = again ? at::gelu_backward(dx, x, "tanh") : gelu_tanh_backward(dx, x);
    return {dx, dw, db};
  }
};

Tensor gelu_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check(x, weight, bias);
  return GeluLinear::apply(x, weight, bias);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("gelu_linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &gelu_linear));
}

}  // namespace
}  // namespace shardloop
