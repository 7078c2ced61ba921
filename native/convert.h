// JavaScript value <-> c10::IValue, driven by the type in an operator's schema. Plain N-API calls: this is the hot path
// (bench/dispatch).
//
//   schema type                   from JavaScript                              to JavaScript
//   Tensor, Generator, Storage    handle (number)                              handle; undefined tensor -> null
//   int, SymInt                   integral number, bigint                      number; bigint beyond 2^53
//   float                         number                                       number
//   Scalar                        number (integral -> int), bigint, boolean,   number | bigint | boolean | {re, im}
//                                 {float: x}, {re, im}
//   bool, str                     boolean, string                              boolean, string
//   ScalarType, Layout,           string: 'float32', 'strided',                string
//   MemoryFormat, Device          'channels_last', 'cuda:0'
//   T?                            null or T                                    null or T
//   T[], T[N]                     array; T[N] also a single T                  array
//   Any                           what the value looks like                    by the value
#pragma once
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <node_api.h>

#include <memory>
#include <string>

namespace shardloop {

class Environment;

// 2^53 - 1: up to here a JavaScript number is an exact integer.
inline constexpr double kMaxSafe = 9007199254740991.0;

// A schema type, compiled once per op so that a call only switches on it.
struct Conversion {
  enum class Kind : uint8_t {
    Tensor,
    Int,
    Float,
    Scalar,
    Bool,
    String,
    DType,
    Layout,
    MemoryFormat,
    Device,
    Generator,
    Opaque,
    Optional,
    List,
    Dict,
    Tuple,
    Any,
    Refused
  };
  Kind kind = Kind::Refused;
  int fixed_size = 0;                   // T[N]: a single T is accepted
  std::unique_ptr<Conversion> element;  // of Optional and List
  c10::TypePtr type;                    // as the boxed kernel wants it
  std::string name;                     // as the schema prints it
};

// Where a value stands, for messages.
struct Where {
  const std::string& op;
  const std::string& argument;
};

std::unique_ptr<Conversion> compile(const c10::TypePtr& type, int fixed_size = 0);
// The refused type's name inside this conversion, or empty.
std::string refused_type(const Conversion& conversion);

c10::IValue from_js(napi_env env, Environment& environment, napi_value value, const Conversion& conversion,
                    const Where& where);
napi_value to_js(napi_env env, Environment& environment, c10::IValue&& value, const Conversion& conversion);

std::string read_string(napi_env env, napi_value value);
// "number 3.5", "string \"abc\"", "undefined": what came, for messages.
std::string describe(napi_env env, napi_value value);

}  // namespace shardloop
