// shardloop::linear: x W^T + b. On processors that multiply float32 faster than half precision (cpu_level.h), products
// of half-precision tensors on the CPU are computed in float32, a block of the weight's rows at a time, so that no
// whole weight or result stands in float32; each element is rounded once. Everything else is libtorch's linear, which
// is the reference.
#include "linear.h"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu_level.h"
#include "error.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// float32 numbers of a block of the weight (16 MB: all of it, but for a vocabulary) and of one of x or of the result.
constexpr int64_t kWeightNumbers = 1 << 22, kRowNumbers = 1 << 20;

// With fewer rows of x, reading the weight takes the time, and half precision is half of it.
constexpr int64_t kFewRows = 64;

bool is_half(const Tensor& t) { return t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kHalf; }

bool on_cpu(const Tensor& t) { return t.device().is_cpu() && t.layout() == at::kStrided; }

bool fits(const Tensor& x, const Tensor& weight) {
  return x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) && x.numel() > 0 && weight.numel() > 0;
}

bool takes(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const auto alike = [&](const Tensor& t) { return on_cpu(t) && t.scalar_type() == x.scalar_type(); };
  return on_cpu(x) && is_half(x) && alike(weight) && fits(x, weight) &&
         (!bias || (alike(*bias) && bias->dim() == 1 && bias->size(0) == weight.size(0)));
}

Tensor rows_of(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// The weight's M rows and the N rows of x and y are taken in blocks.
struct Blocks {
  int64_t N, K, M, weight_rows, rows;

  Blocks(int64_t n, int64_t k, int64_t m) : N(n), K(k), M(m) {
    weight_rows = std::clamp<int64_t>(kWeightNumbers / K, std::min<int64_t>(M, 64), M);
    rows = std::clamp<int64_t>(kRowNumbers / std::max(K, weight_rows), std::min<int64_t>(N, 64), N);
  }

  template <class Fn>
  void each_of_weight(const Fn& fn) const {
    for (int64_t from = 0; from < M; from += weight_rows) fn(from, std::min(M, from + weight_rows));
  }

  template <class Fn>
  void each_of_rows(const Fn& fn) const {
    for (int64_t from = 0; from < N; from += rows) fn(from, std::min(N, from + rows));
  }
};

// The first numbers of a scratch tensor as a matrix.
Tensor as_matrix(const Tensor& scratch, int64_t rows, int64_t columns) {
  return scratch.narrow(0, 0, rows * columns).view({rows, columns});
}

Tensor widened(const Tensor& t) { return t.to(at::kFloat, false, false, at::MemoryFormat::Contiguous); }

// A stored transposed weight, as of a Conv1D, is read and written along its memory.
bool is_transposed(const Tensor& weight) { return weight.stride(0) == 1 && weight.stride(1) >= weight.size(0); }

// Rows [from, to) of the weight in float32: (to - from, K).
Tensor widened_rows(const Tensor& weight, bool transposed, int64_t from, int64_t to) {
  return transposed ? widened(weight.t().slice(1, from, to)).t() : widened(weight.slice(0, from, to));
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

}  // namespace

bool is_widened(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const bool many = x.dim() > 0 && x.size(-1) > 0 && x.numel() / x.size(-1) >= kFewRows;
  return many && widens_products() && takes(x, weight, bias);
}

Tensor widened_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (!takes(x, weight, bias))
    throw Error("BAD_ARGUMENT",
                "shardloop::widened_linear: expected x (..., K), weight (M, K) and bias (M) of one half "
                "precision on the CPU.");
  const Tensor flat = rows_of(x);  // (N, K)
  const Blocks blocks(flat.size(0), flat.size(1), weight.size(0));
  const bool transposed = is_transposed(weight);
  const Tensor added = bias ? widened(*bias) : Tensor();
  Tensor y = at::empty({blocks.N, blocks.M}, x.options());
  const Tensor scratch = at::empty({blocks.rows * blocks.weight_rows}, x.options().dtype(at::kFloat));
  blocks.each_of_weight([&](int64_t from, int64_t to) {
    const Tensor w = widened_rows(weight, transposed, from, to).t();  // (K, to - from)
    blocks.each_of_rows([&](int64_t first, int64_t last) {
      Tensor part = as_matrix(scratch, last - first, to - from);
      at::mm_out(part, widened(flat.slice(0, first, last)), w);
      if (bias) part.add_(added.slice(0, from, to));
      y.slice(0, first, last).slice(1, from, to).copy_(part);
    });
  });
  auto shape = x.sizes().vec();
  shape.back() = blocks.M;
  return y.view(shape);
}

