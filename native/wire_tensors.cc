#include "wire_tensors.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include "error.h"

namespace shardloop {

void check(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != at::kStrided || !tensor.is_contiguous())
    throw Error("BAD_ARGUMENT", "a collective needs a contiguous, dense tensor");
  if (tensor.is_conj() || tensor.is_neg())
    throw Error("BAD_ARGUMENT", "a collective sends memory as it is, and this is a lazily conjugated or negated view");
}

std::vector<at::Tensor> checked(at::TensorList list) {
  auto tensors = list.vec();
  for (const at::Tensor& tensor : tensors) check(tensor);
  return tensors;
}

void check_shards(const std::vector<at::Tensor>& wholes, const std::vector<at::Tensor>& shards, int size) {
  if (wholes.size() != shards.size() || wholes.empty())
    throw Error("BAD_ARGUMENT", "there must be as many whole tensors as shards, and at least one");
  for (size_t i = 0; i < wholes.size(); ++i) {
    check(wholes[i]);
    check(shards[i]);
    if (wholes[i].scalar_type() != shards[i].scalar_type() || wholes[i].numel() != shards[i].numel() * size)
      throw Error("BAD_ARGUMENT", "the whole tensor must hold size times the shard's elements, in the same dtype");
  }
}

at::Tensor carried(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16:
    case at::kChar:
    case at::kByte:
    case at::kInt:
    case at::kLong:
    case at::kBool: return tensor.detach();
    default: break;
  }
  at::NoGradGuard no_grad;
  const at::Tensor plain = tensor.is_complex() ? at::view_as_real(tensor.detach()) : tensor.detach();
  if (plain.dim() > 0) return plain.view(at::kByte);
  return plain.view({1}).view(at::kByte);
}

std::vector<at::Tensor> parts(const at::Tensor& whole, int size) {
  at::NoGradGuard no_grad;
  const at::Tensor flat = whole.detach().view(-1);
  const int64_t each = flat.numel() / size;
  std::vector<at::Tensor> result;
  for (int i = 0; i < size; ++i) result.push_back(flat.narrow(0, i * each, each));
  return result;
}

}  // namespace shardloop
