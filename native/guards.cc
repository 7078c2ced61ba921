#include "guards.h"

#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <optional>
#include <string_view>

#include "error.h"
#include "value_guards.h"

namespace shardloop {
namespace {

using Stack = std::vector<c10::IValue>;
using Schema = c10::FunctionSchema;

bool starts_with(std::string_view text, std::string_view head) { return text.substr(0, head.size()) == head; }

// The argument of this name, or None where the schema has none.
const c10::IValue& named(const Schema& schema, const Stack& stack, std::string_view name) {
  static const c10::IValue none;
  for (size_t i = 0; i < stack.size(); ++i) {
    if (schema.arguments()[i].name() == name) return stack[i];
  }
  return none;
}

template <class Visit>
void each_tensor(const c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) each_tensor(element, visit);
  }
}

// out= operators resize their output while they still read their inputs: the two must not share memory.
void separate_out(const Schema& schema, const Stack& stack) {
  std::vector<const void*> seen;
  const auto storage = [](const at::Tensor& tensor) -> const void* {
    return tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl()
                                : static_cast<const void*>(tensor.unsafeGetTensorImpl());
  };
  for (size_t i = 0; i < stack.size(); ++i) {
    if (!schema.arguments()[i].kwarg_only())
      each_tensor(stack[i], [&](const at::Tensor& tensor) { seen.push_back(storage(tensor)); });
  }
  for (size_t i = 0; i < stack.size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    if (!argument.kwarg_only() || !argument.alias_info() || !argument.alias_info()->isWrite()) continue;
    each_tensor(stack[i], [&](const at::Tensor& tensor) {
      for (const void* other : seen) {
        if (other == storage(tensor)) {
          refuse_arguments(
              schema,
              "expected '" + argument.name() +
                  "' to share no memory with the other arguments; it does. Use the in-place form, or another tensor.");
        }
      }
      seen.push_back(storage(tensor));
    });
  }
}

// All lists go element by element together.
void equal_lists(const Schema& schema, const Stack& stack) {
  std::optional<size_t> length;
  for (size_t i = 0; i < stack.size(); ++i) {
    if (!stack[i].isList()) continue;
    const size_t own = stack[i].toListRef().size();
    if (length && own != *length) {
      refuse_arguments(schema, "expected lists of one length, received " + std::to_string(*length) + " and " +
                                   std::to_string(own) + " ('" + schema.arguments()[i].name() + "').");
    }
    length = own;
  }
}

// The fused optimizers walk raw memory: everything that belongs to a parameter must have its size, layout and dtype.
void fused_optimizer(const Schema& schema, const Stack& stack) {
  const auto params = stack[0].toTensorVector();
  for (size_t i = 0; i < stack.size(); ++i) {
    if (!stack[i].isTensorList()) continue;
    const std::string& name = schema.arguments()[i].name();
    const auto list = stack[i].toTensorVector();
    const bool steps = name == "state_steps";
    const bool optional = name == "max_exp_avg_sqs" || name == "momentum_buffer_list";
    if (list.empty() && optional) continue;
    if (list.size() != params.size()) {
      refuse_arguments(schema, "expected " + std::to_string(params.size()) + " tensors in '" + name +
                                   "', one for each parameter; received " + std::to_string(list.size()) + ".");
    }
    for (size_t k = 0; k < list.size(); ++k) {
      const at::Tensor& param = params[k];
      const at::Tensor& tensor = list[k];
      if (!tensor.defined())
        refuse_arguments(schema,
                         "expected tensors in '" + name + "', received none at index " + std::to_string(k) + ".");
      const bool good = steps ? tensor.numel() == 1 && tensor.scalar_type() == at::kFloat
                              : tensor.layout() == at::kStrided && at::isFloatingType(tensor.scalar_type()) &&
                                    tensor.scalar_type() == param.scalar_type() && tensor.device() == param.device() &&
                                    tensor.sizes() == param.sizes() && tensor.strides() == param.strides() &&
                                    tensor.is_non_overlapping_and_dense();
      if (!good) {
        refuse_arguments(
            schema, steps ? "expected float32 tensors of one element in 'state_steps'; number " + std::to_string(k) +
                                " is not one."
                          : "expected the tensors in '" + name +
                                "' to have the dtype, device, shape and strides of their parameters, all dense "
                                "floating; number " +
                                std::to_string(k) + " does not.");
      }
    }
  }
  const bool amsgrad = named(schema, stack, "amsgrad").isBool() && named(schema, stack, "amsgrad").toBool();
  if (amsgrad && named(schema, stack, "max_exp_avg_sqs").toListRef().size() != params.size())
    refuse_arguments(schema, "expected 'max_exp_avg_sqs' for amsgrad.");
  const c10::IValue& momentum = named(schema, stack, "momentum");
  if (momentum.isDouble() && momentum.toDouble() != 0 &&
      named(schema, stack, "momentum_buffer_list").toListRef().size() != params.size()) {
    refuse_arguments(schema, "expected 'momentum_buffer_list' for a momentum that is not 0.");
  }
  for (const char* name : {"grad_scale", "found_inf", "lr"}) {
    const c10::IValue& value = named(schema, stack, name);
    if (value.isTensor() && value.toTensor().defined() &&
        (value.toTensor().numel() != 1 || value.toTensor().scalar_type() != at::kFloat)) {
      refuse_arguments(schema, std::string("expected '") + name + "' to be a float32 tensor of one element.");
    }
  }
}

