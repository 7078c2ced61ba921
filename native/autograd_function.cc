// Lifetime of a JsNode: the graph owns it (through the outputs' grad_fn); it owns a reference to the callback. The
// graph may be freed on any thread, or after the environment: the reference is then handed back to the environment's
// list, or dropped with it.
#include "autograd_function.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <type_traits>

#include "callback_queue.h"
#include "convert.h"

namespace shardloop {
namespace {

using torch::autograd::variable_list;
// std::shared_ptr up to some release, c10::intrusive_ptr after it: whatever an edge of this libtorch holds.
using NodePointer = decltype(torch::autograd::Edge::function);

struct JsNode : torch::autograd::Node {
  JsNode(Environment& environment, napi_value callback, torch::autograd::edge_list edges)
      : Node(std::move(edges)), environment_(environment.weak()), queue_(CallbackQueue::of_this_thread()) {
    napi_create_reference(environment.env(), callback, 1, &callback_);
    std::lock_guard<std::mutex> lock(queue_->mutex);
    ++queue_->nodes;
  }

  ~JsNode() override {
    {
      std::lock_guard<std::mutex> lock(queue_->mutex);
      --queue_->nodes;
    }
    if (const auto alive = environment_.lock()) (*alive)->release_later(callback_);
  }

  std::string name() const override { return "ShardloopCustomFunctionBackward"; }

  variable_list apply(variable_list&& gradients) override {
    variable_list result;
    queue_->run([&] { result = call(gradients); });
    return result;
  }

 private:
  variable_list call(const variable_list& gradients) {
    const auto alive = environment_.lock();
    if (!alive) throw Error("CALLBACK_THREAD", "The worker that made this custom function has ended.");
    Environment& environment = **alive;
    napi_env env = environment.env();
    Napi::HandleScope scope(env);
    napi_value callback, list, answer, global;
    napi_get_reference_value(env, callback_, &callback);
    napi_get_global(env, &global);
    napi_create_array_with_length(env, gradients.size(), &list);
    for (size_t i = 0; i < gradients.size(); ++i) {
      napi_value element;
      if (gradients[i].defined()) {
        napi_create_double(env, environment.insert(gradients[i]), &element);
      } else {
        napi_get_null(env, &element);
      }
      napi_set_element(env, list, i, element);
    }
    if (napi_call_function(env, global, callback, 1, &list, &answer) != napi_ok) {
      napi_value exception;
      napi_get_and_clear_last_exception(env, &exception);
      environment.store_js_exception(exception);
      throw JsException();
    }
    return read(env, environment, answer);
  }

  variable_list read(napi_env env, Environment& environment, napi_value answer) {
    bool is_array = false;
    uint32_t length = 0;
    napi_is_array(env, answer, &is_array);
    if (is_array) napi_get_array_length(env, answer, &length);
    if (!is_array || length != num_outputs()) {
      throw Error("BAD_ARGUMENT",
                  "A custom function's backward must return an array of one gradient (or null) for each of its " +
                      std::to_string(num_outputs()) + " inputs, returned " +
                      (is_array ? std::to_string(length) + " of them." : describe(env, answer) + "."));
    }
    variable_list result(length);
    for (uint32_t i = 0; i < length; ++i) {
      napi_value element;
      double handle;
      napi_get_element(env, answer, i, &element);
      if (napi_get_value_double(env, element, &handle) == napi_ok) result[i] = environment.tensor(handle);
    }
    return result;
  }

  std::weak_ptr<Environment*> environment_;
  std::shared_ptr<CallbackQueue> queue_;
  napi_ref callback_ = nullptr;
};

template <class Pointer, class... Arguments>
Pointer make_node(Arguments&&... arguments) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::make_shared<JsNode>(std::forward<Arguments>(arguments)...);
  } else {
    return c10::make_intrusive<JsNode>(std::forward<Arguments>(arguments)...);
  }
}

}  // namespace

Napi::Value attach_backward(const Napi::CallbackInfo& info, Environment& environment) {
  Napi::Env env = info.Env();
  variable_list inputs, outputs;
  for (double handle : handles_argument(info, 0)) inputs.push_back(environment.tensor(handle));
  for (double handle : handles_argument(info, 1)) outputs.push_back(environment.tensor(handle));
  if (!info[2].IsFunction())
    throw Error("BAD_ARGUMENT", "Expected the backward as a function, received " + describe(env, info[2]) + ".");
  const bool needs_graph = at::GradMode::is_enabled() && torch::autograd::any_variable_requires_grad(inputs);
  NodePointer node;
  if (needs_graph) node = make_node<NodePointer>(environment, info[2], torch::autograd::collect_next_edges(inputs));
  auto result = Napi::Array::New(env, outputs.size());
  for (uint32_t i = 0; i < outputs.size(); ++i) {
    at::Tensor output = outputs[i].detach();  // an alias: the original may be an input, or have a history of its own
    if (needs_graph) torch::autograd::set_history(output, node);
    result.Set(i, environment.insert(std::move(output)));
  }
  return result;
}

}  // namespace shardloop
