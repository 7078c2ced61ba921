// A node of the autograd graph whose backward is a JavaScript function.
#pragma once
#include <napi.h>

#include "environment.h"

namespace shardloop {

// attachBackward(inputs, outputs, callback): handles of the outputs, joined to the graph of the inputs by a node that
// calls `callback(gradients)` with one handle or null for each output and takes one handle or null for each input.
Napi::Value attach_backward(const Napi::CallbackInfo& info, Environment& environment);

}  // namespace shardloop
