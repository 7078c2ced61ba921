// Backward from several roots, as ops of ours: aten::_backward takes one root, but a cut between two segments has as
// many as tensors flow through it.
#include <torch/csrc/autograd/autograd.h>
#include <torch/library.h>

#include <atomic>

#include "callback_queue.h"
#include "error.h"

namespace shardloop {
namespace {

using torch::autograd::variable_list;

// Tests set it, so that the helper thread that CUDA needs is exercised on a CPU.
std::atomic<bool> force_helper{false};

variable_list with_undefined(const c10::List<std::optional<at::Tensor>>& optionals) {
  variable_list list;
  list.reserve(optionals.size());
  for (size_t i = 0; i < optionals.size(); ++i) {
    const std::optional<at::Tensor> tensor = optionals.get(i);
    list.push_back(tensor ? *tensor : at::Tensor());
  }
  return list;
}

void check_counts(size_t roots, size_t gradients) {
  if (gradients && gradients != roots) {
    throw Error("BAD_ARGUMENT", "Expected as many gradients as roots (" + std::to_string(roots) +
                                    "), or none; received " + std::to_string(gradients) + ".");
  }
}

void run_engine(at::TensorList roots, const std::function<void()>& engine) {
  const auto queue = CallbackQueue::of_this_thread();
  bool elsewhere = force_helper;
  for (const at::Tensor& root : roots) elsewhere = elsewhere || !root.is_cpu();
  {
    std::lock_guard<std::mutex> lock(queue->mutex);
    elsewhere = elsewhere && queue->nodes > 0;
  }
  if (elsewhere) {
    queue->serve_during(engine);
  } else {
    engine();
  }
}

void backward(at::TensorList roots, c10::List<std::optional<at::Tensor>> gradients, at::TensorList inputs,
              bool retain_graph, bool create_graph) {
  check_counts(roots.size(), gradients.size());
  run_engine(roots, [&] {
    torch::autograd::backward(roots.vec(), with_undefined(gradients), retain_graph, create_graph, inputs.vec());
  });
}

std::vector<at::Tensor> grad(at::TensorList outputs, at::TensorList inputs,
                             c10::List<std::optional<at::Tensor>> gradients, bool retain_graph, bool create_graph,
                             bool allow_unused) {
  check_counts(outputs.size(), gradients.size());
  std::vector<at::Tensor> result;
  run_engine(outputs, [&] {
    result = torch::autograd::grad(outputs.vec(), inputs.vec(), with_undefined(gradients), retain_graph, create_graph,
                                   allow_unused);
  });
  return result;
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def(
      "backward(Tensor[] roots, Tensor?[] gradients, Tensor[] inputs, bool retain_graph=False, bool "
      "create_graph=False) -> ()",
      &backward);
  m.def(
      "grad(Tensor[] outputs, Tensor[] inputs, Tensor?[] gradients, bool retain_graph=False, bool create_graph=False, "
      "bool allow_unused=False) -> Tensor[]",
      &grad);
  m.def("force_backward_helper(bool enabled) -> ()", [](bool enabled) { force_helper = enabled; });
}

}  // namespace
}  // namespace shardloop
