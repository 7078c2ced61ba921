#include "value_guards.h"

#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <limits>
#include <string_view>

namespace shardloop {
namespace {

using Stack = std::vector<c10::IValue>;
using Schema = c10::FunctionSchema;

// The tensor argument of this name, when it is there, on the CPU, dense and not empty.
std::optional<at::Tensor> readable(const Schema& schema, const Stack& stack, std::string_view name) {
  for (size_t i = 0; i < stack.size(); ++i) {
    if (schema.arguments()[i].name() != name || !stack[i].isTensor()) continue;
    const at::Tensor& tensor = stack[i].toTensor();
    if (!tensor.defined() || !tensor.is_cpu() || tensor.layout() != at::kStrided || tensor.numel() == 0) break;
    return tensor.detach();
  }
  return std::nullopt;
}

void within(const Schema& schema, const at::Tensor& indices, const char* what, int64_t least, int64_t most) {
  if (!at::isIntegralType(indices.scalar_type(), false)) return;  // the kernel refuses it
  at::NoGradGuard no_grad;
  const auto [low, high] = at::aminmax(indices.to(at::kLong));
  if (low.item<int64_t>() >= least && high.item<int64_t>() <= most) return;
  refuse_arguments(schema, std::string("expected ") + what + " from " + std::to_string(least) + " to " +
                               std::to_string(most) + ", received values from " + std::to_string(low.item<int64_t>()) +
                               " to " + std::to_string(high.item<int64_t>()) + ".");
}

// The kernel reads the probability of each label without looking whether there is one.
void ctc(const Schema& schema, const Stack& stack) {
  const auto probabilities = readable(schema, stack, "log_probs");
  const auto targets = readable(schema, stack, "targets");
  if (probabilities && targets && probabilities->dim() > 0)
    within(schema, *targets, "targets", 0, probabilities->size(-1) - 1);
}

// Offsets are followed into the data; lengths are checked by libtorch.
void segments(const Schema& schema, const Stack& stack) {
  const auto data = readable(schema, stack, "data");
  const auto offsets = readable(schema, stack, "offsets");
  if (!offsets) return;
  int64_t axis = 0;
  for (size_t i = 0; i < stack.size(); ++i)
    if (schema.arguments()[i].name() == "axis" && stack[i].isInt()) axis = stack[i].toInt();
  const int64_t rows = data && axis >= 0 && axis < data->dim() ? data->size(axis) : 0;
  within(schema, *offsets, "offsets", 0, rows);
  at::NoGradGuard no_grad;
  if (offsets->dim() > 0 && offsets->size(-1) > 1 && offsets->diff().lt(0).any().item<bool>())
    refuse_arguments(schema, "expected offsets that do not fall, received ones that do.");
}

// Pooling's backward writes to where the indices point, within the last `axes` axes of the input.
void pooling(const Schema& schema, const Stack& stack) {
  const auto input = readable(schema, stack, "self");
  const auto indices = readable(schema, stack, "indices");
  const auto gradient = readable(schema, stack, "grad_output");
  const int64_t axes = schema.name().find("3d") != std::string::npos ? 3 : 2;
  if (!input || !indices || input->dim() < axes) return;
  if (gradient && gradient->sizes() != indices->sizes())
    refuse_arguments(schema, "expected indices of grad_output's shape, received another.");
  int64_t plane = 1;
  for (int64_t axis = input->dim() - axes; axis < input->dim(); ++axis) plane *= input->size(axis);
  within(schema, *indices, "indices", 0, plane - 1);
}

// LayerNorm's backward reads one mean and one deviation a row.
void layer_norm(const Schema& schema, const Stack& stack) {
  int64_t elements = 1;
  for (size_t i = 0; i < stack.size(); ++i)
    if (schema.arguments()[i].name() == "normalized_shape")
      for (const auto& size : stack[i].toListRef()) elements *= size.toInt();
  const auto input = readable(schema, stack, "input");
  if (!input || elements <= 0) return;
  for (size_t i = 0; i < stack.size(); ++i) {
    const std::string& name = schema.arguments()[i].name();
    if (!stack[i].isTensor() || !stack[i].toTensor().defined()) continue;
    const at::Tensor& tensor = stack[i].toTensor();
    const bool of_rows = name == "mean" || name == "rstd";
    if (!of_rows && name != "grad_out" && name != "weight") continue;
    const int64_t expected = of_rows ? input->numel() / elements : name == "weight" ? elements : input->numel();
    if (tensor.numel() != expected)
      refuse_arguments(schema, "expected " + std::to_string(expected) + " elements in '" + name + "', received " +
                                   std::to_string(tensor.numel()) + ".");
  }
}

int64_t least_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kLong: return std::numeric_limits<int64_t>::min();
    case at::kInt: return std::numeric_limits<int32_t>::min();
    default: return 0;  // smaller types are divided as int
  }
}

// The least integer has no negative: dividing it by -1 is a fault of the processor (SIGFPE).
void truncating_division(const Schema& schema, const Stack& stack) {
  bool truncates = false, by_minus_one = false;
  for (size_t i = 0; i < stack.size(); ++i) {
    const std::string& name = schema.arguments()[i].name();
    if (name == "rounding_mode") truncates = stack[i].isString() && stack[i].toStringRef() == "trunc";
    if (name == "other" && stack[i].isInt()) by_minus_one = stack[i].toInt() == -1;
  }
  if (!truncates) return;
  const auto self = readable(schema, stack, "self");
  const auto other = readable(schema, stack, "other");
  if (!self || !at::isIntegralType(self->scalar_type(), false)) return;
  at::NoGradGuard no_grad;
  if (other && at::isIntegralType(other->scalar_type(), false)) by_minus_one = other->eq(-1).any().item<bool>();
  if (!by_minus_one) return;
  const auto common = other ? at::result_type(*self, *other) : self->scalar_type();
  const int64_t least = least_of(common);
  if (least != 0 && self->to(common).eq(least).any().item<bool>())
    refuse_arguments(
        schema, "expected no " + std::to_string(least) + " divided by -1: the quotient does not fit in its dtype.");
}

// Sparse tensors are checked where they are made: kernels follow their indices without looking.
[[maybe_unused]] const bool sparse_checked = [] {
  at::globalContext().setCheckSparseTensorInvariants(true);
  return true;
}();

}  // namespace

void add_value_guards(const Schema& schema, std::vector<Guard>* guards) {
  const std::string_view name = schema.name();
  if (name == "aten::ctc_loss" || name == "aten::_ctc_loss") guards->push_back(ctc);
  if (name == "aten::max_pool2d_with_indices_backward" || name == "aten::max_pool3d_with_indices_backward")
    guards->push_back(pooling);
  if (name == "aten::native_layer_norm_backward") guards->push_back(layer_norm);
  if (name == "aten::segment_reduce") guards->push_back(segments);
  for (const char* division : {"aten::div", "aten::div_", "aten::divide", "aten::divide_"})
    if (name == division) guards->push_back(truncating_division);
}

}  // namespace shardloop
