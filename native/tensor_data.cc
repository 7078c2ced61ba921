#include "tensor_data.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <cstring>
#include <optional>

#include "convert.h"
#include "names.h"
#include "storage.h"

namespace shardloop {
namespace {

at::ScalarType dtype_of_array(napi_typedarray_type type) {
  switch (type) {
    case napi_int8_array: return at::kChar;
    case napi_uint8_array:
    case napi_uint8_clamped_array: return at::kByte;
    case napi_int16_array: return at::kShort;
    case napi_uint16_array: return at::kUInt16;
    case napi_int32_array: return at::kInt;
    case napi_uint32_array: return at::kUInt32;
    case napi_float32_array: return at::kFloat;
    case napi_float64_array: return at::kDouble;
    case napi_bigint64_array: return at::kLong;
    case napi_biguint64_array: return at::kUInt64;
    default: throw Error("BAD_ARGUMENT", "Expected a typed array of numbers, received one of an unknown type.");
  }
}

// How a dtype leaves: the typed array's type, the dtype that it is read as, and elements per tensor element.
struct Outgoing {
  napi_typedarray_type array;
  at::ScalarType as;
  int64_t per_element = 1;
};

Outgoing outgoing(at::ScalarType dtype, bool bits) {
  switch (dtype) {
    case at::kFloat: return {napi_float32_array, dtype};
    case at::kDouble: return {napi_float64_array, dtype};
    case at::kHalf:
    case at::kBFloat16: return bits ? Outgoing{napi_uint16_array, dtype} : Outgoing{napi_float32_array, at::kFloat};
    case at::kFloat8_e4m3fn:
    case at::kFloat8_e5m2:
    case at::kFloat8_e4m3fnuz:
    case at::kFloat8_e5m2fnuz:
      return bits ? Outgoing{napi_uint8_array, dtype} : Outgoing{napi_float32_array, at::kFloat};
    case at::kLong: return {napi_bigint64_array, dtype};
    case at::kUInt64: return {napi_biguint64_array, dtype};
    case at::kInt: return {napi_int32_array, dtype};
    case at::kUInt32: return {napi_uint32_array, dtype};
    case at::kShort: return {napi_int16_array, dtype};
    case at::kUInt16: return {napi_uint16_array, dtype};
    case at::kChar: return {napi_int8_array, dtype};
    case at::kByte:
    case at::kBool: return {napi_uint8_array, dtype};
    case at::kComplexHalf:
    case at::kComplexFloat: return {napi_float32_array, at::kComplexFloat, 2};
    case at::kComplexDouble: return {napi_float64_array, dtype, 2};
    default:
      throw Error("BAD_ARGUMENT", std::string("Expected a dtype whose values JavaScript can hold, received ") +
                                      c10::toString(dtype) + ". Dequantize or convert the tensor first.");
  }
}

void check_storage(const at::Tensor& tensor) {
  if (fits_storage(tensor)) return;
  throw Error("BAD_ARGUMENT", "Expected a tensor whose memory is there; the storage behind this one was released.");
}

// The values, dense and in row-major order on the CPU, in the outgoing dtype.
at::Tensor dense_on_cpu(const at::Tensor& tensor, const Outgoing& out) {
  at::NoGradGuard no_grad;
  at::Tensor dense = tensor.detach();
  if (dense.layout() != at::kStrided) dense = dense.to_dense();
  if (dense._is_zerotensor()) dense = dense.clone();  // autograd's zeros, which have no memory
  check_storage(dense);
  return dense.to(at::TensorOptions().device(at::kCPU).dtype(out.as)).resolve_conj().resolve_neg().contiguous();
}

void check_readable(const at::Tensor& tensor) {
  if (tensor.is_meta()) throw Error("BAD_ARGUMENT", "Expected a tensor with data, received one on the meta device.");
}

size_t bytes_out(const at::Tensor& tensor, const Outgoing& out) {
  return static_cast<size_t>(tensor.numel()) * c10::elementSize(out.as);
}

Napi::Value typed_array(Napi::Env env, const Outgoing& out, Napi::ArrayBuffer buffer, int64_t elements) {
  napi_value array;
  const auto length = static_cast<size_t>(elements * out.per_element);
  if (napi_create_typedarray(env, out.array, length, buffer, 0, &array) != napi_ok) throw Napi::Error::New(env);
  return Napi::Value(env, array);
}

std::vector<int64_t> shape_argument(const Napi::Value& value) {
  if (!value.IsArray()) throw Error("BAD_ARGUMENT", "Expected a shape as an array of integers.");
  auto array = value.As<Napi::Array>();
  std::vector<int64_t> shape(array.Length());
  for (uint32_t i = 0; i < shape.size(); ++i) {
    Napi::Value element = array.Get(i);
    const double size = element.IsNumber() ? element.As<Napi::Number>().DoubleValue() : -1;
    if (!(size >= 0 && size <= 9007199254740991.0) || size != static_cast<double>(static_cast<int64_t>(size))) {
      throw Error("BAD_ARGUMENT", "Expected every size of a shape to be an integer of at least 0, received " +
                                      describe(value.Env(), element) + " at index " + std::to_string(i) + ".");
    }
    shape[i] = static_cast<int64_t>(size);
  }
  return shape;
}

// Reads a tensor into an ArrayBuffer on libuv's pool, so that a long copy does not hold the event loop.
class ReadWorker : public Napi::AsyncWorker {
 public:
  ReadWorker(Napi::Env env, at::Tensor tensor, Outgoing out)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        tensor_(std::move(tensor)),
        out_(out),
        bytes_(bytes_out(tensor_, out)) {
    auto buffer = Napi::ArrayBuffer::New(env, bytes_);
    target_ = buffer.Data();
    buffer_ = Napi::Persistent(buffer.As<Napi::Object>());
  }
  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      const at::Tensor dense = dense_on_cpu(tensor_, out_);
      if (bytes_) std::memcpy(target_, dense.const_data_ptr(), bytes_);
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    try {
      settle();
    } catch (const Napi::Error&) {
      // The worker is being terminated: nobody waits any more, and nothing may pass through the engine.
    }
  }

