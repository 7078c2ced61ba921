// Typed arrays in and out of tensors, and the fields of a tensor that JavaScript asks for.
#pragma once
#include <napi.h>

#include "environment.h"

namespace shardloop {

Napi::Value from_array(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value read_sync(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value read_into(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value read_async(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value view(const Napi::CallbackInfo& info, Environment& environment);

Napi::Value shape(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value strides(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value dtype(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value device(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value layout(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value numel(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value storage_bytes(const Napi::CallbackInfo& info, Environment& environment);
// What is one bit of a tensor, and its dtype as c10 numbers it, in one number; FACTS of lib/core/binding.ts are the
// same.
enum Fact : uint32_t {
  kRequiresGrad = 1,
  kIsLeaf = 2,
  kIsStrided = 4,
  kIsContiguous = 8,  // and strided
  kIsConj = 16,
  kIsNeg = 32,
  kIsCpu = 64,
  kIsCuda = 128,
  kDTypeShift = 16,
};
Napi::Value facts(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value set_requires_grad(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value grad(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value set_grad(const Napi::CallbackInfo& info, Environment& environment);

}  // namespace shardloop
