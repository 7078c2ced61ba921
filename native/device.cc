// Ops of ours for the state of the process and the thread: grad mode, autocast, threads, random state, deterministic
// mode, profiler ranges, and what this libtorch can do. Devices other than the CPU come with the CUDA library
// (native/cuda).
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/library.h>
#include <torch/version.h>

#include <memory>
#include <vector>

#include "error.h"

namespace shardloop {
namespace {

c10::DeviceType device_type(const std::string& name) {
  try {
    return c10::Device(name).type();
  } catch (const c10::Error&) {
    throw Error("BAD_ARGUMENT", "Expected a device such as 'cpu' or 'cuda', received \"" + name + "\".");
  }
}

bool set_grad_enabled(bool enabled) {
  const bool before = at::GradMode::is_enabled();
  at::GradMode::set_enabled(enabled);
  return before;
}

void set_autocast(const std::string& device, bool enabled, at::ScalarType dtype) {
  const c10::DeviceType type = device_type(device);
  if (enabled && dtype != at::kBFloat16 && dtype != at::kHalf) {
    throw Error("BAD_ARGUMENT", std::string("Expected bfloat16 or float16 as the dtype of autocast, received ") +
                                    c10::toString(dtype) + ".");
  }
  at::autocast::set_autocast_enabled(type, enabled);
  at::autocast::set_autocast_dtype(type, dtype);
  // Casts of weights are cached while autocast is on, and go when it ends.
  if (!enabled) at::autocast::clear_cache();
}

at::ScalarType autocast_dtype(const std::string& device) {
  return at::autocast::get_autocast_dtype(device_type(device));
}

void set_num_threads(int64_t count) {
  if (count < 1 || count > 1024)
    throw Error("BAD_ARGUMENT", "Expected 1 to 1024 threads, received " + std::to_string(count) + ".");
  at::set_num_threads(static_cast<int>(count));
}

at::Tensor get_rng_state() {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_rng_state(const at::Tensor& state) {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

void manual_seed(int64_t seed) { at::manual_seed(static_cast<uint64_t>(seed)); }

// Generators of the caller's own, beside the default one. To the dispatcher a generator is always optional.
at::Generator make_generator(int64_t seed) { return at::detail::createCPUGenerator(static_cast<uint64_t>(seed)); }

at::Generator given(const std::optional<at::Generator>& generator) {
  if (!generator || !generator->defined()) throw Error("BAD_ARGUMENT", "Expected a generator, received null.");
  return *generator;
}

at::Tensor generator_state(std::optional<at::Generator> optional) {
  at::Generator generator = given(optional);
  std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_generator_state(std::optional<at::Generator> optional, const at::Tensor& state) {
  at::Generator generator = given(optional);
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

// Ranges that a profiler shows; a stack per thread, since they nest.
thread_local std::vector<std::unique_ptr<at::RecordFunction>> ranges;

void push_range(const std::string& name) {
  ranges.push_back(std::make_unique<at::RecordFunction>(at::RecordScope::USER_SCOPE));
  if (ranges.back()->isActive()) ranges.back()->before(name);
}

void pop_range() {
  if (ranges.empty()) throw Error("BAD_ARGUMENT", "Expected an open profiler range, found none.");
  ranges.pop_back();
}

TORCH_LIBRARY_FRAGMENT(shardloop, m) {
  m.def("set_grad_enabled(bool enabled) -> bool", &set_grad_enabled);
  m.def("is_grad_enabled() -> bool", []() { return at::GradMode::is_enabled(); });
  m.def("set_autocast(str device, bool enabled, ScalarType dtype) -> ()", &set_autocast);
  m.def("is_autocast_enabled(str device) -> bool",
        [](const std::string& device) { return at::autocast::is_autocast_enabled(device_type(device)); });
  m.def("autocast_dtype(str device) -> ScalarType", &autocast_dtype);
  m.def("set_num_threads(int count) -> ()", &set_num_threads);
  m.def("get_num_threads() -> int", []() -> int64_t { return at::get_num_threads(); });
  m.def("manual_seed(int seed) -> ()", &manual_seed);
  m.def("get_rng_state() -> Tensor", &get_rng_state);
  m.def("set_rng_state(Tensor state) -> ()", &set_rng_state);
  m.def("generator(int seed) -> Generator?", &make_generator);
  m.def("generator_state(Generator? generator) -> Tensor", &generator_state);
  m.def("set_generator_state(Generator? generator, Tensor state) -> ()", &set_generator_state);
  m.def("set_deterministic(bool enabled) -> ()",
        [](bool enabled) { at::globalContext().setDeterministicAlgorithms(enabled, /*warn_only=*/false); });
  m.def("is_deterministic() -> bool", []() { return at::globalContext().deterministicAlgorithms(); });
  m.def("push_range(str name) -> ()", &push_range);
  m.def("pop_range() -> ()", &pop_range);
  m.def("libtorch_version() -> str", []() -> std::string { return TORCH_VERSION; });
  m.def("cpu_capability() -> str", []() -> std::string { return at::get_cpu_capability(); });
  m.def("has_cuda() -> bool", []() { return at::hasCUDA(); });
}

}  // namespace
}  // namespace shardloop
