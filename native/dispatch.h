// The one door: finds an operator of the dispatcher by name, compiles its schema once, and calls it boxed.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include <vector>

#include "convert.h"
#include "environment.h"
#include "guards.h"

namespace shardloop {

struct CompiledArgument {
  std::string name;
  std::unique_ptr<Conversion> conversion;
  bool has_default = false;
  c10::IValue default_value;
};

struct CompiledReturn {
  std::unique_ptr<Conversion> conversion;
  int same_as_argument = -1;  // an in-place result: the argument's own handle goes back
};

struct CompiledOp {
  explicit CompiledOp(c10::OperatorHandle found) : handle(std::move(found)) {}
  c10::OperatorHandle handle;
  std::string name;  // "aten::add.Tensor"
  std::vector<CompiledArgument> arguments;
  std::vector<CompiledReturn> returns;
  std::vector<Guard> guards;
  bool may_resize = false;
  bool touches_memory = true;
};

// The exported functions; see lib/core/binding.ts for their types.
napi_value call(napi_env env, napi_callback_info info);
Napi::Value resolve(const Napi::CallbackInfo& info, Environment& environment);
Napi::Value schemas(const Napi::CallbackInfo& info, Environment& environment);

}  // namespace shardloop
