#include "storage.h"

#include <c10/core/Allocator.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "error.h"

namespace shardloop {
namespace {

// Set by the first release; until then no tensor can lack its memory, and calls look at nothing.
std::atomic<bool> any_released{false};

void check(const c10::FunctionSchema& schema, size_t i, const c10::IValue& value) {
  if (value.isTensor()) {
    if (value.toTensor().defined() && !fits_storage(value.toTensor())) {
      throw Error("BAD_ARGUMENT",
                  schema.name() + ": argument '" + schema.arguments()[i].name() +
                      "' expects a tensor whose memory is there; the storage behind this one was released. "
                      "Resize the storage back (a strategy's gather does) before it is used.");
    }
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) check(schema, i, element);
  }
}

// Resizes a tensor's storage in place, to 0 and back (ZeRO-3 releases gathered parameters so).
void resize_storage_(at::Tensor tensor, int64_t bytes) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  if (bytes < 0 || !(tensor.is_cpu() || tensor.is_meta() || tensor.is_cuda()))
    throw Error("BAD_ARGUMENT", "Expected a tensor on cpu, cuda or meta, and at least 0 bytes.");
  if (!storage->resizable())
    throw Error("BAD_ARGUMENT",
                "Expected a storage that can be resized; this one is seen from JavaScript (view()) or from a file.");
  const auto size = static_cast<size_t>(bytes);
  if (size == storage->nbytes()) return;
  c10::DataPtr fresh = size ? storage->allocator()->allocate(size) : c10::DataPtr(nullptr, storage->device());
  // On CUDA the caching allocator keeps the order of the stream; contents do not survive there.
  if (const size_t common = tensor.is_cpu() ? std::min(size, storage->nbytes()) : 0)
    std::memcpy(fresh.get(), storage->data(), common);
  storage->set_data_ptr_noswap(std::move(fresh));
  storage->set_nbytes(size);
  any_released.store(true, std::memory_order_relaxed);
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) { m.def("resize_storage_(Tensor(a!) tensor, int bytes) -> ()", &resize_storage_); }

}  // namespace

bool fits_storage(const at::Tensor& tensor) {
  if (tensor.layout() != at::kStrided || !tensor.is_cpu() || !tensor.has_storage() || tensor.numel() == 0) return true;
  if (tensor._is_zerotensor()) return true;  // autograd's zeros, which have no memory
  int64_t last = tensor.storage_offset();
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  return static_cast<size_t>(last + 1) * tensor.element_size() <= tensor.storage().nbytes();
}

bool touches_memory(const c10::FunctionSchema& schema) {
  const std::string& name = schema.name();
  if (name == "shardloop::resize_storage_" || name == "shardloop::expect_rows" || name == "shardloop::take_rows")
    return false;
  for (const c10::Argument& result : schema.returns()) {
    if (result.alias_info() && !result.alias_info()->isWrite()) return false;  // makes a view
  }
  return true;
}

void check_storages(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& stack) {
  if (!any_released.load(std::memory_order_relaxed)) return;
  for (size_t i = 0; i < stack.size(); ++i) check(schema, i, stack[i]);
}

}  // namespace shardloop
