// The products of shardloop::linear, for ops that multiply by a weight themselves.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

namespace shardloop {

// Whether x W^T is computed by widened_linear.
bool is_widened(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

// x W^T + b of half-precision tensors on the CPU, multiplied in float32 and rounded once.
at::Tensor widened_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

// The gradients of x, weight and bias, those that `wanted` names; the others are undefined. x is read for the weight's
// alone.
std::tuple<at::Tensor, at::Tensor, at::Tensor> widened_linear_backward(const at::Tensor& gradient,
                                                                       const std::optional<at::Tensor>& x,
                                                                       const at::Tensor& weight,
                                                                       std::array<bool, 3> wanted);

}  // namespace shardloop
