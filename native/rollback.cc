#include "rollback.h"

#include <ATen/core/Tensor.h>

#include <string_view>

#include "guards.h"
#include "storage.h"

namespace shardloop {
namespace {

struct Saved {
  at::Tensor tensor;
  std::vector<int64_t> sizes, strides;
  int64_t offset;
};

bool is_written(const c10::Argument& argument) { return argument.alias_info() && argument.alias_info()->isWrite(); }

void save(const c10::IValue& value, std::vector<Saved>* into) {
  if (value.isTensorList()) {
    for (const c10::IValue& element : value.toListRef()) save(element, into);
  } else if (value.isTensor() && value.toTensor().defined() && value.toTensor().layout() == at::kStrided) {
    const at::Tensor& tensor = value.toTensor();
    into->push_back({tensor, tensor.sizes().vec(), tensor.strides().vec(), tensor.storage_offset()});
  }
}

void restore(const Saved& saved) noexcept {
  c10::TensorImpl* tensor = saved.tensor.unsafeGetTensorImpl();
  try {
    if (tensor->sizes() == saved.sizes && tensor->strides() == saved.strides &&
        tensor->storage_offset() == saved.offset)
      return;
    tensor->set_sizes_and_strides(saved.sizes, saved.strides, saved.offset);
    // set_() may have changed the storage too: then there is nothing to go back to, and an empty tensor is safe.
    if (!fits_storage(saved.tensor)) tensor->set_sizes_and_strides(c10::IntArrayRef{0}, c10::IntArrayRef{1}, 0);
  } catch (const std::exception&) {  // a tensor whose metadata may not change was not changed either
  }
}

}  // namespace

bool may_resize(const c10::FunctionSchema& schema) {
  const std::string_view name = schema.name();
  bool writes = false;
  for (const c10::Argument& argument : schema.arguments()) {
    if (!is_written(argument)) continue;
    if (argument.kwarg_only()) return true;
    writes = true;
  }
  return writes &&
         (name.find("resize") != name.npos || name.find("::set_") != name.npos || name.find("strided") != name.npos);
}

void call_with_rollback(const c10::OperatorHandle& handle, std::vector<c10::IValue>& stack) {
  std::vector<Saved> saved;
  const auto& arguments = handle.schema().arguments();
  for (size_t i = 0; i < stack.size(); ++i) {
    if (is_written(arguments[i])) save(stack[i], &saved);
  }
  try {
    handle.callBoxed(stack);
    for (const Saved& one : saved) check_result(handle.schema(), one.tensor);
  } catch (...) {
    for (const Saved& one : saved) restore(one);
    throw;
  }
}

}  // namespace shardloop
