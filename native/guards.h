// Checks before the calls of operators whose kernels trust their caller: they read or write out of bounds on arguments
// that do not fit together. Useful operators are guarded here; the others are refused by name (refused_ops.h).
#pragma once
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace shardloop {

// Throws BAD_ARGUMENT. `stack` holds the arguments by the schema's positions.
using Guard = void (*)(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& stack);

// The error of a guard: BAD_ARGUMENT with the operator's name before the text.
[[noreturn]] void refuse_arguments(const c10::FunctionSchema& schema, const std::string& text);

// The guards of an operator: none for nearly all.
std::vector<Guard> guards_of(const c10::FunctionSchema& schema);

// Throws BAD_ARGUMENT when a tensor has a negative size: libtorch looks for one only where no other size is 0.
void check_result(const c10::FunctionSchema& schema, const c10::IValue& result);

}  // namespace shardloop
