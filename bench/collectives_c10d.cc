// C++'s side of bench/collectives.ts: c10d over Gloo with the options of native/gloo_backend.cc, and nothing in between.
// `collectives_c10d RANK SIZE STORE_FILE`, one process a rank; reads `operation bytes iterations` and answers with the
// nanoseconds of one operation.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <iostream>
#include <string>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

int main(int, char** arguments) {
  using c10d::ProcessGroupGloo;
  const int rank = std::stoi(arguments[1]), size = std::stoi(arguments[2]);
  at::set_num_threads(1);
  auto store = c10::make_intrusive<c10d::FileStore>(arguments[3], size);
  auto options = ProcessGroupGloo::Options::create(std::chrono::seconds(60));
  options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  options->threads = 2;
  auto group = c10::make_intrusive<ProcessGroupGloo>(store, rank, size, options);

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
    once();
    group->barrier()->wait();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < iterations; ++i) once();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    std::cout << taken.count() / static_cast<double>(iterations) << std::endl;
  }
}
