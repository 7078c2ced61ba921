// What convert.h declares of reading JavaScript values, and of compiling schema types. Writing them is
// convert_to_js.cc.
#include <ATen/Generator.h>
#include <ATen/core/List.h>
#include <ATen/core/jit_type.h>
#include <c10/core/Device.h>

#include <cmath>

#include "convert.h"
#include "environment.h"
#include "names.h"

namespace shardloop {
namespace {

[[noreturn]] void mismatch(napi_env env, napi_value value, const Conversion& conversion, const Where& where,
                           const char* hint = "") {
  const bool tensor = conversion.kind == Conversion::Kind::Tensor;
  napi_valuetype type;
  napi_typeof(env, value, &type);
  // An object where a tensor belongs is a foreign object (a tensor that crossed threads, one of another copy of the
  // package).
  throw Error(tensor && type == napi_object ? "TENSOR_FOREIGN" : "BAD_ARGUMENT",
              where.op + ": argument '" + where.argument + "' expects " + conversion.name + ", received " +
                  describe(env, value) + "." + hint);
}

int64_t read_int(napi_env env, napi_value value, const Conversion& conversion, const Where& where) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  if (type == napi_number) {
    double number;
    napi_get_value_double(env, value, &number);
    if (number == std::floor(number) && std::fabs(number) <= kMaxSafe) return static_cast<int64_t>(number);
    mismatch(env, value, conversion, where, " Pass an integer; beyond 2^53 a bigint.");
  }
  if (type == napi_bigint) {
    int64_t number;
    bool lossless = false;
    napi_get_value_bigint_int64(env, value, &number, &lossless);
    if (lossless) return number;
    mismatch(env, value, conversion, where, " It does not fit in 64 bits.");
  }
  mismatch(env, value, conversion, where);
}

double read_double(napi_env env, napi_value value, const Conversion& conversion, const Where& where) {
  double number;
  if (napi_get_value_double(env, value, &number) == napi_ok) return number;
  mismatch(env, value, conversion, where);
}

bool read_bool(napi_env env, napi_value value, const Conversion& conversion, const Where& where) {
  bool flag;
  if (napi_get_value_bool(env, value, &flag) == napi_ok) return flag;
  mismatch(env, value, conversion, where);
}

bool number_property(napi_env env, napi_value object, const char* key, double* out) {
  bool has = false;
  napi_value property;
  return napi_has_named_property(env, object, key, &has) == napi_ok && has &&
         napi_get_named_property(env, object, key, &property) == napi_ok &&
         napi_get_value_double(env, property, out) == napi_ok;
}

at::Scalar read_scalar(napi_env env, napi_value value, const Conversion& conversion, const Where& where) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  switch (type) {
    case napi_number: {
      double number;
      napi_get_value_double(env, value, &number);
      // -0 is a float: as an integer it would lose its sign.
      if (number == std::floor(number) && std::fabs(number) <= kMaxSafe && !(number == 0 && std::signbit(number))) {
        return static_cast<int64_t>(number);
      }
      return number;
    }
    case napi_bigint: return read_int(env, value, conversion, where);
    case napi_boolean: return read_bool(env, value, conversion, where);
    case napi_object: {
      double a, b;
      if (number_property(env, value, "float", &a)) return a;
      if (number_property(env, value, "re", &a) && number_property(env, value, "im", &b))
        return c10::complex<double>(a, b);
      mismatch(env, value, conversion, where, " Pass a number, a bigint, a boolean, {float: x} or {re, im}.");
    }
    default: mismatch(env, value, conversion, where);
  }
}

std::string read_string_argument(napi_env env, napi_value value, const Conversion& conversion, const Where& where) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  if (type != napi_string) mismatch(env, value, conversion, where);
  return read_string(env, value);
}

c10::Device parse_device(const std::string& text) {
  try {
    return c10::Device(text);
  } catch (const c10::Error&) {
    throw Error("BAD_ARGUMENT",
                "Expected a device such as 'cpu', 'cuda', 'cuda:1' or 'meta', received \"" + text + "\".");
  }
}