Gradients widened_linear_backward(const Tensor& gradient, const std::optional<Tensor>& x, const Tensor& weight,
                                  std::array<bool, 3> wanted) {
  const auto [of_x, of_weight, of_bias] = wanted;
  const bool good =
      on_cpu(weight) && is_half(weight) && weight.dim() == 2 && weight.numel() > 0 && gradient.dim() >= 1 &&
      gradient.numel() > 0 && gradient.size(-1) == weight.size(0) && on_cpu(gradient) &&
      gradient.scalar_type() == weight.scalar_type() &&
      (!of_weight || (x && takes(*x, weight, {}) && x->numel() / x->size(-1) == gradient.numel() / gradient.size(-1)));
  if (!good)
    throw Error(
        "BAD_ARGUMENT",
        "shardloop::widened_linear_backward: expected a gradient (..., M), x (..., K) of as many rows and a weight "
        "(M, K), of one half precision on the CPU.");
  const Tensor slopes = rows_of(gradient);                 // (N, M)
  const Tensor flat = of_weight ? rows_of(*x) : Tensor();  // (N, K)
  const Blocks blocks(slopes.size(0), weight.size(1), weight.size(0));
  const auto [N, K, M, weight_rows, rows] = blocks;
  const bool transposed = is_transposed(weight), whole = weight_rows == M;
  const auto floats = weight.options().dtype(at::kFloat);
  // Sums over blocks of the weight stand in float32 until the last.
  Tensor dx = of_x ? at::empty({N, K}, whole ? weight.options() : floats) : Tensor();
  Tensor dw =
      of_weight ? at::empty(transposed ? at::IntArrayRef{K, M} : at::IntArrayRef{M, K}, weight.options()) : Tensor();
  Tensor db = of_bias ? at::empty({M}, weight.options()) : Tensor();
  const Tensor dx_scratch = of_x && whole ? at::empty({rows * K}, floats) : Tensor();
  const Tensor dw_scratch = of_weight ? at::empty({weight_rows * K}, floats) : Tensor();
  blocks.each_of_weight([&](int64_t from, int64_t to) {
    const Tensor w = of_x ? widened_rows(weight, transposed, from, to) : Tensor();  // (to - from, K)
    Tensor product =
        of_weight ? (transposed ? as_matrix(dw_scratch, K, to - from) : as_matrix(dw_scratch, to - from, K)) : Tensor();
    Tensor sums = of_bias ? at::zeros({to - from}, floats) : Tensor();
    blocks.each_of_rows([&](int64_t first, int64_t last) {
      const Tensor part = widened(slopes.slice(0, first, last).slice(1, from, to));  // (last - first, to - from)
      if (of_x && whole) {
        Tensor here = as_matrix(dx_scratch, last - first, K);
        dx.slice(0, first, last).copy_(at::mm_out(here, part, w));
      } else if (of_x) {
        Tensor here = dx.slice(0, first, last);
        from == 0 ? at::mm_out(here, part, w) : here.addmm_(part, w);
      }
      if (of_weight) {
        const Tensor left = transposed ? widened(flat.slice(0, first, last)) : part;
        const Tensor right = transposed ? part : widened(flat.slice(0, first, last));
        first == 0 ? at::mm_out(product, left.t(), right) : product.addmm_(left.t(), right);
      }
      if (of_bias) sums.add_(part.sum(0));
    });
    if (of_weight) dw.slice(transposed ? 1 : 0, from, to).copy_(product);
    if (of_bias) db.slice(0, from, to).copy_(sums);
  });
  auto shape = gradient.sizes().vec();
  shape.back() = K;
  return {of_x ? dx.to(weight.scalar_type()).view(shape) : Tensor(), of_weight && transposed ? dw.t() : dw, db};
}

namespace {

Tensor call_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("shardloop::widened_linear", "")
                             .typed<Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&)>();
  return op.call(x, weight, bias);
}

Gradients call_backward(const Tensor& gradient, const std::optional<Tensor>& x, const Tensor& weight,
                        std::array<bool, 3> wanted) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("shardloop::widened_linear_backward", "")
          .typed<Gradients(const Tensor&, const std::optional<Tensor>&, const Tensor&, std::array<bool, 3>)>();
  return op.call(gradient, x, weight, wanted);
}

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    // Frozen weights (LoRA) need no x.
    context->save_for_backward({weight.requires_grad() ? x : Tensor(), weight});
    context->saved_data["bias"] = bias.has_value();  // without one there is no third input to ask for
    return call_forward(x, weight, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &gradient = gradients[0];
    const std::array<bool, 3> wanted{context->needs_input_grad(0), context->needs_input_grad(1),
                                     context->saved_data["bias"].toBool() && context->needs_input_grad(2)};
    if (at::GradMode::is_enabled()) {  // ATen's ops, which can be differentiated again
      const Tensor rows = rows_of(gradient);
      return {wanted[0] ? at::matmul(gradient, weight) : Tensor(), wanted[1] ? at::mm(rows.t(), rows_of(x)) : Tensor(),
              wanted[2] ? rows.sum(0) : Tensor()};
    }
    auto [dx, dw, db] = call_backward(gradient, x.defined() ? std::optional<Tensor>(x) : std::nullopt, weight, wanted);
    return {dx, dw, db};
  }
};

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (is_widened(x, weight, bias)) return Linear::apply(x, weight, bias);
  return at::linear(x, weight, bias);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &linear));
  m.def("widened_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.def(
      "widened_linear_backward(Tensor gradient, Tensor? x, Tensor weight, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) {
  m.impl("widened_linear", &widened_linear);
  m.impl("widened_linear_backward", &widened_linear_backward);
}

}  // namespace
}  // namespace shardloop
