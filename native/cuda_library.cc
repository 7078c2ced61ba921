// Loads the CUDA part where it can be used. Without the file or the driver the addon is a CPU addon, and says why there
// is no CUDA when asked (shardloop::cuda_library_problem); a part that is there and does not load is such an answer
// too.
#include "cuda_library.h"

#include <dlfcn.h>
#include <torch/library.h>

#include <filesystem>
#include <mutex>
#include <string>

namespace shardloop {
namespace {

// Written once under load_cuda_library's call_once, before any operator can be called.
std::string& problem() {
  static std::string* text = new std::string("the CUDA part was not looked for");
  return *text;
}

std::string load() {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&load_cuda_library), &self) == 0) return "the addon does not know its own place";
  const auto path = std::filesystem::path(self.dli_fname).parent_path() / "libshardloop_cuda.so";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return "the addon was built without its CUDA part, " + path.string();
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_GLOBAL) == nullptr) return "this host has no CUDA driver";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return dlerror();
  const auto table = reinterpret_cast<const CudaTable* (*)()>(dlsym(library, "shardloop_cuda_table"));
  if (table == nullptr) return path.string() + " is of another version";
  register_backend("nccl", table()->nccl);
  return "";
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("cuda_library_problem() -> str", []() { return problem(); });
}

}  // namespace

void load_cuda_library() {
  static std::once_flag once;
  std::call_once(once, [] { problem() = load(); });
}

}  // namespace shardloop
