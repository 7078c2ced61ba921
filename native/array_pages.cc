// The pages behind a typed array's memory: large ones where the system has them, and where the first begins. Fresh
// memory costs a fault for each page when it is touched, three quarters of the time of a copy into it; and what is
// written past the page cache must begin at a page.
#include "array_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>

namespace shardloop {

// Asks for large pages (once the array is touched they come or not), and answers how many bytes lie before the first
// multiple of `size`, a power of two that the caller names.
Napi::Value array_pages(const Napi::CallbackInfo& info, Environment&) {
  void* data;
  size_t length;
  napi_typedarray_type type;
  if (!info[0].IsTypedArray() || !info[1].IsNumber() ||
      napi_get_typedarray_info(info.Env(), info[0], &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array)
    throw Error("BAD_ARGUMENT", "Expected a Uint8Array and the size of a page.");
  const auto page = static_cast<uintptr_t>(info[1].As<Napi::Number>().Int64Value());
  if (page == 0 || (page & (page - 1)) != 0) throw Error("BAD_ARGUMENT", "Expected a power of two as size of a page.");
  const auto begin = reinterpret_cast<uintptr_t>(data);
#ifdef MADV_HUGEPAGE
  // Only what lies whole in it: the pages beside belong to others.
  constexpr uintptr_t kLarge = uintptr_t{2} << 20;
  const uintptr_t first = (begin + kLarge - 1) & ~(kLarge - 1), last = (begin + length) & ~(kLarge - 1);
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return Napi::Number::New(info.Env(), static_cast<double>(((begin + page - 1) & ~(page - 1)) - begin));
}

}  // namespace shardloop
