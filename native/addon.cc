// The export table of the addon and nothing else. lib/core/binding.ts holds the types.
#include <napi.h>

#include "array_pages.h"
#include "async_work.h"
#include "autograd_function.h"
#include "cuda_library.h"
#include "dispatch.h"
#include "environment.h"
#include "tensor_data.h"

namespace shardloop {
namespace {

Napi::Value init(const Napi::CallbackInfo& info, Environment& environment) {
  if (!info[0].IsFunction()) throw Error("BAD_ARGUMENT", "Expected a function that makes errors.");
  environment.set_error_factory(info[0]);
  return info.Env().Undefined();
}

Napi::Value dispose(const Napi::CallbackInfo& info, Environment& environment) {
  environment.dispose(handle_argument(info, 0));
  return info.Env().Undefined();
}

Napi::Value dispose_quiet(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::Boolean::New(info.Env(), environment.dispose_quietly(handle_argument(info, 0)));
}

Napi::Value is_alive(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::Boolean::New(info.Env(), environment.alive(handle_argument(info, 0)));
}

Napi::Value scope_push(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::Number::New(info.Env(), static_cast<double>(environment.push_scope()));
}

Napi::Value scope_pop(const Napi::CallbackInfo& info, Environment& environment) {
  environment.pop_scope(static_cast<size_t>(handle_argument(info, 0)), handles_argument(info, 1));
  return info.Env().Undefined();
}

Napi::Value scope_depth(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::Number::New(info.Env(), static_cast<double>(environment.scope_depth()));
}

Napi::Value keep(const Napi::CallbackInfo& info, Environment& environment) {
  environment.keep(handle_argument(info, 0), info[1].ToBoolean());
  return info.Env().Undefined();
}

Napi::Value stats(const Napi::CallbackInfo& info, Environment& environment) {
  auto result = Napi::Object::New(info.Env());
  result.Set("handles", static_cast<double>(environment.live_handles()));
  result.Set("bytes", static_cast<double>(environment.live_bytes()));
  result.Set("scopeDepth", static_cast<double>(environment.scope_depth()));
  return result;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  load_cuda_library();
  env.SetInstanceData(new Environment(env));  // deleted with the environment
  const auto add = [&](const char* name, auto function) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("init", guarded<init>);
  add("resolve", guarded<resolve>);
  add("schemas", guarded<schemas>);
  add("dispose", guarded<dispose>);
  add("disposeQuiet", guarded<dispose_quiet>);
  add("isAlive", guarded<is_alive>);
  add("scopePush", guarded<scope_push>);
  add("scopePop", guarded<scope_pop>);
  add("scopeDepth", guarded<scope_depth>);
  add("keep", guarded<keep>);
  add("stats", guarded<stats>);
  add("fromArray", guarded<from_array>);
  add("readSync", guarded<read_sync>);
  add("readInto", guarded<read_into>);
  add("arrayPages", guarded<array_pages>);
  add("read", guarded<read_async>);
  add("view", guarded<view>);
  add("shape", guarded<shape>);
  add("strides", guarded<strides>);
  add("dtype", guarded<dtype>);
  add("device", guarded<device>);
  add("layout", guarded<layout>);
  add("numel", guarded<numel>);
  add("storageBytes", guarded<storage_bytes>);
  add("facts", guarded<facts>);
  add("setRequiresGrad", guarded<set_requires_grad>);
  add("grad", guarded<grad>);
  add("setGrad", guarded<set_grad>);
  add("attachBackward", guarded<attach_backward>);
  // The one function on the hot path is a plain N-API callback (bench/dispatch).
  napi_value call_function;
  napi_create_function(env, "call", NAPI_AUTO_LENGTH, call, nullptr, &call_function);
  exports.Set("call", Napi::Value(env, call_function));
  register_async_work(env, exports);
  return exports;
}

}  // namespace
}  // namespace shardloop

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  try {
    return shardloop::initialize(env, exports);
  } catch (const Napi::Error& error) {
    // A worker may be terminated while it loads the addon; see guarded() in environment.h.
    try {
      error.ThrowAsJavaScriptException();
    } catch (const Napi::Error&) {
    }
  }
  return exports;
}
NODE_API_MODULE(shardloop, Init)