// Batch norm reads its per-channel vectors by the channel count of the input.
void batch_norm(const Schema& schema, const Stack& stack) {
  const at::Tensor& input = stack[0].toTensor();
  if (!input.defined() || input.dim() < 2 || !at::isFloatingType(input.scalar_type())) {
    refuse_arguments(schema, "expected a floating input of at least 2 axes (N, C, ...).");
  }
  const int64_t channels = input.size(1);
  for (const char* name : {"weight", "bias", "running_mean", "running_var"}) {
    const c10::IValue& value = named(schema, stack, name);
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    const at::Tensor& vector = value.toTensor();
    if (vector.dim() != 1 || vector.size(0) != channels || !at::isFloatingType(vector.scalar_type())) {
      refuse_arguments(schema, std::string("expected '") + name + "' to be a floating vector of the " +
                                   std::to_string(channels) + " channels.");
    }
  }
  const c10::IValue& training = named(schema, stack, "training");
  const bool uses_statistics =
      training.isBool() ? !training.toBool() : schema.name() != "aten::batch_norm_update_stats";
  for (const char* name : {"running_mean", "running_var"}) {
    const c10::IValue& value = named(schema, stack, name);
    if (uses_statistics && !(value.isTensor() && value.toTensor().defined()))
      refuse_arguments(schema, std::string("expected '") + name + "', which is needed outside of training.");
  }
}

// A recurrent network walks its weights by the number of layers and directions.
void recurrent(const Schema& schema, const Stack& stack) {
  const c10::IValue& layers = named(schema, stack, "num_layers");
  const c10::IValue& params = named(schema, stack, "params");
  if (!layers.isInt() || !params.isList()) return;  // a single cell
  if (layers.toInt() < 1 || layers.toInt() > 4096) {
    refuse_arguments(schema, "expected 1 to 4096 layers, received " + std::to_string(layers.toInt()) + ".");
  }
  const bool biases = named(schema, stack, "has_biases").toBool();
  const int64_t cells = layers.toInt() * (named(schema, stack, "bidirectional").toBool() ? 2 : 1);
  const int64_t each = biases ? 4 : 2, projected = schema.name() == "aten::lstm" ? each + 1 : each;
  const auto count = static_cast<int64_t>(params.toListRef().size());
  if (count != cells * each && count != cells * projected) {
    refuse_arguments(schema, "expected " + std::to_string(cells * each) + " tensors in 'params' (" +
                                 std::to_string(each) + " for each layer and direction), received " +
                                 std::to_string(count) + ".");
  }
}

// The antialiasing kernels size their windows by the scale, and their memory by the sizes: the two must agree.
void antialias(const Schema& schema, const Stack& stack) {
  const at::Tensor& input = stack[0].toTensor();
  const auto sizes = named(schema, stack, "output_size");
  const auto given = named(schema, stack, "input_size");  // of the backward forms
  if (!input.defined() || input.dim() != 4 || !sizes.isIntList() || sizes.toIntVector().size() != 2)
    return;  // libtorch says so itself
  if (given.isIntList() && given.toIntVector().size() != 4) return;
  const auto from = given.isIntList() ? given.toIntVector() : input.sizes().vec();
  const auto check = [&](const char* name, int64_t before, int64_t to) {
    const c10::IValue& scale = named(schema, stack, name);
    if (!scale.isDouble()) return;
    // The last window starts at about (to - 0.5) / scale - support, which must lie inside of the input.
    const bool inside = scale.toDouble() * (static_cast<double>(before) + 0.5) >= static_cast<double>(to) - 0.5;
    if (!(scale.toDouble() > 0 && inside))
      refuse_arguments(schema,
                       std::string("expected '") + name + "' to lead from the input's size to the output's, or null.");
  };
  check("scales_h", from[2], sizes.toIntVector()[0]);
  check("scales_w", from[3], sizes.toIntVector()[1]);
}