 private:
  void settle() {
    if (!failure_) {
      deferred_.Resolve(typed_array(Env(), out_, buffer_.Value().As<Napi::ArrayBuffer>(), tensor_.numel()));
      return;
    }
    try {
      std::rethrow_exception(failure_);
    } catch (...) {
      deferred_.Reject(Environment::of(Env()).current_exception_to_js());
    }
  }

  Napi::Promise::Deferred deferred_;
  at::Tensor tensor_;
  Outgoing out_;
  size_t bytes_;
  void* target_ = nullptr;
  Napi::ObjectReference buffer_;
  std::exception_ptr failure_;
};

bool bits_argument(const Napi::CallbackInfo& info) {
  return info[1].IsBoolean() && info[1].As<Napi::Boolean>().Value();
}

const at::Tensor& tensor_argument(const Napi::CallbackInfo& info, Environment& environment, size_t index = 0) {
  return environment.tensor(handle_argument(info, index));
}

Napi::Value sizes_to_js(Napi::Env env, at::IntArrayRef sizes) {
  auto array = Napi::Array::New(env, sizes.size());
  for (uint32_t i = 0; i < sizes.size(); ++i) array.Set(i, static_cast<double>(sizes[i]));
  return array;
}

}  // namespace

Napi::Value from_array(const Napi::CallbackInfo& info, Environment& environment) {
  Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || !info[1].IsString())
    throw Error("BAD_ARGUMENT", "Expected a typed array and a dtype, received " + describe(env, info[0]) + ".");
  napi_typedarray_type type;
  size_t length;
  void* data;
  napi_value buffer;
  if (napi_get_typedarray_info(env, info[0], &type, &length, &data, &buffer, nullptr) != napi_ok)
    throw Error("BAD_ARGUMENT", "Expected a typed array that can be read.");
  const at::ScalarType to = parse_dtype(info[1].As<Napi::String>().Utf8Value());
  const std::vector<int64_t> shape = shape_argument(info[2]);
  at::ScalarType from = dtype_of_array(type);
  int64_t per_element = 1;
  if (from == at::kUInt16 && (to == at::kBFloat16 || to == at::kHalf)) from = to;  // bits
  if (from == at::kByte && c10::isFloat8Type(to)) from = to;
  if (c10::isComplexType(to) && (from == at::kFloat || from == at::kDouble)) {
    from = from == at::kFloat ? at::kComplexFloat : at::kComplexDouble;
    per_element = 2;
  }
  int64_t expected = per_element;
  for (int64_t size : shape) {
    if (__builtin_mul_overflow(expected, size, &expected))
      throw Error("BAD_ARGUMENT", "The shape has more elements than 64 bits count.");
  }
  if (expected != static_cast<int64_t>(length)) {
    throw Error("BAD_ARGUMENT", "Expected " + std::to_string(expected) + " values for the shape, received " +
                                    std::to_string(length) + ".");
  }
  at::NoGradGuard no_grad;
  at::Tensor result = at::empty(shape, at::TensorOptions().dtype(from));
  if (length) std::memcpy(result.mutable_data_ptr(), data, result.nbytes());
  if (from != to) result = result.to(to);
  return Napi::Number::New(env, environment.insert(std::move(result)));
}

