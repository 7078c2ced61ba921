// What the ops of cross-entropy share.
#pragma once
#include <ATen/core/Tensor.h>

namespace shardloop {

// Throws BAD_ARGUMENT, beginning with the op's name, at a label that is neither a class nor `ignore_index`. Contiguous
// labels on the CPU.
void check_labels(const char* op, const at::Tensor& labels, int64_t classes, int64_t ignore_index);

// The sum of the losses of contiguous logits (N, V) on the CPU, all of whose labels (N) count. With a `slope` the
// logits become their gradient times it; without, they stay.
double sum_of_losses(const at::Tensor& logits, const int64_t* labels, double smoothing, const double* slope);

// The gradient of the logits for one (N) or (1) of the losses, of ATen's ops, where it is to be differentiated again.
at::Tensor composed_gradient(const at::Tensor& gradient, const at::Tensor& logits, const at::Tensor& labels,
                             int64_t ignore_index, double smoothing);

}  // namespace shardloop
