// Storages that are released and come back (shardloop::resize_storage_): ZeRO-3 frees a gathered parameter so, while
// the graph holds the tensor. Until it is back, the tensor reaches beyond its storage, and operators that would read or
// write it are refused; views of it may be made.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <vector>

namespace shardloop {

// Whether the sizes, strides and offset of a CPU tensor stay within its storage. True for all other tensors.
bool fits_storage(const at::Tensor& tensor);

// Whether an operator reads or writes the memory of its arguments; one that only makes views does not.
bool touches_memory(const c10::FunctionSchema& schema);

// Throws BAD_ARGUMENT when the storage behind an argument was released.
void check_storages(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& stack);

}  // namespace shardloop
