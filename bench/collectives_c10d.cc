// C++'s side of bench/collectives.ts: c10d over our own backends (native/gloo_backend.cc, native/shm_backend.cc, compiled
// in), and nothing in between. `collectives_c10d RANK SIZE STORE_FILE BACKEND`, one process a rank; reads `operation bytes
// iterations`, runs as many unmeasured and then measured, and answers with the nanoseconds of one.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <iostream>
#include <map>
#include <string>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include "works.h"

// What the backends ask of the addon.
namespace shardloop {
static std::map<std::string, BackendFactory>& factories() {
  static std::map<std::string, BackendFactory> instance;
  return instance;
}
void register_backend(const std::string& name, BackendFactory factory) { factories()[name] = factory; }
void fail_groups_in_flight(const std::string& text) { std::cerr << text << std::endl; }
std::string exception_text(const std::exception_ptr&) { return "Gloo threw on a thread of its own"; }
}  // namespace shardloop

int main(int, char** arguments) {
  const int rank = std::stoi(arguments[1]), size = std::stoi(arguments[2]);
  at::set_num_threads(1);
  auto store = c10::make_intrusive<c10d::FileStore>(arguments[3], size);
  auto group = shardloop::factories()
                   .at(arguments[4])
                   .create({store, rank, size, std::chrono::seconds(60), "host:127.0.0.1"});

  std::string operation;
  int64_t bytes, iterations;
  while (std::cin >> operation >> bytes >> iterations) {
    // The size of an operation is that of the whole, as nccl-tests counts it.
    at::Tensor whole = at::ones({bytes / 4});
    at::Tensor shard = at::ones({bytes / 4 / size});
    auto once = [&] {
      if (operation == "all_reduce") {
        std::vector<at::Tensor> one{whole};
        group->allreduce(one)->wait();
      } else if (operation == "all_gather") {
        group->_allgather_base(whole, shard)->wait();
      } else {
        group->_reduce_scatter_base(shard, whole)->wait();
      }
    };
    for (int64_t i = 0; i < iterations; ++i) once();
    group->barrier()->wait();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < iterations; ++i) once();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    std::cout << taken.count() / static_cast<double>(iterations) << std::endl;
  }
}
