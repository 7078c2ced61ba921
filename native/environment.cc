#include "environment.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cmath>
#include <new>
#include <unordered_map>

#include "dispatch.h"

namespace shardloop {
namespace {

constexpr uint32_t kSlotBits = 22, kGenerationBits = 23;
constexpr uint32_t kMaxSlots = 1u << kSlotBits;
constexpr uint32_t kMaxGeneration = (1u << kGenerationBits) - 1;

std::atomic<uint64_t> next_tag{0};

int64_t bytes_of(const c10::IValue& value) {
  if (!value.isTensor()) return 0;
  const at::Tensor& tensor = value.toTensor();
  if (!tensor.defined() || tensor.layout() != at::kStrided || tensor.is_meta()) return 0;
  return static_cast<int64_t>(tensor.numel() * tensor.element_size());
}

void throw_stale(const char* why) {
  if (why == std::string_view("foreign")) {
    throw Error("TENSOR_FOREIGN",
                "Expected a tensor of this thread, received a handle that belongs to another worker or was never made. "
                "Tensors do not cross threads: send their data (await tensor.data()) instead.");
  }
  throw Error("TENSOR_DISPOSED",
              "Expected a live tensor, received one that was disposed: by dispose(), by `using`, or by the end of the "
              "scope in which it was made. Return it from the scope, or keep() it, to use it longer.");
}

}  // namespace

Environment::Environment(napi_env env)
    : env_(env),
      thread_(std::this_thread::get_id()),
      tag_(next_tag.fetch_add(1) % 255 + 1),
      self_(std::make_shared<Environment*>(this)) {
  slots_.reserve(1024);
}

Environment::~Environment() { self_.reset(); }

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Environment*>(data);
}

double Environment::handle_of(uint32_t slot) const noexcept {
  return static_cast<double>((tag_ << (kSlotBits + kGenerationBits)) |
                             (static_cast<uint64_t>(slots_[slot].generation) << kSlotBits) | slot);
}

Environment::Slot* Environment::find(double handle, const char** why) const noexcept {
  *why = "foreign";
  if (!(handle >= 0 && handle < 9007199254740992.0) || handle != std::floor(handle)) return nullptr;
  const auto bits = static_cast<uint64_t>(handle);
  const auto slot = static_cast<uint32_t>(bits & (kMaxSlots - 1));
  const auto generation = static_cast<uint32_t>((bits >> kSlotBits) & kMaxGeneration);
  if (bits >> (kSlotBits + kGenerationBits) != tag_ || slot >= slots_.size() || (generation & 1)) return nullptr;
  Slot& found = slots_[slot];
  if (found.generation != generation) {
    *why = "disposed";
    return nullptr;
  }
  return &found;
}

Environment::Slot& Environment::at_handle(double handle) const {
  const char* why;
  Slot* slot = find(handle, &why);
  if (!slot) throw_stale(why);
  return *slot;
}

double Environment::insert(c10::IValue value) {
  uint32_t index;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (slots_.size() >= kMaxSlots) {
      throw Error("OUT_OF_MEMORY",
                  "Expected at most 4,194,304 live tensors, received one more. Dispose of tensors, or work in scope(() "
                  "=> ...).");
    }
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  Slot& slot = slots_[index];
  slot.generation += 1;  // now even: live
  slot.value = std::move(value);
  ++live_;
  if (scopes_.empty()) {
    root(slot, true);
  } else {
    log_.push_back({index, slot.generation});
  }
  return handle_of(index);
}

const c10::IValue& Environment::get(double handle) const { return at_handle(handle).value; }

const at::Tensor& Environment::tensor(double handle) const {
  const c10::IValue& value = at_handle(handle).value;
  if (!value.isTensor()) {
    throw Error("BAD_ARGUMENT", "Expected a tensor, received a handle of a " + value.tagKind() + ".");
  }
  return value.toTensor();
}

bool Environment::alive(double handle) const noexcept {
  const char* why;
  return find(handle, &why) != nullptr;
}

void Environment::free_slot(uint32_t index) {
  Slot& slot = slots_[index];
  // Moved out first: destroying a value may run code that comes back here.
  c10::IValue value = std::move(slot.value);
  slot.value = c10::IValue();
  if (slot.reported_bytes) {
    int64_t total;
    napi_adjust_external_memory(env_, -slot.reported_bytes, &total);
    slot.reported_bytes = 0;
  }
  slot.rooted = slot.escaping = false;
  slot.generation += 1;
  --live_;
  if (slot.generation < kMaxGeneration) free_.push_back(index);
}

void Environment::dispose(double handle) {
  Slot& slot = at_handle(handle);
  free_slot(static_cast<uint32_t>(&slot - slots_.data()));
  release_pending();
}

bool Environment::dispose_quietly(double handle) {
  if (!alive(handle)) return false;
  dispose(handle);
  return true;
}

void Environment::root(Slot& slot, bool reported) {
  if (slot.rooted) return;
  slot.rooted = true;
  slot.reported_bytes = reported ? bytes_of(slot.value) : 0;
  if (slot.reported_bytes) {
    int64_t total;
    napi_adjust_external_memory(env_, slot.reported_bytes, &total);
  }
}

size_t Environment::push_scope() {
  scopes_.push_back(log_.size());
  return scopes_.size();
}

