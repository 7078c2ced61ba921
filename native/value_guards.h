// Guards (guards.h) on the values in tensors: indices that a kernel follows without looking, and the one integer
// division that the processor refuses.
#pragma once
#include "guards.h"

namespace shardloop {

// Adds the guards of the operator that look at values: none for nearly all.
void add_value_guards(const c10::FunctionSchema& schema, std::vector<Guard>* guards);

}  // namespace shardloop
