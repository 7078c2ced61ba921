// shardloop::gelu_tanh: GELU by its tanh approximation on the CPU, with one exponential an element where libtorch's
// takes a hyperbolic tangent. lib/nn/activations.ts has the reference beside it, libtorch's gelu.
#include "gelu.h"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cpu_level.h"
#include "error.h"
#include "kernels/gelu.h"
#include "optimizer_lists.h"
#include "parallel.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 16 * kBlock;

const GeluKernels& kernels() {
#if defined(__x86_64__)
  return best_of(kGeluPlain, kGeluAvx2, kGeluAvx512);
#else
  return kGeluPlain;
#endif
}

void check(const Tensor& x) {
  const auto type = x.scalar_type();
  if (type != at::kFloat && type != at::kBFloat16 && type != at::kHalf)
    throw Error("BAD_ARGUMENT", "shardloop::gelu_tanh: expected float32, bfloat16 or float16.");
}

Tensor like(const Tensor& x) { return at::empty(x.sizes(), x.options()); }

Tensor forward_on_cpu(const Tensor& given) {
  check(given);
  const Tensor x = given.contiguous();
  Tensor y = like(x);
  const Kind kind = kind_of(x.scalar_type());
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  auto* to = static_cast<char*>(y.mutable_data_ptr());
  const int64_t bytes = x.element_size();
  parallel_for(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    kernels().forward(from + begin * bytes, to + begin * bytes, end - begin, kind);
  });
  return y;
}

Tensor backward_on_cpu(const Tensor& given_gradient, const Tensor& given) {
  check(given);
  if (given_gradient.sizes() != given.sizes() || given_gradient.device() != given.device())
    throw Error("BAD_ARGUMENT", "shardloop::gelu_tanh_backward: expected a gradient of x's shape.");
  const Tensor x = given.contiguous();
  const Tensor gradient = given_gradient.to(x.scalar_type()).contiguous();
  Tensor result = like(x);
  const Kind kind = kind_of(x.scalar_type());
  const auto* slopes = static_cast<const char*>(gradient.const_data_ptr());
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  auto* to = static_cast<char*>(result.mutable_data_ptr());
  const int64_t bytes = x.element_size();
  parallel_for(x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    kernels().backward(slopes + begin * bytes, from + begin * bytes, to + begin * bytes, end - begin, kind);
  });
  return result;
}

// On meta tensors, for plans.
Tensor forward_on_meta(const Tensor& x) { return at::empty(x.sizes(), x.options().device(at::kMeta)); }

Tensor backward_on_meta(const Tensor&, const Tensor& x) { return forward_on_meta(x); }

}  // namespace

Tensor gelu_tanh_forward(const Tensor& x) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("shardloop::gelu_tanh_forward", "").typed<Tensor(const Tensor&)>();
  return op.call(x);
}

Tensor gelu_tanh_backward(const Tensor& gradient, const Tensor& x) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("shardloop::gelu_tanh_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&)>();
  return op.call(gradient, x);
}

namespace {

struct Gelu : torch::autograd::Function<Gelu> {
  static Tensor forward(AutogradContext* context, const Tensor& x) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x});
    return gelu_tanh_forward(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor x = context->get_saved_variables()[0];
    // libtorch's backward can be differentiated again.
    return {at::GradMode::is_enabled() ? at::gelu_backward(gradients[0], x, "tanh")
                                       : gelu_tanh_backward(gradients[0], x)};
  }
};

Tensor gelu_tanh(const Tensor& x) { return Gelu::apply(x); }

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("gelu_tanh(Tensor x) -> Tensor", torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &gelu_tanh));
  m.def("gelu_tanh_forward(Tensor x) -> Tensor");
  m.def("gelu_tanh_backward(Tensor gradient, Tensor x) -> Tensor");
}

// On other devices, such as CUDA, libtorch's are one kernel each too.
Tensor forward_elsewhere(const Tensor& x) { return at::gelu(x, "tanh"); }

Tensor backward_elsewhere(const Tensor& gradient, const Tensor& x) { return at::gelu_backward(gradient, x, "tanh"); }

TORCH_LIBRARY_IMPL(shardloop, CompositeExplicitAutograd, m) {
  m.impl("gelu_tanh_forward", &forward_elsewhere);
  m.impl("gelu_tanh_backward", &backward_elsewhere);
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) {
  m.impl("gelu_tanh_forward", &forward_on_cpu);
  m.impl("gelu_tanh_backward", &backward_on_cpu);
}

TORCH_LIBRARY_IMPL(shardloop, Meta, m) {
  m.impl("gelu_tanh_forward", &forward_on_meta);
  m.impl("gelu_tanh_backward", &backward_on_meta);
}

}  // namespace
}  // namespace shardloop
