// The lists of an optimizer op, checked and taken apart for the kernels, and the front of each op, which the CPU
// (optimizer_ops.cc) and CUDA (cuda/optimizer.cu) share. A kernel sees pointers and counts alone.
#pragma once
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <vector>

#include "kernels/optimizer_rules.h"

namespace shardloop {

// One parameter: all tensors of it have `n` elements in the same order.
struct Item {
  void* master;
  void* parameter;  // null, or what receives the master in half precision
  const void* gradient;
  void* states[2];  // null from Settings::states on
  int64_t n;
};

// All of a step. Empty parameters are left out.
struct Step {
  Kinds kinds{};
  Settings settings{};
  std::vector<Item> items;
  int64_t numel = 0;
  at::Device device = at::kCPU;
  // Contiguous stand-ins live until the kernels have run; `back` holds those that are copied back: (original,
  // stand-in).
  std::vector<at::Tensor> stand_ins;
  std::vector<std::pair<at::Tensor, at::Tensor>> back;
};

struct StepLists {
  at::TensorList masters, parameters, gradients;
  std::vector<at::TensorList> states;
};

// Throws BAD_ARGUMENT, beginning with the op's name, where the lists do not fit together.
Step prepare_step(const char* op, const StepLists& lists, const Settings& settings);

// Copies stand-ins back and tells autograd that what was written has other values.
void finish_step(const Step& step, const StepLists& lists);

// The gradients of a norm as the kernels read them: dense, on one device. Empty ones stay, so that positions are the
// list's.
std::vector<at::Tensor> prepare_gradients(const char* op, at::TensorList gradients);

Kind kind_of(at::ScalarType type);

Settings adamw_settings(double lr, double beta1, double beta2, double eps, double weight_decay, double correction1,
                        double correction2, double grad_scale);
Settings sgd_settings(double lr, double momentum, double weight_decay, bool nesterov, double grad_scale, bool buffers);
Settings lion_settings(double lr, double beta1, double beta2, double weight_decay, double grad_scale);

using Launch = void (*)(const Step&);

template <Launch kLaunch>
void run_step(const char* op, const StepLists& lists, const Settings& settings) {
  const Step step = prepare_step(op, lists, settings);
  if (!step.items.empty()) kLaunch(step);
  finish_step(step, lists);
}

template <Launch kLaunch>
void adamw_step_(at::TensorList masters, at::TensorList parameters, at::TensorList gradients, at::TensorList exp_avgs,
                 at::TensorList exp_avg_sqs, double lr, double beta1, double beta2, double eps, double weight_decay,
                 double correction1, double correction2, double grad_scale) {
  run_step<kLaunch>("shardloop::adamw_step_", {masters, parameters, gradients, {exp_avgs, exp_avg_sqs}},
                    adamw_settings(lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale));
}

template <Launch kLaunch>
void sgd_step_(at::TensorList masters, at::TensorList parameters, at::TensorList gradients,
               at::TensorList momentum_buffers, double lr, double momentum, double weight_decay, bool nesterov,
               double grad_scale) {
  StepLists lists{masters, parameters, gradients, {}};
  if (!momentum_buffers.empty()) lists.states.push_back(momentum_buffers);
  run_step<kLaunch>("shardloop::sgd_step_", lists,
                    sgd_settings(lr, momentum, weight_decay, nesterov, grad_scale, !momentum_buffers.empty()));
}

template <Launch kLaunch>
void lion_step_(at::TensorList masters, at::TensorList parameters, at::TensorList gradients, at::TensorList exp_avgs,
                double lr, double beta1, double beta2, double weight_decay, double grad_scale) {
  run_step<kLaunch>("shardloop::lion_step_", {masters, parameters, gradients, {exp_avgs}},
                    lion_settings(lr, beta1, beta2, weight_decay, grad_scale));
}

template <Launch kLaunch>
void implement_steps(torch::Library& m) {
  m.impl("adamw_step_", &adamw_step_<kLaunch>);
  m.impl("sgd_step_", &sgd_step_<kLaunch>);
  m.impl("lion_step_", &lion_step_<kLaunch>);
}

}  // namespace shardloop
