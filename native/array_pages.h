// The pages behind a typed array's memory.
#pragma once
#include <napi.h>

#include "environment.h"

namespace shardloop {

Napi::Value array_pages(const Napi::CallbackInfo& info, Environment& environment);

}  // namespace shardloop
