// Tensors as backends take them: checked, as bytes where the backend does not know the dtype, in parts by rank.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace shardloop {

// Throws BAD_ARGUMENT for what is not dense and contiguous.
void check(const at::Tensor& tensor);
std::vector<at::Tensor> checked(at::TensorList list);
// Each whole holds `size` times the elements of its shard, in the same dtype. Throws BAD_ARGUMENT.
void check_shards(const std::vector<at::Tensor>& wholes, const std::vector<at::Tensor>& shards, int size);

// Throws BAD_ARGUMENT where memory that an operation writes is also read or written by it elsewhere. The i-th tensors
// may be a pair that works in place: one is exactly the `own`-th of `size` equal parts of the other; own = -1 allows
// none.
void check_apart(at::TensorList written, at::TensorList read, int own, int size);

// The tensor, or the same memory as bytes, for operations that only move data: Gloo and NCCL know few dtypes.
at::Tensor carried(const at::Tensor& tensor);
// `size` equal parts of the elements, one after the other.
std::vector<at::Tensor> parts(const at::Tensor& whole, int size);

}  // namespace shardloop
