#include "dispatch.h"

#include <torch/version.h>

#include <algorithm>
#include <utility>

#include "refused_ops.h"
#include "rollback.h"
#include "storage.h"

namespace shardloop {
namespace {

constexpr size_t kInlineArguments = 16;

std::unique_ptr<CompiledOp> compile_op(const c10::OperatorHandle& handle, const std::string& name) {
  auto op = std::make_unique<CompiledOp>(handle);
  op->name = name;
  const c10::FunctionSchema& schema = handle.schema();
  const auto refuse = [&](const std::string& type) {
    if (!type.empty())
      throw Error("OP_REFUSED",
                  name + " is refused: its schema uses " + type + ", which cannot be passed from JavaScript.");
  };
  if (schema.is_vararg() || schema.is_varret()) refuse("any number of arguments or results");
  for (const c10::Argument& argument : schema.arguments()) {
    CompiledArgument compiled;
    compiled.name = argument.name();
    compiled.conversion = compile(argument.real_type(), argument.N().value_or(0));
    const std::string refused = refused_type(*compiled.conversion);
    const bool can_omit = argument.default_value().has_value();
    if (!can_omit) refuse(refused);
    compiled.has_default = can_omit;
    if (can_omit) compiled.default_value = *argument.default_value();
    op->arguments.push_back(std::move(compiled));
  }
  for (const c10::Argument& result : schema.returns()) {
    CompiledReturn compiled;
    compiled.conversion = compile(result.real_type());
    refuse(refused_type(*compiled.conversion));
    if (const auto* alias = result.alias_info(); alias && alias->isWrite()) {
      for (size_t i = 0; i < schema.arguments().size(); ++i) {
        const auto* written = schema.arguments()[i].alias_info();
        if (written && written->isWrite() && written->beforeSets() == alias->beforeSets())
          compiled.same_as_argument = static_cast<int>(i);
      }
    }
    op->returns.push_back(std::move(compiled));
  }
  op->guards = guards_of(schema);
  op->may_resize = may_resize(schema);
  op->touches_memory = touches_memory(schema);
  return op;
}

// Puts a stack back into the environment when the call ends, however it ends.
class StackLease {
 public:
  explicit StackLease(Environment& environment) : environment_(environment), stack(std::move(environment.spare_stack)) {
    stack.clear();
  }
  ~StackLease() {
    stack.clear();
    environment_.spare_stack = std::move(stack);
  }

 private:
  Environment& environment_;

 public:
  std::vector<c10::IValue> stack;
};

napi_value call_op(napi_env env, Environment& environment, const CompiledOp& op, napi_value* values, size_t count) {
  if (count > op.arguments.size()) {
    throw Error("BAD_ARGUMENT", op.name + " expects at most " + std::to_string(op.arguments.size()) +
                                    " arguments, received " + std::to_string(count) + ".");
  }
  StackLease lease(environment);
  auto& stack = lease.stack;
  for (size_t i = 0; i < op.arguments.size(); ++i) {
    const CompiledArgument& argument = op.arguments[i];
    if (argument.has_default) {
      napi_valuetype type = napi_undefined;
      if (i < count) napi_typeof(env, values[i], &type);
      if (type == napi_undefined) {
        stack.push_back(argument.default_value);
        continue;
      }
    } else if (i >= count && argument.conversion->kind != Conversion::Kind::Optional) {
      throw Error("BAD_ARGUMENT", op.name + ": argument '" + argument.name + "' (" + argument.conversion->name +
                                      ") is required, received nothing.");
    } else if (i >= count) {
      stack.emplace_back();
      continue;
    }
    stack.push_back(from_js(env, environment, values[i], *argument.conversion, {op.name, argument.name}));
  }

  if (op.touches_memory) check_storages(op.handle.schema(), stack);  // before the guards, some of which read values
  for (Guard guard : op.guards) guard(op.handle.schema(), stack);
  if (op.may_resize) {
    call_with_rollback(op.handle, stack);
  } else {
    op.handle.callBoxed(stack);
    for (const c10::IValue& value : stack) check_result(op.handle.schema(), value);
  }

  const auto result = [&](size_t i) -> napi_value {
    const CompiledReturn& compiled = op.returns[i];
    // The argument's value is still at hand: an in-place result is the same tensor, so the same handle.
    if (compiled.same_as_argument >= 0 && static_cast<size_t>(compiled.same_as_argument) < count)
      return values[compiled.same_as_argument];
    return to_js(env, environment, std::move(stack[i]), *compiled.conversion);
  };
  if (op.returns.size() == 1) return result(0);
  napi_value array;
  if (op.returns.empty()) {
    napi_get_undefined(env, &array);
    return array;
  }
  napi_create_array_with_length(env, op.returns.size(), &array);
  for (size_t i = 0; i < op.returns.size(); ++i) napi_set_element(env, array, i, result(i));
  return array;
}

}  // namespace

napi_value call(napi_env env, napi_callback_info info) {
  size_t count = kInlineArguments;
  napi_value inline_values[kInlineArguments];
  napi_get_cb_info(env, info, &count, inline_values, nullptr, nullptr);
  Environment& environment = Environment::of(env);
  try {
    std::vector<napi_value> many;
    napi_value* values = inline_values;
    if (count > kInlineArguments) {
      many.resize(count);
      napi_get_cb_info(env, info, &count, many.data(), nullptr, nullptr);
      values = many.data();
    }
    uint32_t id = 0;
    double number = -1;
    if (count == 0 || napi_get_value_double(env, values[0], &number) != napi_ok || !(number >= 0) ||
        number >= static_cast<double>(environment.ops.size())) {
      throw Error("UNKNOWN_OP", "Expected an op id that resolve() returned.");
    }
    id = static_cast<uint32_t>(number);
    return call_op(env, environment, *environment.ops[id], values + 1, count - 1);
  } catch (...) {
    napi_throw(env, environment.current_exception_to_js());
    return nullptr;
  }
}

Napi::Value resolve(const Napi::CallbackInfo& info, Environment& environment) {
  if (!info[0].IsString() || !info[1].IsString())
    throw Error("UNKNOWN_OP", "Expected the name and the overload of an op as strings.");
  const std::string name = info[0].As<Napi::String>(), overload = info[1].As<Napi::String>();
  const std::string full = overload.empty() ? name : name + "." + overload;
  for (const RefusedOp& refused : kRefusedOps) {
    if (refused.name == name || refused.name == full)
      throw Error("OP_REFUSED", full + " is refused: " + refused.reason + ".");
  }
  const auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!found)
    throw Error("UNKNOWN_OP", "Expected an op of this libtorch (" + std::string(TORCH_VERSION) + "), received \"" +
                                  full + "\", which it does not have.");
  environment.ops.push_back(compile_op(*found, full));
  return Napi::Number::New(info.Env(), static_cast<double>(environment.ops.size() - 1));
}

Napi::Value schemas(const Napi::CallbackInfo& info, Environment& environment) {
  std::vector<std::string> texts;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (const auto found = c10::Dispatcher::singleton().findSchema(name))
      texts.push_back(c10::toString(found->schema()));
  }
  std::sort(texts.begin(), texts.end());
  auto array = Napi::Array::New(info.Env(), texts.size());
  for (uint32_t i = 0; i < texts.size(); ++i) array.Set(i, texts[i]);
  return array;
}

}  // namespace shardloop
