// shardloop::cross_entropy: the negative log-likelihood of labels, a row each, without a copy of the logits in float
// and without their log-softmax: the forward keeps one number a row, the backward writes the gradient in the logits'
// dtype. lib/nn/loss.ts has the composed reference beside it.
#include "cross_entropy.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "cpu_level.h"
#include "error.h"
#include "kernels/cross_entropy.h"
#include "optimizer_lists.h"
#include "parallel.h"

namespace shardloop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 32 << 10;  // elements that are worth a second thread

const CrossEntropyKernels& kernels() {
#if defined(__x86_64__)
  return best_of(kCrossEntropyPlain, kCrossEntropyAvx2, kCrossEntropyAvx512);
#else
  return kCrossEntropyPlain;
#endif
}

[[noreturn]] void refuse(const std::string& text) { throw Error("BAD_ARGUMENT", "shardloop::cross_entropy: " + text); }

void check(const Tensor& logits, const Tensor& labels, double smoothing) {
  if (logits.dim() != 2 || labels.dim() != 1 || logits.size(0) != labels.size(0) || logits.size(1) < 1)
    refuse("expected logits (N, V) and labels (N), received " + std::to_string(logits.dim()) + " and " +
           std::to_string(labels.dim()) + " dimensions of " + std::to_string(logits.numel()) + " and " +
           std::to_string(labels.numel()) + " elements.");
  if (labels.scalar_type() != at::kLong || !at::isFloatingType(logits.scalar_type()))
    refuse("expected floating logits and int64 labels.");
  if (labels.device() != logits.device()) refuse("expected logits and labels on one device.");
  if (!(smoothing >= 0 && smoothing <= 1)) refuse("expected label_smoothing from 0 to 1.");
}

const char* row_of(const Tensor& logits, int64_t row) {
  return static_cast<const char*>(logits.const_data_ptr()) + row * logits.size(1) * logits.element_size();
}

int64_t rows_a_thread(const Tensor& logits) { return std::max<int64_t>(1, kGrain / logits.size(1)); }

at::ScalarType wide(const Tensor& logits) { return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

struct RowLoss {
  double logsumexp, loss;
};

RowLoss loss_of(const CrossEntropyKernels& table, const Tensor& logits, int64_t row, int64_t label, Kind kind,
                double smoothing) {
  const int64_t classes = logits.size(1);
  const char* from = row_of(logits, row);
  const RowSums sums = table.sums(from, classes, kind);
  // The label's own logit, with the kernel that reads one element.
  const double own = table.sums(from + label * logits.element_size(), 1, kind).sum;
  double loss = (1 - smoothing) * (sums.logsumexp - own);
  if (smoothing > 0) loss += smoothing * (sums.logsumexp - sums.sum / static_cast<double>(classes));
  return {sums.logsumexp, loss};
}

RowGradient gradient_rule(double logsumexp, double factor, double smoothing, int64_t classes, int64_t label) {
  return {logsumexp, factor, factor * smoothing / static_cast<double>(classes), factor * (1 - smoothing), label};
}

using Rows = std::tuple<Tensor, Tensor>;

// (losses (N), logsumexps (N) in double). A label that is `ignore_index` has the loss 0.
Rows rows_on_cpu(const Tensor& given, const Tensor& given_labels, int64_t ignore_index, double smoothing) {
  check(given, given_labels, smoothing);
  const Tensor logits = given.contiguous(), labels = given_labels.contiguous();
  const int64_t count = logits.size(0), classes = logits.size(1);
  const Kind kind = kind_of(logits.scalar_type());
  Tensor losses = at::zeros({count}, logits.options().dtype(at::kDouble));
  Tensor logsumexps = at::zeros({count}, losses.options());
  check_labels("shardloop::cross_entropy", labels, classes, ignore_index);
  const auto* label = labels.const_data_ptr<int64_t>();
  auto* loss = losses.mutable_data_ptr<double>();
  auto* logsumexp = logsumexps.mutable_data_ptr<double>();
  const CrossEntropyKernels& table = kernels();
  parallel_for(count, rows_a_thread(logits), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (label[row] == ignore_index) continue;
      const RowLoss found = loss_of(table, logits, row, label[row], kind, smoothing);
      logsumexp[row] = found.logsumexp;
      loss[row] = found.loss;
    }
  });
  return {losses.to(wide(logits)), logsumexps};
}

Tensor rows_backward_on_cpu(const Tensor& gradient, const Tensor& given, const Tensor& given_labels,
                            const Tensor& given_sums, int64_t ignore_index, double smoothing) {
  check(given, given_labels, smoothing);
  const auto fits = [&](const Tensor& t) { return t.sizes() == given_labels.sizes() && t.device() == given.device(); };
  if (!fits(gradient) || !fits(given_sums)) refuse("expected a gradient and a logsumexp for each row of the logits.");
  const Tensor logits = given.contiguous(), labels = given_labels.contiguous();
  const int64_t count = logits.size(0), classes = logits.size(1);
  const Kind kind = kind_of(logits.scalar_type());
  const Tensor factors = gradient.to(at::kDouble).contiguous();
  const Tensor logsumexps = given_sums.to(at::kDouble).contiguous();
  Tensor result = at::empty(logits.sizes(), logits.options());
  const auto* factor = factors.const_data_ptr<double>();
  const auto* label = labels.const_data_ptr<int64_t>();
  const auto* logsumexp = logsumexps.const_data_ptr<double>();
  auto* to = static_cast<char*>(result.mutable_data_ptr());
  const int64_t row_bytes = classes * logits.element_size();
  const CrossEntropyKernels& table = kernels();
  parallel_for(count, rows_a_thread(logits), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (label[row] == ignore_index) {
        std::memset(to + row * row_bytes, 0, row_bytes);
        continue;
      }
      table.gradient(row_of(logits, row), to + row * row_bytes, classes, kind,
                     gradient_rule(logsumexp[row], factor[row], smoothing, classes, label[row]));
    }
  });
  return result;
}

