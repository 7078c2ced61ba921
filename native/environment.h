// Per-environment state of the addon (one for the main thread, one for each worker_thread): the slot table that
// handles point into, the scopes that free them, and the translation of C++ exceptions into JavaScript errors.
//
// A handle is a JavaScript number of 53 bits: environment (8) | generation (23) | slot (22). States of a slot:
//   free      its generation is odd; no handle matches
//   scoped    made while a scope was open; freed when that scope is popped, unless it escapes to the scope around it
//   rooted    made outside all scopes, escaped from all of them, or kept; freed by dispose() or the finalization net,
//             and its bytes are reported to V8, so that the garbage collector sees what it holds
// A slot is retired when its generation would wrap, so a stale handle never matches a later tensor.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <napi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "error.h"

namespace shardloop {

struct CompiledOp;  // dispatch.h

class Environment {
 public:
  explicit Environment(napi_env env);
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  static Environment& of(napi_env env);

  // Slots.
  double insert(c10::IValue value);
  const c10::IValue& get(double handle) const;  // throws TENSOR_DISPOSED, TENSOR_FOREIGN
  const at::Tensor& tensor(double handle) const;
  bool alive(double handle) const noexcept;
  void dispose(double handle);  // throws as get() does
  bool dispose_quietly(double handle);

  // Scopes.
  size_t push_scope();
  void pop_scope(size_t depth, const std::vector<double>& escaping);
  // Out of all scopes. `reported`: V8 is told of its bytes, so that it collects what is unreachable before memory runs
  // out.
  void keep(double handle, bool reported);
  size_t scope_depth() const noexcept { return scopes_.size(); }

  size_t live_handles() const noexcept { return live_; }
  int64_t live_bytes() const;  // bytes of the distinct storages that live handles reach

  // Errors. Makes the JavaScript error for the exception in flight; call it in a catch block.
  napi_value current_exception_to_js();
  void set_error_factory(napi_value factory);
  // An error that user JavaScript threw in a callback: kept, so that the same object is thrown again.
  void store_js_exception(napi_value error);

  // A reference that another thread wants released; done at the next call from JavaScript.
  void release_later(napi_ref reference);

  napi_env env() const noexcept { return env_; }
  std::thread::id thread() const noexcept { return thread_; }
  // Expires with the environment: native nodes that outlive it ask this first.
  std::weak_ptr<Environment*> weak() const { return self_; }

  std::vector<std::unique_ptr<CompiledOp>> ops;  // index = op id
  std::vector<c10::IValue> spare_stack;          // reused by dispatch, so that a call need not allocate

 private:
  struct Slot {
    c10::IValue value;
    uint32_t generation = 1;  // odd: free
    bool rooted = false;
    bool escaping = false;
    int64_t reported_bytes = 0;
  };
  struct Made {  // an entry of the scope log
    uint32_t slot;
    uint32_t generation;
  };

  Slot* find(double handle, const char** why) const noexcept;
  Slot& at_handle(double handle) const;
  double handle_of(uint32_t slot) const noexcept;
  void free_slot(uint32_t slot);
  void root(Slot& slot, bool reported);
  void release_pending();

  napi_env env_;
  std::thread::id thread_;
  uint64_t tag_;  // 1..255
  mutable std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::vector<Made> log_;
  std::vector<size_t> scopes_;  // log positions
  size_t live_ = 0;
  napi_ref error_factory_ = nullptr;
  napi_ref js_exception_ = nullptr;
  std::mutex pending_mutex_;
  std::vector<napi_ref> pending_releases_;
  std::shared_ptr<Environment*> self_;
};

// Thrown through libtorch when a JavaScript callback threw; the error itself waits in the environment.
class JsException : public std::exception {
 public:
  const char* what() const noexcept override { return "a JavaScript callback threw"; }
};

// Wraps an exported function: C++ exceptions become JavaScript errors with a code. Nothing passes on upwards: while a
// worker is being terminated every call of N-API fails, throwing its error too, and node-addon-api would then throw
// through the engine.
template <Napi::Value (*Function)(const Napi::CallbackInfo&, Environment&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  try {
    return Function(info, environment);
  } catch (const Napi::Error& error) {
    try {
      error.ThrowAsJavaScriptException();
    } catch (const Napi::Error&) {
    }
  } catch (...) {
    napi_throw(info.Env(), environment.current_exception_to_js());
  }
  return {};
}

// Arguments of exported functions, checked.
double handle_argument(const Napi::CallbackInfo& info, size_t index);
std::vector<double> handles_argument(const Napi::CallbackInfo& info, size_t index);

}  // namespace shardloop
