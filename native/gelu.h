// GELU by its tanh approximation, for ops that are computed around it. These call the ops, so on meta tensors too.
#pragma once
#include <ATen/core/Tensor.h>

namespace shardloop {

at::Tensor gelu_tanh_forward(const at::Tensor& x);

at::Tensor gelu_tanh_backward(const at::Tensor& gradient, const at::Tensor& x);

}  // namespace shardloop