Napi::Value read_sync(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor& tensor = tensor_argument(info, environment);
  check_readable(tensor);
  const Outgoing out = outgoing(tensor.scalar_type(), bits_argument(info));
  const at::Tensor dense = dense_on_cpu(tensor, out);
  const size_t bytes = bytes_out(tensor, out);
  auto buffer = Napi::ArrayBuffer::New(info.Env(), bytes);
  if (bytes) std::memcpy(buffer.Data(), dense.const_data_ptr(), bytes);
  return typed_array(info.Env(), out, buffer, tensor.numel());
}

// The bytes as they are, into an array that the caller has.
Napi::Value read_into(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor& tensor = tensor_argument(info, environment);
  check_readable(tensor);
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw Error("BAD_ARGUMENT", "Expected a Uint8Array to read into.");
  auto into = info[1].As<Napi::Uint8Array>();
  const at::Tensor dense = dense_on_cpu(tensor, {napi_uint8_array, tensor.scalar_type()});
  if (dense.nbytes() > into.ByteLength()) {
    throw Error("BAD_ARGUMENT", "Expected room for " + std::to_string(dense.nbytes()) + " bytes, received " +
                                    std::to_string(into.ByteLength()) + ".");
  }
  if (dense.nbytes()) std::memcpy(into.Data(), dense.const_data_ptr(), dense.nbytes());
  return info.Env().Undefined();
}

Napi::Value read_async(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor& tensor = tensor_argument(info, environment);
  check_readable(tensor);
  auto* worker = new ReadWorker(info.Env(), tensor, outgoing(tensor.scalar_type(), bits_argument(info)));
  worker->Queue();
  return worker->promise();
}

Napi::Value view(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor& tensor = tensor_argument(info, environment);
  check_readable(tensor);
  if (!tensor.is_cpu() || !tensor.is_contiguous() || tensor.is_conj() || tensor.is_neg() || tensor._is_zerotensor()) {
    throw Error("BAD_ARGUMENT",
                "Expected a contiguous tensor on the CPU: only its memory can be seen without a copy. Use data() for "
                "the others.");
  }
  check_storage(tensor);
  const Outgoing out = outgoing(tensor.scalar_type(), /*bits=*/true);
  if (out.as != tensor.scalar_type()) {
    throw Error("BAD_ARGUMENT",
                std::string("Expected a dtype that a typed array shows as it lies in memory, received ") +
                    dtype_name(tensor.scalar_type()) + ", which is converted to " + dtype_name(out.as) +
                    ". Use data() for it.");
  }
  const auto bytes = static_cast<size_t>(tensor.nbytes());
  if (bytes == 0) return typed_array(info.Env(), out, Napi::ArrayBuffer::New(info.Env(), 0), 0);
  // The memory must not move or go while JavaScript sees it: its storage is no longer resizable, and the buffer holds
  // it.
  tensor.storage().unsafeGetStorageImpl()->set_resizable(false);
  auto* holder = new c10::Storage(tensor.storage());
  auto buffer = Napi::ArrayBuffer::New(
      info.Env(), tensor.mutable_data_ptr(), bytes, [](Napi::BasicEnv, void*, c10::Storage* held) { delete held; },
      holder);
  return typed_array(info.Env(), out, buffer, tensor.numel());
}