c10::IValue any_from_js(napi_env env, Environment& environment, napi_value value, const Conversion& conversion,
                        const Where& where) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  switch (type) {
    case napi_null:
    case napi_undefined: return {};
    case napi_string: return read_string(env, value);
    default: return read_scalar(env, value, conversion, where);
  }
}

template <class T, class Read>
c10::IValue typed_list(napi_env env, const std::vector<napi_value>& values, Read read) {
  c10::List<T> list;
  list.reserve(values.size());
  for (napi_value value : values) list.push_back(read(value));
  return list;
}

c10::IValue list_from_js(napi_env env, Environment& environment, napi_value value, const Conversion& conversion,
                         const Where& where) {
  using Kind = Conversion::Kind;
  bool is_array = false;
  napi_is_array(env, value, &is_array);
  std::vector<napi_value> values;
  if (is_array) {
    uint32_t length = 0;
    napi_get_array_length(env, value, &length);
    values.resize(length);
    for (uint32_t i = 0; i < length; ++i) {
      // A getter in a hostile array may throw; an element that cannot be read is an error, not a null pointer.
      if (napi_get_element(env, value, i, &values[i]) != napi_ok) {
        napi_value exception;
        napi_get_and_clear_last_exception(env, &exception);
        mismatch(env, value, conversion, where, " Its elements cannot be read.");
      }
    }
  } else {
    napi_valuetype type;
    napi_typeof(env, value, &type);
    const bool single =
        conversion.fixed_size > 0 && (type == napi_number || type == napi_bigint || type == napi_boolean);
    if (!single) mismatch(env, value, conversion, where);
    values.assign(conversion.fixed_size, value);
  }
  const Conversion& element = *conversion.element;
  switch (element.kind) {
    case Kind::Tensor: {
      c10::List<at::Tensor> list;
      list.reserve(values.size());
      for (napi_value v : values) list.push_back(from_js(env, environment, v, element, where).toTensor());
      return list;
    }
    case Kind::Int:
      return typed_list<int64_t>(env, values, [&](napi_value v) { return read_int(env, v, element, where); });
    case Kind::Float:
      return typed_list<double>(env, values, [&](napi_value v) { return read_double(env, v, element, where); });
    case Kind::Bool:
      return typed_list<bool>(env, values, [&](napi_value v) { return read_bool(env, v, element, where); });
    case Kind::String:
      return typed_list<std::string>(env, values,
                                     [&](napi_value v) { return read_string_argument(env, v, element, where); });
    default: {
      c10::impl::GenericList list(element.type);
      list.reserve(values.size());
      for (napi_value v : values) list.push_back(from_js(env, environment, v, element, where));
      return list;
    }
  }
}

}  // namespace

std::string read_string(napi_env env, napi_value value) {
  size_t length = 0;
  napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  std::string text(length, '\0');
  napi_get_value_string_utf8(env, value, text.data(), length + 1, &length);
  return text;
}

std::string describe(napi_env env, napi_value value) {
  napi_valuetype type;
  napi_typeof(env, value, &type);
  switch (type) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_symbol: return "a symbol";
    case napi_function: return "a function";
    case napi_external: return "an external value";
    case napi_object: {
      bool is_array = false;
      napi_is_array(env, value, &is_array);
      return is_array ? "an array" : "an object";
    }
    default: {
      napi_value text;
      if (napi_coerce_to_string(env, value, &text) != napi_ok) return "a value that cannot be printed";
      std::string content = read_string(env, text);
      if (content.size() > 60) content = content.substr(0, 57) + "...";
      const char* kind = type == napi_boolean  ? "boolean "
                         : type == napi_number ? "number "
                         : type == napi_bigint ? "bigint "
                                               : "string ";
      return kind + (type == napi_string ? "\"" + content + "\"" : content);
    }
  }
}