void Environment::pop_scope(size_t depth, const std::vector<double>& escaping) {
  if (depth != scopes_.size() || depth == 0) {
    throw Error("BAD_ARGUMENT", "Expected scopes to end in the order in which they began: scope " +
                                    std::to_string(scopes_.size()) + " is open, " + std::to_string(depth) +
                                    " was ended.");
  }
  // A stale handle among those that escape is skipped: the scope must end all the same, and a later use reports it.
  const char* why;
  for (double handle : escaping) {
    if (Slot* slot = find(handle, &why)) slot->escaping = true;
  }
  const size_t begin = scopes_.back();
  scopes_.pop_back();
  const bool outermost = scopes_.empty();
  size_t kept = begin;
  // Escaping entries move to the part of the log that the scope around owns.
  for (size_t i = begin; i < log_.size(); ++i) {
    const Made made = log_[i];
    Slot& slot = slots_[made.slot];
    if (slot.generation != made.generation || slot.rooted) continue;
    if (!slot.escaping) {
      free_slot(made.slot);
    } else if (outermost) {
      slot.escaping = false;
      root(slot, true);
    } else {
      slot.escaping = false;
      log_[kept++] = made;
    }
  }
  log_.resize(kept);
  for (double handle : escaping) {
    if (Slot* slot = find(handle, &why)) slot->escaping = false;
  }
  release_pending();
}

void Environment::keep(double handle, bool reported) { root(at_handle(handle), reported); }

int64_t Environment::live_bytes() const {
  std::unordered_map<const void*, int64_t> storages;
  for (const Slot& slot : slots_) {
    if ((slot.generation & 1) || !slot.value.isTensor()) continue;
    const at::Tensor& tensor = slot.value.toTensor();
    if (!tensor.defined() || !tensor.has_storage()) continue;
    storages[tensor.storage().unsafeGetStorageImpl()] = static_cast<int64_t>(tensor.storage().nbytes());
  }
  int64_t total = 0;
  for (const auto& [storage, bytes] : storages) total += bytes;
  return total;
}

void Environment::release_later(napi_ref reference) {
  std::lock_guard<std::mutex> lock(pending_mutex_);
  pending_releases_.push_back(reference);
}

void Environment::release_pending() {
  std::vector<napi_ref> references;
  {
    std::lock_guard<std::mutex> lock(pending_mutex_);
    if (pending_releases_.empty()) return;
    references.swap(pending_releases_);
  }
  for (napi_ref reference : references) napi_delete_reference(env_, reference);
}

void Environment::set_error_factory(napi_value factory) {
  if (error_factory_) napi_delete_reference(env_, error_factory_);
  napi_create_reference(env_, factory, 1, &error_factory_);
}

void Environment::store_js_exception(napi_value error) {
  if (js_exception_) napi_delete_reference(env_, js_exception_);
  js_exception_ = nullptr;
  // Primitives cannot be referenced: box them in an Error.
  napi_valuetype type;
  napi_typeof(env_, error, &type);
  if (type != napi_object && type != napi_function) {
    napi_value text, boxed;
    napi_coerce_to_string(env_, error, &text);
    napi_create_error(env_, nullptr, text, &boxed);
    error = boxed;
  }
  napi_create_reference(env_, error, 1, &js_exception_);
}

napi_value Environment::current_exception_to_js() {
  const char* code = "OP_FAILED";
  std::string message;
  try {
    throw;
  } catch (const Error& error) {
    code = error.code();
    message = error.what();
  } catch (const JsException&) {
    napi_value stored = nullptr;
    if (js_exception_) {
      napi_get_reference_value(env_, js_exception_, &stored);
      napi_delete_reference(env_, js_exception_);
      js_exception_ = nullptr;
    }
    if (stored) return stored;
    message = "A JavaScript callback threw, and its error was lost.";
  } catch (const c10::OutOfMemoryError& error) {
    code = "OUT_OF_MEMORY";
    message = error.what_without_backtrace();
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  } catch (const std::bad_alloc&) {
    code = "OUT_OF_MEMORY";
    message = "The operation asked for more memory than there is.";
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    message = "libtorch threw something that is not a std::exception.";
  }
  napi_value result = nullptr, factory = nullptr, arguments[2];
  napi_create_string_utf8(env_, code, NAPI_AUTO_LENGTH, &arguments[0]);
  napi_create_string_utf8(env_, message.data(), message.size(), &arguments[1]);
  if (error_factory_) {
    napi_get_reference_value(env_, error_factory_, &factory);
    napi_value global;
    napi_get_global(env_, &global);
    if (napi_call_function(env_, global, factory, 2, arguments, &result) == napi_ok) return result;
    napi_get_and_clear_last_exception(env_, &result);
    return result;
  }
  napi_create_error(env_, arguments[0], arguments[1], &result);
  return result;
}

double handle_argument(const Napi::CallbackInfo& info, size_t index) {
  Napi::Value value = info[index];
  if (!value.IsNumber()) throw Error("TENSOR_FOREIGN", "Expected a tensor, received something else.");
  return value.As<Napi::Number>().DoubleValue();
}

std::vector<double> handles_argument(const Napi::CallbackInfo& info, size_t index) {
  Napi::Value value = info[index];
  if (!value.IsArray()) throw Error("BAD_ARGUMENT", "Expected an array of tensors, received something else.");
  auto array = value.As<Napi::Array>();
  std::vector<double> handles(array.Length());
  for (uint32_t i = 0; i < handles.size(); ++i) {
    Napi::Value element = array.Get(i);
    if (!element.IsNumber())
      throw Error("TENSOR_FOREIGN", "Expected a tensor at index " + std::to_string(i) + ", received something else.");
    handles[i] = element.As<Napi::Number>().DoubleValue();
  }
  return handles;
}

}  // namespace shardloop