Napi::Value shape(const Napi::CallbackInfo& info, Environment& environment) {
  return sizes_to_js(info.Env(), tensor_argument(info, environment).sizes());
}

Napi::Value strides(const Napi::CallbackInfo& info, Environment& environment) {
  return sizes_to_js(info.Env(), tensor_argument(info, environment).strides());
}

Napi::Value dtype(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::String::New(info.Env(), dtype_name(tensor_argument(info, environment).scalar_type()));
}

Napi::Value device(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::String::New(info.Env(), tensor_argument(info, environment).device().str());
}

Napi::Value layout(const Napi::CallbackInfo& info, Environment& environment) {
  std::ostringstream text;
  text << tensor_argument(info, environment).layout();
  return Napi::String::New(info.Env(), text.str());
}

Napi::Value numel(const Napi::CallbackInfo& info, Environment& environment) {
  return Napi::Number::New(info.Env(), static_cast<double>(tensor_argument(info, environment).numel()));
}

Napi::Value storage_bytes(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor& tensor = tensor_argument(info, environment);
  return Napi::Number::New(info.Env(), tensor.has_storage() ? static_cast<double>(tensor.storage().nbytes()) : 0);
}

Napi::Value facts(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor& tensor = tensor_argument(info, environment);
  const bool is_strided = tensor.layout() == at::kStrided;
  uint32_t facts = 0;
  if (tensor.requires_grad()) facts |= kRequiresGrad;
  if (tensor.is_leaf()) facts |= kIsLeaf;
  if (is_strided) facts |= kIsStrided;
  if (is_strided && tensor.is_contiguous()) facts |= kIsContiguous;
  if (tensor.is_conj()) facts |= kIsConj;
  if (tensor.is_neg()) facts |= kIsNeg;
  if (tensor.is_cpu()) facts |= kIsCpu;
  if (tensor.is_cuda()) facts |= kIsCuda;
  facts |= static_cast<uint32_t>(tensor.scalar_type()) << kDTypeShift;
  return Napi::Number::New(info.Env(), facts);
}

Napi::Value set_requires_grad(const Napi::CallbackInfo& info, Environment& environment) {
  at::Tensor tensor = tensor_argument(info, environment);
  if (!info[1].IsBoolean())
    throw Error("BAD_ARGUMENT",
                "Expected requiresGrad to be a boolean, received " + describe(info.Env(), info[1]) + ".");
  const bool wanted = info[1].As<Napi::Boolean>().Value();
  if (!tensor.is_leaf() && !wanted) {
    throw Error("BAD_ARGUMENT",
                "Expected a leaf: requiresGrad of a computed tensor cannot be turned off. Use tensor.detach().");
  }
  tensor.requires_grad_(wanted);
  return info.Env().Undefined();
}

Napi::Value grad(const Napi::CallbackInfo& info, Environment& environment) {
  const at::Tensor gradient = tensor_argument(info, environment).grad();
  if (!gradient.defined()) return info.Env().Null();
  return Napi::Number::New(info.Env(), environment.insert(gradient));
}

Napi::Value set_grad(const Napi::CallbackInfo& info, Environment& environment) {
  at::Tensor tensor = tensor_argument(info, environment);
  if (info[1].IsNull() || info[1].IsUndefined()) {
    tensor.mutable_grad() = at::Tensor();
    return info.Env().Undefined();
  }
  const at::Tensor& gradient = tensor_argument(info, environment, 1);
  // What a backward accumulates into has the tensor's dtype; a half-precision tensor that no backward reaches (a part
  // of a shard) may have its gradient summed in float32.
  const bool is_half = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
  const bool fits = gradient.scalar_type() == tensor.scalar_type() ||
                    (gradient.scalar_type() == at::kFloat && is_half && !tensor.requires_grad());
  if (gradient.sizes() != tensor.sizes() || gradient.device() != tensor.device() || !fits) {
    throw Error("BAD_ARGUMENT", "Expected a gradient of the tensor's shape, dtype and device, received " +
                                    c10::str(gradient.scalar_type()) + " " + c10::str(gradient.sizes()) + " for " +
                                    c10::str(tensor.scalar_type()) + " " + c10::str(tensor.sizes()) + ".");
  }
  tensor.mutable_grad() = gradient;
  return info.Env().Undefined();
}

}  // namespace shardloop
