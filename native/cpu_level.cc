// The instruction sets of cpu_level.h, and the ops by which tests choose among them.
#include "cpu_level.h"

#include <torch/library.h>

#include <atomic>
#include <string>
#include <vector>

#include "error.h"

namespace shardloop {
namespace {

const std::vector<std::string> kNames{"plain", "avx2", "avx512"};

CpuLevel best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return wide ? CpuLevel::avx512 : CpuLevel::avx2;
  }
#endif
  return CpuLevel::plain;
}

std::atomic<CpuLevel>& chosen() {
  static std::atomic<CpuLevel> level{best()};
  return level;
}

// The names of the kernels that this processor can run, the best last.
std::vector<std::string> cpu_kernels() { return {kNames.begin(), kNames.begin() + static_cast<int>(best()) + 1}; }

// Takes other kernels than the best. Answers what was used before.
std::string use_cpu_kernels(const std::string& name) {
  for (int level = 0; level <= static_cast<int>(best()); ++level) {
    if (name == kNames[level]) return kNames[static_cast<int>(chosen().exchange(static_cast<CpuLevel>(level)))];
  }
  throw Error("BAD_ARGUMENT", "use_cpu_kernels: expected one of cpu_kernels(), received " + name + ".");
}

bool widening_pays() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return !__builtin_cpu_supports("amx-bf16") && !(__builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bf16"));
#else
  return false;
#endif
}

std::atomic<bool>& widens() {
  static std::atomic<bool> value{widening_pays()};
  return value;
}

// For tests, which hold both ways together. Answers what was used before.
bool use_widened_products(bool value) { return widens().exchange(value); }

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("cpu_kernels() -> str[]", &cpu_kernels);
  m.def("use_cpu_kernels(str name) -> str", &use_cpu_kernels);
  m.def("use_widened_products(bool value) -> bool", &use_widened_products);
}

}  // namespace

bool widens_products() { return widens().load(std::memory_order_relaxed); }

CpuLevel cpu_level() { return chosen().load(std::memory_order_relaxed); }

}  // namespace shardloop
