// What convert.h declares of writing JavaScript values: results of operators. Reading them is convert_from_js.cc.
#include <ATen/core/List.h>
#include <ATen/core/jit_type.h>

#include <cmath>

#include "convert.h"
#include "environment.h"
#include "names.h"

namespace shardloop {
namespace {

napi_value js_number(napi_env env, double number) {
  napi_value result;
  napi_create_double(env, number, &result);
  return result;
}

napi_value js_int(napi_env env, int64_t number) {
  napi_value result;
  if (std::fabs(static_cast<double>(number)) <= kMaxSafe) {
    napi_create_double(env, static_cast<double>(number), &result);
  } else {
    napi_create_bigint_int64(env, number, &result);
  }
  return result;
}

napi_value js_string(napi_env env, const std::string& text) {
  napi_value result;
  napi_create_string_utf8(env, text.data(), text.size(), &result);
  return result;
}

napi_value js_null(napi_env env) {
  napi_value result;
  napi_get_null(env, &result);
  return result;
}

napi_value value_to_js(napi_env env, Environment& environment, c10::IValue&& value) {
  napi_value result;
  if (value.isNone()) return js_null(env);
  if (value.isTensor())
    return value.toTensor().defined() ? js_number(env, environment.insert(std::move(value))) : js_null(env);
  if (value.isInt()) return js_int(env, value.toInt());
  if (value.isSymInt()) return js_int(env, value.toSymInt().guard_int(__FILE__, __LINE__));
  if (value.isDouble()) return js_number(env, value.toDouble());
  if (value.isSymFloat()) return js_number(env, value.toSymFloat().guard_float(__FILE__, __LINE__));
  if (value.isBool()) {
    napi_get_boolean(env, value.toBool(), &result);
    return result;
  }
  if (value.isString()) return js_string(env, value.toStringRef());
  if (value.isDevice()) return js_string(env, value.toDevice().str());
  if (value.isComplexDouble()) {
    const auto number = value.toComplexDouble();
    napi_create_object(env, &result);
    napi_set_named_property(env, result, "re", js_number(env, number.real()));
    napi_set_named_property(env, result, "im", js_number(env, number.imag()));
    return result;
  }
  if (value.isList()) {
    const auto list = value.toListRef();
    napi_create_array_with_length(env, list.size(), &result);
    for (size_t i = 0; i < list.size(); ++i) {
      napi_set_element(env, result, i, value_to_js(env, environment, c10::IValue(list[i])));
    }
    return result;
  }
  if (value.isTuple()) {
    const auto& elements = value.toTupleRef().elements();
    napi_create_array_with_length(env, elements.size(), &result);
    for (size_t i = 0; i < elements.size(); ++i) {
      napi_set_element(env, result, i, value_to_js(env, environment, c10::IValue(elements[i])));
    }
    return result;
  }
  if (value.isGenericDict()) {
    napi_create_array(env, &result);
    uint32_t i = 0;
    for (const auto& entry : value.toGenericDict()) {
      napi_value pair;
      napi_create_array_with_length(env, 2, &pair);
      napi_set_element(env, pair, 0, value_to_js(env, environment, c10::IValue(entry.key())));
      napi_set_element(env, pair, 1, value_to_js(env, environment, c10::IValue(entry.value())));
      napi_set_element(env, result, i++, pair);
    }
    return result;
  }
  return js_number(env, environment.insert(std::move(value)));  // generators, storages: opaque handles
}

}  // namespace

napi_value to_js(napi_env env, Environment& environment, c10::IValue&& value, const Conversion& conversion) {
  using Kind = Conversion::Kind;
  switch (conversion.kind) {
    case Kind::DType: return js_string(env, dtype_name(static_cast<at::ScalarType>(value.toInt())));
    case Kind::Layout: return js_string(env, layout_name(value.toInt()));
    case Kind::MemoryFormat: return js_string(env, memory_format_name(value.toInt()));
    case Kind::Optional:
      if (!value.isNone()) return to_js(env, environment, std::move(value), *conversion.element);
      return js_null(env);
    default: return value_to_js(env, environment, std::move(value));
  }
}

}  // namespace shardloop
