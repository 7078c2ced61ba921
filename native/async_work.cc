// Promises for works in flight. A work finishes on a thread of libtorch; the result travels to the environment's thread
// through one threadsafe function, so that neither the event loop nor a thread of libuv's pool waits.
//
// States of a Channel (one for each environment, shared with the callbacks of its works):
//   idle      no promise is open; the threadsafe function is unreferenced, so that the process may end
//   waiting   promises are open; it is referenced, so that `await` keeps the process alive
//   closed    the environment is going away (worker terminated, process ending); results are dropped
#include "async_work.h"

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif

#include "works.h"

namespace shardloop {
namespace {

struct Channel {
  std::mutex mutex;
  napi_threadsafe_function function = nullptr;  // null: closed
  size_t open = 0;                              // promises; touched on the environment's thread alone
};

// What travels: on the way to the environment's thread it is owned by the queue.
struct Settlement {
  std::shared_ptr<Channel> channel;
  napi_deferred deferred;
  std::string error;
};

// Runs on the environment's thread; env is null while the environment is being torn down.
void settle(napi_env env, napi_value, void*, void* data) {
  std::unique_ptr<Settlement> settlement(static_cast<Settlement*>(data));
  if (env == nullptr) return;
  Channel& channel = *settlement->channel;
  if (--channel.open == 0 && channel.function != nullptr) napi_unref_threadsafe_function(env, channel.function);
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value text;
  if (napi_create_string_utf8(env, settlement->error.data(), settlement->error.size(), &text) == napi_ok)
    napi_resolve_deferred(env, settlement->deferred, text);
  napi_close_handle_scope(env, scope);
}

// Any thread.
void post(std::unique_ptr<Settlement> settlement) {
  auto channel = settlement->channel;
  std::lock_guard<std::mutex> lock(channel->mutex);
  if (channel->function == nullptr) return;
  if (napi_call_threadsafe_function(channel->function, settlement.get(), napi_tsfn_nonblocking) == napi_ok)
    settlement.release();
}

bool on_main_thread() {
#ifdef __linux__
  return syscall(SYS_gettid) == getpid();
#else
  return pthread_main_np() != 0;
#endif
}

void close_channel(void* data) {
  std::unique_ptr<std::shared_ptr<Channel>> holder(static_cast<std::shared_ptr<Channel>*>(data));
  // A worker thread leaves a process that goes on: what it did not destroy would stay, and its peers would wait.
  if (!on_main_thread()) {
    release_works_of(std::this_thread::get_id());
    close_owned(std::this_thread::get_id());
  }
  Channel& channel = **holder;
  std::lock_guard<std::mutex> lock(channel.mutex);
  if (channel.function == nullptr) return;
  napi_release_threadsafe_function(channel.function, napi_tsfn_abort);
  channel.function = nullptr;
}

napi_value work_promise(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  void* data = nullptr;
  int64_t id = 0;
  if (napi_get_cb_info(env, info, &count, &argument, nullptr, &data) != napi_ok) return nullptr;
  if (count < 1 || napi_get_value_int64(env, argument, &id) != napi_ok) {
    napi_throw_type_error(env, "BAD_ARGUMENT", "workPromise needs the id of a work");
    return nullptr;
  }
  auto& channel = *static_cast<std::shared_ptr<Channel>*>(data);
  auto settlement = std::make_unique<Settlement>();
  settlement->channel = channel;
  napi_value promise;
  if (napi_create_promise(env, &settlement->deferred, &promise) != napi_ok) return nullptr;
  if (channel->function == nullptr) return promise;  // the environment is ending: it never settles
  if (channel->open++ == 0) napi_ref_threadsafe_function(env, channel->function);
  auto shared = std::make_shared<std::unique_ptr<Settlement>>(std::move(settlement));
  auto callback = [shared](const std::string& error) {
    (*shared)->error = error;
    post(std::move(*shared));
  };
  if (!on_work_finished(id, callback)) callback("");  // waited for already
  return promise;
}

}  // namespace

void register_async_work(napi_env env, napi_value exports) {
  auto channel = std::make_shared<Channel>();
  napi_value name, function;
  if (napi_create_string_utf8(env, "shardloop works", NAPI_AUTO_LENGTH, &name) != napi_ok) return;
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, settle,
                                      &channel->function) != napi_ok)
    return;
  napi_unref_threadsafe_function(env, channel->function);
  // Hooks run in the reverse order of their adding, so the channel is closed before the threadsafe function goes.
  auto* holder = new std::shared_ptr<Channel>(channel);
  napi_add_env_cleanup_hook(env, close_channel, holder);
  auto* argument = new std::shared_ptr<Channel>(channel);
  if (napi_create_function(env, "workPromise", NAPI_AUTO_LENGTH, work_promise, argument, &function) != napi_ok) return;
  napi_add_finalizer(
      env, function, argument, [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Channel>*>(data); },
      nullptr, nullptr);
  napi_set_named_property(env, exports, "workPromise", function);
}

}  // namespace shardloop
