// A failed operator leaves the tensors that it was to write as they were: libtorch resizes an output before it finds
// that it cannot (memory, a storage that is seen from JavaScript, a dtype), and the tensor would then reach beyond its
// storage.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include <vector>

namespace shardloop {

// Whether the operator may resize what it writes: out= forms, and resize_, set_, as_strided_ and their kin.
bool may_resize(const c10::FunctionSchema& schema);

// Calls the operator; when it throws, or left a negative size in one of them, the written arguments get their sizes,
// strides and offset back.
void call_with_rollback(const c10::OperatorHandle& handle, std::vector<c10::IValue>& stack);

}  // namespace shardloop
