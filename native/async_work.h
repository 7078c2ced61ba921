// The bridge from works in flight (works.h) to promises: exports workPromise(id) on the addon.
#pragma once
#include <node_api.h>

namespace shardloop {

// Adds `workPromise(id: number): Promise<string>` to the addon's exports; the string is the error text, empty on
// success.
void register_async_work(napi_env env, napi_value exports);

}  // namespace shardloop