// LAPACK's search for eigenvalues reads out of bounds on NaN and infinities. linalg_eig looks itself.
void finite_matrix(const Schema& schema, const Stack& stack) {
  const at::Tensor& matrix = stack[0].toTensor();
  if (!matrix.defined() || matrix.is_meta() || matrix.layout() != at::kStrided) return;
  at::NoGradGuard no_grad;
  if (!at::isfinite(matrix).all().item<bool>()) refuse_arguments(schema, "expected a matrix without NaN or infinity.");
}

// The functional form of copy_ reads the storage of its first argument, which sparse and mkldnn tensors do not have.
void copy_over_storage(const Schema& schema, const Stack& stack) {
  const at::Tensor& over = stack[0].toTensor();
  if (over.defined() && !over.has_storage())
    refuse_arguments(schema, "expected a strided tensor in 'self'; use to() and expand_as() for the other layouts.");
}

// The search for a row's best range ends for some rows and numbers of bins only.
void no_search(const Schema& schema, const Stack& stack) {
  const c10::IValue& search = named(schema, stack, "optimized_qparams");
  if (search.isBool() && search.toBool())
    refuse_arguments(schema, "expected optimized_qparams to be false: its search does not always end.");
}

}  // namespace

void refuse_arguments(const Schema& schema, const std::string& text) {
  throw Error("BAD_ARGUMENT", schema.name() + ": " + text);
}

std::vector<Guard> guards_of(const Schema& schema) {
  std::vector<Guard> guards;
  const std::string& name = schema.name();
  if (starts_with(name, "quantized::embedding_bag_")) guards.push_back(no_search);
  if (!starts_with(name, "aten::")) return guards;
  for (const c10::Argument& argument : schema.arguments()) {
    if (argument.kwarg_only() && argument.alias_info() && argument.alias_info()->isWrite()) {
      guards.push_back(separate_out);
      break;
    }
  }
  const std::string_view base = std::string_view(name).substr(6);
  if (starts_with(base, "_foreach_")) guards.push_back(equal_lists);
  for (const char* fused : {"_fused_adam", "_fused_sgd"}) {  // in place, functional and out=; adamw and adagrad too
    if (starts_with(base, fused) || starts_with(base, "_fused_adagrad")) {
      guards.push_back(fused_optimizer);
      break;
    }
  }
  for (const char* norm : {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
                           "_native_batch_norm_legit_functional", "_batch_norm_with_update",
                           "_batch_norm_with_update_functional", "_batch_norm_no_update", "batch_norm_update_stats"}) {
    if (base == norm) guards.push_back(batch_norm);
  }
  add_value_guards(schema, &guards);
  for (const char* network : {"lstm", "gru", "rnn_tanh", "rnn_relu"}) {
    if (base == network) guards.push_back(recurrent);
  }
  if (base == "linalg_eigvals" || base == "_linalg_eigvals") guards.push_back(finite_matrix);
  if (base == "copy") guards.push_back(copy_over_storage);
  if (starts_with(base, "_upsample_") && base.find("_aa") != std::string_view::npos) guards.push_back(antialias);
  return guards;
}

void check_result(const Schema& schema, const c10::IValue& result) {
  if (result.isTensor()) {
    const at::Tensor& tensor = result.toTensor();
    if (!tensor.defined() || tensor.numel() != 0 || tensor.is_nested()) return;
    for (int64_t size : tensor.sizes()) {
      if (size < 0) refuse_arguments(schema, "expected sizes of at least 0, received " + std::to_string(size) + ".");
    }
  } else if (result.isTensorList()) {
    for (const c10::IValue& element : result.toListRef()) check_result(schema, element);
  }
}

}  // namespace shardloop