std::unique_ptr<Conversion> compile(const c10::TypePtr& type, int fixed_size) {
  using Kind = Conversion::Kind;
  auto conversion = std::make_unique<Conversion>();
  conversion->type = type;
  conversion->name = type->str();
  conversion->fixed_size = fixed_size;
  switch (type->kind()) {
    case c10::TypeKind::TensorType: conversion->kind = Kind::Tensor; break;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      conversion->kind = Kind::Int;
      conversion->type = c10::IntType::get();
      break;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType: conversion->kind = Kind::Float; break;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType: conversion->kind = Kind::Bool; break;
    case c10::TypeKind::NumberType: conversion->kind = Kind::Scalar; break;
    case c10::TypeKind::StringType: conversion->kind = Kind::String; break;
    case c10::TypeKind::ScalarTypeType:
      conversion->kind = Kind::DType;
      conversion->type = c10::IntType::get();
      break;
    case c10::TypeKind::LayoutType:
      conversion->kind = Kind::Layout;
      conversion->type = c10::IntType::get();
      break;
    case c10::TypeKind::MemoryFormatType:
      conversion->kind = Kind::MemoryFormat;
      conversion->type = c10::IntType::get();
      break;
    case c10::TypeKind::DeviceObjType: conversion->kind = Kind::Device; break;
    case c10::TypeKind::GeneratorType: conversion->kind = Kind::Generator; break;
    case c10::TypeKind::StorageType: conversion->kind = Kind::Opaque; break;
    case c10::TypeKind::AnyType: conversion->kind = Kind::Any; break;
    case c10::TypeKind::OptionalType:
      conversion->kind = Kind::Optional;
      conversion->element = compile(type->castRaw<c10::OptionalType>()->getElementType(), fixed_size);
      break;
    case c10::TypeKind::ListType:
      conversion->kind = Kind::List;
      conversion->element = compile(type->castRaw<c10::ListType>()->getElementType());
      break;
    case c10::TypeKind::TupleType: conversion->kind = Kind::Tuple; break;
    case c10::TypeKind::DictType: conversion->kind = Kind::Dict; break;
    default: conversion->kind = Kind::Refused;
  }
  return conversion;
}

std::string refused_type(const Conversion& conversion) {
  if (conversion.kind == Conversion::Kind::Refused) return conversion.name;
  return conversion.element ? refused_type(*conversion.element) : "";
}

c10::IValue from_js(napi_env env, Environment& environment, napi_value value, const Conversion& conversion,
                    const Where& where) {
  using Kind = Conversion::Kind;
  switch (conversion.kind) {
    case Kind::Tensor: {
      double handle;
      if (napi_get_value_double(env, value, &handle) != napi_ok) {
        mismatch(env, value, conversion, where, " Pass a Tensor of this thread.");
      }
      return environment.tensor(handle);
    }
    case Kind::Generator:
    case Kind::Opaque: {
      double handle;
      if (napi_get_value_double(env, value, &handle) != napi_ok) mismatch(env, value, conversion, where);
      const c10::IValue& held = environment.get(handle);
      if (conversion.kind == Kind::Generator ? !held.isGenerator() : !held.isStorage()) {
        throw Error("BAD_ARGUMENT", where.op + ": argument '" + where.argument + "' expects " + conversion.name +
                                        ", received a handle of a " + held.tagKind() + ".");
      }
      return held;
    }
    case Kind::Int: return read_int(env, value, conversion, where);
    case Kind::Float: return read_double(env, value, conversion, where);
    case Kind::Scalar: return read_scalar(env, value, conversion, where);
    case Kind::Bool: return read_bool(env, value, conversion, where);
    case Kind::String: return read_string_argument(env, value, conversion, where);
    case Kind::DType: return static_cast<int64_t>(parse_dtype(read_string_argument(env, value, conversion, where)));
    case Kind::Layout: return parse_layout(read_string_argument(env, value, conversion, where));
    case Kind::MemoryFormat: return parse_memory_format(read_string_argument(env, value, conversion, where));
    case Kind::Device: return parse_device(read_string_argument(env, value, conversion, where));
    case Kind::Optional: {
      napi_valuetype type;
      napi_typeof(env, value, &type);
      if (type == napi_null || type == napi_undefined) return {};
      return from_js(env, environment, value, *conversion.element, where);
    }
    case Kind::List: return list_from_js(env, environment, value, conversion, where);
    case Kind::Any: return any_from_js(env, environment, value, conversion, where);
    default: break;
  }
  throw Error("OP_REFUSED", where.op + ": arguments of type " + conversion.name + " cannot be passed from JavaScript.");
}

}  // namespace shardloop
