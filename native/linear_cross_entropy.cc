// shardloop::linear_cross_entropy: the loss of labels under the scores that a head (a weight without bias) gives to
// hidden states. The scores stand for some rows at a time and become their own gradient there; rows that do not count
// get none. The gradients of hidden states and weight are made in the forward: a backward that computed the scores
// again would take a third more. lib/nn/loss.ts has the composed reference beside it.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "cpu_level.h"
#include "cross_entropy.h"
#include "error.h"
#include "linear.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kName = "shardloop::linear_cross_entropy";

// Scores that stand at a time (32 MB in float32), and rows that are worth reading the weight for.
constexpr int64_t kScores = 1 << 23, kLeastRows = 128;

// Numbers of the weight's gradient that are widened at a time.
constexpr int64_t kWeightNumbers = 1 << 22;

bool is_half(const Tensor& t) { return t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kHalf; }

at::ScalarType wide(const Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

[[noreturn]] void refuse(const std::string& text) { throw Error("BAD_ARGUMENT", std::string(kName) + ": " + text); }

void check(const Tensor& hidden, const Tensor& weight, const Tensor& labels, double smoothing,
           std::optional<double> divisor) {
  if (hidden.dim() != 2 || weight.dim() != 2 || labels.dim() != 1 || hidden.size(0) != labels.size(0) ||
      hidden.size(1) != weight.size(1) || weight.size(0) < 1)
    refuse("expected hidden (N, D), weight (V, D) and labels (N).");
  if (labels.scalar_type() != at::kLong || !at::isFloatingType(hidden.scalar_type()) ||
      weight.scalar_type() != hidden.scalar_type())
    refuse("expected hidden and weight of one floating dtype, and int64 labels.");
  if (labels.device() != hidden.device() || weight.device() != hidden.device())
    refuse("expected hidden, weight and labels on one device.");
  if (!(smoothing >= 0 && smoothing <= 1)) refuse("expected label_smoothing from 0 to 1.");
  if (divisor && !(*divisor > 0)) refuse("expected a divisor above 0.");
}

// How many of `count` rows are taken at a time, alike. In half precision the sums over several parts need a gradient of
// the weight in float32, which must be worth the scores that it saves.
int64_t rows_at_a_time(const Tensor& weight, int64_t count, bool of_weight) {
  const int64_t most = std::max(kScores / weight.size(0), kLeastRows);
  if (count <= most || (of_weight && is_half(weight) && count <= most + 2 * weight.size(1)))
    return std::max<int64_t>(count, 1);
  const int64_t parts = (count + most - 1) / most;
  return (count + parts - 1) / parts;
}

// sums (V, D) in float32 += slopes^T hidden, of half precision, a block of the vocabulary at a time.
void add_product(const Tensor& sums, const Tensor& slopes, const Tensor& hidden) {
  const bool widens = widens_products();
  const Tensor right = widens ? hidden.to(at::kFloat) : hidden;
  const int64_t step = std::max<int64_t>(1, kWeightNumbers / std::max<int64_t>(1, hidden.size(1)));
  for (int64_t from = 0; from < sums.size(0); from += step) {
    const int64_t to = std::min(sums.size(0), from + step);
    const Tensor left = slopes.slice(1, from, to).t();
    Tensor here = sums.slice(0, from, to);
    if (widens)
      here.addmm_(left.to(at::kFloat), right);
    else
      here.add_(at::mm(left, right));
  }
}

// (loss, gradient of hidden, gradient of weight)
using Result = std::tuple<Tensor, Tensor, Tensor>;

Result on_cpu(const Tensor& hidden, const Tensor& weight, const Tensor& given_labels, int64_t ignore_index,
              double smoothing, std::optional<double> divisor, double slope, std::array<bool, 2> wanted) {
  check(hidden, weight, given_labels, smoothing, divisor);
  const c10::impl::ExcludeDispatchKeyGuard as_they_are(c10::autocast_dispatch_keyset);
  const auto [of_hidden, of_weight] = wanted;
  check_labels(kName, given_labels.contiguous(), weight.size(0), ignore_index);
  const Tensor counted = given_labels.ne(ignore_index).nonzero().squeeze(1);
  const int64_t count = counted.size(0);
  const bool all = count == given_labels.size(0);
  const Tensor rows = all ? hidden.contiguous() : hidden.index_select(0, counted);  // (count, D)
  const Tensor labels = all ? given_labels.contiguous() : given_labels.index_select(0, counted);
  const double factor = 1 / divisor.value_or(static_cast<double>(count)), scale = slope * factor;

  const int64_t step = rows_at_a_time(weight, count, of_weight);
  const bool whole = step >= count, sums = of_weight && is_half(weight) && !whole;
  const bool widened = is_widened(rows.slice(0, 0, step), weight, {});
  Tensor scores = widened ? Tensor() : at::empty({std::min(step, count), weight.size(0)}, weight.options());
  Tensor dx = of_hidden ? at::empty(rows.sizes(), rows.options()) : Tensor();
  Tensor dw;
  if (of_weight && (count == 0 || sums))
    dw = at::zeros(weight.sizes(), weight.options().dtype(sums ? at::kFloat : weight.scalar_type()));
  else if (of_weight && !widened)
    dw = at::empty(weight.sizes(), weight.options());
  double loss = 0;
  for (int64_t from = 0; from < count; from += step) {
    const int64_t to = std::min(count, from + step);
    const Tensor part = rows.slice(0, from, to);
    Tensor here = widened ? widened_linear(part, weight, {}) : scores.slice(0, 0, to - from);  // (to - from, V)
    if (!widened) at::mm_out(here, part, weight.t());
    loss += sum_of_losses(here, labels.const_data_ptr<int64_t>() + from, smoothing,
                          of_hidden || of_weight ? &scale : nullptr);
    if (widened && (of_hidden || (of_weight && whole))) {
      const auto found = widened_linear_backward(here, part, weight, {of_hidden, of_weight && whole, false});
      if (of_hidden) dx.slice(0, from, to).copy_(std::get<0>(found));
      if (of_weight && whole) dw = std::get<1>(found);
    } else if (of_hidden) {
      Tensor place = dx.slice(0, from, to);
      at::mm_out(place, here, weight);
    }
    if (sums)
      add_product(dw, here, part);
    else if (of_weight && !widened)
      from == 0 ? at::mm_out(dw, here.t(), part) : dw.addmm_(here.t(), part);
  }
  if (sums) {
    scores = Tensor();
    dw = dw.to(weight.scalar_type());
  }
  if (of_hidden && !all) dx = at::zeros(hidden.sizes(), hidden.options()).index_copy_(0, counted, dx);
  // 0 * Infinity where no row counts, as a mean of none is.
  return {at::scalar_tensor(loss * factor, hidden.options().dtype(wide(hidden))), dx, dw};
}

// The same of ATen's ops, on whatever device: the side of CUDA.
Result by_ops(const Tensor& hidden, const Tensor& weight, const Tensor& given_labels, int64_t ignore_index,
              double smoothing, std::optional<double> divisor, double slope, std::array<bool, 2> wanted) {
  check(hidden, weight, given_labels, smoothing, divisor);
  const c10::impl::ExcludeDispatchKeyGuard as_they_are(c10::autocast_dispatch_keyset);
  const auto [of_hidden, of_weight] = wanted;
  const int64_t V = weight.size(0);
  const Tensor counts = given_labels.ne(ignore_index);
  // A label beyond the classes would end the context of a CUDA device.
  if (given_labels.lt(0).logical_or_(given_labels.ge(V)).logical_and_(counts).any().item<bool>())
    refuse("expected labels from 0 to " + std::to_string(V - 1) + ", or " + std::to_string(ignore_index) +
           " where a row does not count.");
  const Tensor counted = counts.nonzero().squeeze(1);
  const int64_t count = counted.size(0);
  const Tensor rows = hidden.index_select(0, counted), labels = given_labels.index_select(0, counted);
  const double factor = 1 / divisor.value_or(static_cast<double>(count)), scale = slope * factor;
  const auto options = hidden.options().dtype(wide(hidden));
  const int64_t step = rows_at_a_time(weight, count, of_weight);
  const bool sums = of_weight && is_half(weight) && step < count;
  Tensor dx = of_hidden ? at::empty(rows.sizes(), rows.options()) : Tensor();
  Tensor dw = of_weight ? at::zeros(weight.sizes(), sums ? options : weight.options()) : Tensor();
  Tensor loss = at::zeros({}, options);
  for (int64_t from = 0; from < count; from += step) {
    const int64_t to = std::min(count, from + step);
    const Tensor part = rows.slice(0, from, to), wanted_here = labels.slice(0, from, to);
    Tensor scores = at::mm(part, weight.t());  // (to - from, V)
    loss.add_(at::cross_entropy_loss(scores.to(wide(hidden)), wanted_here, {}, at::Reduction::Sum, -100, smoothing));
    if (!of_hidden && !of_weight) continue;
    Tensor slopes = at::softmax(scores, 1, wide(hidden)).sub_(smoothing / static_cast<double>(V));
    slopes.scatter_add_(1, wanted_here.unsqueeze(1), at::full({to - from, 1}, smoothing - 1, options));
    scores = Tensor();
    slopes = slopes.mul_(scale).to(weight.scalar_type());
    if (of_hidden) dx.slice(0, from, to).copy_(at::mm(slopes, weight));
    if (of_weight && sums)
      dw.add_(at::mm(slopes.t(), part));
    else if (of_weight)
      dw.addmm_(slopes.t(), part);
  }
  if (sums) dw = dw.to(weight.scalar_type());
  if (of_hidden) dx = at::zeros(hidden.sizes(), hidden.options()).index_copy_(0, counted, dx);
  return {loss.mul_(factor), dx, dw};
}

// On meta tensors, for plans: what stands at a time, with all rows counted.
Result on_meta(const Tensor& hidden, const Tensor& weight, const Tensor& labels, int64_t, double smoothing,
               std::optional<double> divisor, double, std::array<bool, 2> wanted) {
  check(hidden, weight, labels, smoothing, divisor);
  const auto [of_hidden, of_weight] = wanted;
  const auto like = [](const Tensor& t) { return at::empty(t.sizes(), t.options()); };
  const int64_t step = rows_at_a_time(weight, hidden.size(0), of_weight);
  Tensor scores = at::empty({std::min(step, hidden.size(0)), weight.size(0)}, weight.options());
  const bool sums = of_weight && is_half(weight) && step < hidden.size(0);
  const Tensor widened = sums ? at::empty(weight.sizes(), weight.options().dtype(at::kFloat)) : Tensor();
  const Tensor dx = of_hidden ? like(hidden) : Tensor();
  if (sums) scores = Tensor();
  return {at::empty({}, hidden.options().dtype(wide(hidden))), dx, of_weight ? like(weight) : Tensor()};
}

Result call_op(const Tensor& hidden, const Tensor& weight, const Tensor& labels, int64_t ignore_index, double smoothing,
               std::optional<double> divisor, double slope, std::array<bool, 2> wanted) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("shardloop::linear_cross_entropy_sum", "")
                             .typed<Result(const Tensor&, const Tensor&, const Tensor&, int64_t, double,
                                           std::optional<double>, double, std::array<bool, 2>)>();
  return op.call(hidden, weight, labels, ignore_index, smoothing, divisor, slope, wanted);
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden, const Tensor& weight, const Tensor& labels,
                        int64_t ignore_index, double smoothing, std::optional<double> divisor, bool recorded) {
    at::AutoDispatchBelowADInplaceOrView below;
    // In float16 a gradient that is not yet multiplied by the loss scale would lose its small values: it is computed in
    // the backward.
    const bool now = recorded && hidden.scalar_type() != at::kHalf;
    auto [loss, dx, dw] = call_op(hidden, weight, labels, ignore_index, smoothing, divisor, 1,
                                  {now && hidden.requires_grad(), now && weight.requires_grad()});
    context->save_for_backward({hidden, weight, labels, dx, dw});
    context->saved_data["ignore_index"] = ignore_index;
    context->saved_data["smoothing"] = smoothing;
    context->saved_data["divisor"] = divisor;
    return loss;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &hidden = saved[0], &weight = saved[1], &labels = saved[2], &slope = gradients[0];
    const int64_t ignore_index = context->saved_data["ignore_index"].toInt();
    const double smoothing = context->saved_data["smoothing"].toDouble();
    const auto divisor = context->saved_data["divisor"].toOptional<double>();
    const std::array<bool, 2> wanted{context->needs_input_grad(0), context->needs_input_grad(1)};
    Tensor dx = saved[3], dw = saved[4];
    if (at::GradMode::is_enabled()) {  // ATen's ops, which can be differentiated again
      const Tensor count = divisor ? at::scalar_tensor(*divisor, slope.options()) : labels.ne(ignore_index).sum();
      const Tensor scores = at::matmul(hidden, weight.t());
      const Tensor slopes =
          composed_gradient((slope / count).expand({hidden.size(0)}), scores, labels, ignore_index, smoothing);
      dx = wanted[0] ? at::mm(slopes, weight) : Tensor();
      dw = wanted[1] ? at::mm(slopes.t(), hidden) : Tensor();
    } else if ((wanted[0] && !dx.defined()) || (wanted[1] && !dw.defined())) {
      const double factor = slope.is_meta() ? 1 : slope.item<double>();
      std::tie(std::ignore, dx, dw) = call_op(hidden, weight, labels, ignore_index, smoothing, divisor, factor, wanted);
    } else if (!slope.is_meta() && slope.item<double>() != 1) {
      const double factor = slope.item<double>();
      const bool again = torch::autograd::get_current_graph_task_keep_graph();
      const auto scaled = [&](Tensor& t) { return again ? t * factor : t.mul_(factor); };
      if (wanted[0]) dx = scaled(dx);
      if (wanted[1]) dw = scaled(dw);
    }
    return {wanted[0] ? dx : Tensor(), wanted[1] ? dw : Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& labels, int64_t ignore_index,
                            double label_smoothing, std::optional<double> divisor) {
  const auto device = hidden.device().type();
  const bool casts =
      !hidden.is_meta() && hidden.scalar_type() != at::kDouble && at::autocast::is_autocast_enabled(device);
  const auto type = casts ? at::autocast::get_autocast_dtype(device) : hidden.scalar_type();
  return LinearCrossEntropy::apply(hidden.to(type), casts ? weight.to(type) : weight, labels, ignore_index,
                                   label_smoothing, divisor, at::GradMode::is_enabled());
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor labels, *, int ignore_index, float label_smoothing, "
      "float? divisor) -> Tensor",
      torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &linear_cross_entropy));
  m.def(
      "linear_cross_entropy_sum(Tensor hidden, Tensor weight, Tensor labels, int ignore_index, float label_smoothing, "
      "float? divisor, float slope, bool[2] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(  // by its own name, so that it can be held against the CPU's
      "linear_cross_entropy_sum_by_ops(Tensor hidden, Tensor weight, Tensor labels, int ignore_index, float "
      "label_smoothing, float? divisor, float slope, bool[2] wanted) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(shardloop, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy_sum", &by_ops);
  m.impl("linear_cross_entropy_sum_by_ops", &by_ops);
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) { m.impl("linear_cross_entropy_sum", &on_cpu); }

TORCH_LIBRARY_IMPL(shardloop, Meta, m) { m.impl("linear_cross_entropy_sum", &on_meta); }

}  // namespace
}  // namespace shardloop