// On meta tensors, for plans.
Rows rows_on_meta(const Tensor& logits, const Tensor& labels, int64_t, double smoothing) {
  check(logits, labels, smoothing);
  const auto options = logits.options().device(at::kMeta);
  return {at::empty({logits.size(0)}, options.dtype(wide(logits))),
          at::empty({logits.size(0)}, options.dtype(at::kDouble))};
}

Tensor rows_backward_on_meta(const Tensor&, const Tensor& logits, const Tensor&, const Tensor&, int64_t, double) {
  return at::empty(logits.sizes(), logits.options().device(at::kMeta));
}

Rows call_rows(const Tensor& logits, const Tensor& labels, int64_t ignore_index, double smoothing) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("shardloop::cross_entropy_rows", "")
                             .typed<Rows(const Tensor&, const Tensor&, int64_t, double)>();
  return op.call(logits, labels, ignore_index, smoothing);
}

Tensor call_rows_backward(const Tensor& gradient, const Tensor& logits, const Tensor& labels, const Tensor& logsumexps,
                          int64_t ignore_index, double smoothing) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("shardloop::cross_entropy_rows_backward", "")
          .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t, double)>();
  return op.call(gradient, logits, labels, logsumexps, ignore_index, smoothing);
}

}  // namespace

void check_labels(const char* op, const Tensor& labels, int64_t classes, int64_t ignore_index) {
  const auto* label = labels.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < labels.numel(); ++row) {
    if (label[row] == ignore_index || (label[row] >= 0 && label[row] < classes)) continue;
    throw Error("BAD_ARGUMENT", std::string(op) + ": label " + std::to_string(label[row]) + " in row " +
                                    std::to_string(row) + " is out of bounds: expected 0 to " +
                                    std::to_string(classes - 1) + ", or " + std::to_string(ignore_index) +
                                    " for a row that does not count.");
  }
}

double sum_of_losses(const Tensor& logits, const int64_t* labels, double smoothing, const double* slope) {
  const int64_t classes = logits.size(1);
  const Kind kind = kind_of(logits.scalar_type());
  std::vector<double> losses(logits.size(0));  // summed in order, so that the sum does not depend on the threads
  const CrossEntropyKernels& table = kernels();
  parallel_for(logits.size(0), rows_a_thread(logits), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const RowLoss found = loss_of(table, logits, row, labels[row], kind, smoothing);
      losses[row] = found.loss;
      if (slope == nullptr) continue;
      table.gradient(row_of(logits, row), const_cast<char*>(row_of(logits, row)), classes, kind,
                     gradient_rule(found.logsumexp, *slope, smoothing, classes, labels[row]));
    }
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

Tensor composed_gradient(const Tensor& gradient, const Tensor& logits, const Tensor& labels, int64_t ignore_index,
                         double smoothing) {
  const Tensor probabilities = at::softmax(logits, 1, wide(logits));
  const Tensor counts = labels.ne(ignore_index);
  const Tensor safe = labels.masked_fill(counts.logical_not(), 0).unsqueeze(1);
  Tensor target = at::full_like(probabilities, smoothing / static_cast<double>(logits.size(1)));
  target = target.scatter_add(1, safe, at::full({logits.size(0), 1}, 1 - smoothing, target.options()));
  const Tensor factor = gradient * counts.to(gradient.scalar_type());
  return ((probabilities - target) * factor.unsqueeze(1)).to(logits.scalar_type());
}

namespace {

struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static Tensor forward(AutogradContext* context, const Tensor& logits, const Tensor& labels, int64_t ignore_index,
                        double smoothing) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [losses, logsumexps] = call_rows(logits, labels, ignore_index, smoothing);
    context->save_for_backward({logits, labels, logsumexps});
    context->saved_data["ignore_index"] = ignore_index;
    context->saved_data["smoothing"] = smoothing;
    return losses;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const int64_t ignore_index = context->saved_data["ignore_index"].toInt();
    const double smoothing = context->saved_data["smoothing"].toDouble();
    const Tensor result = at::GradMode::is_enabled()
                              ? composed_gradient(gradients[0], saved[0], saved[1], ignore_index, smoothing)
                              : call_rows_backward(gradients[0], saved[0], saved[1], saved[2], ignore_index, smoothing);
    return {result, Tensor(), Tensor(), Tensor()};
  }
};

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, int64_t ignore_index, double label_smoothing) {
  return CrossEntropy::apply(logits, labels, ignore_index, label_smoothing);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("cross_entropy(Tensor logits, Tensor labels, *, int ignore_index, float label_smoothing) -> Tensor",
        torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, &cross_entropy));
  m.def(
      "cross_entropy_rows(Tensor logits, Tensor labels, int ignore_index, float label_smoothing) -> (Tensor, Tensor)");
  m.def(
      "cross_entropy_rows_backward(Tensor gradient, Tensor logits, Tensor labels, Tensor logsumexps, "
      "int ignore_index, float label_smoothing) -> Tensor");
}

TORCH_LIBRARY_IMPL(shardloop, CPU, m) {
  m.impl("cross_entropy_rows", &rows_on_cpu);
  m.impl("cross_entropy_rows_backward", &rows_backward_on_cpu);
}

TORCH_LIBRARY_IMPL(shardloop, Meta, m) {
  m.impl("cross_entropy_rows", &rows_on_meta);
  m.impl("cross_entropy_rows_backward", &rows_backward_on_meta);
}

}  // namespace
}  // namespace shardloop
