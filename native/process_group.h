// Stores, process groups and backends: process-wide tables under one mutex, so that worker_threads can be ranks beside
// each other. Works in flight stand in works.h, collectives in collectives.cc, backends in gloo_backend.cc and cuda/.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

namespace shardloop {

using StorePtr = c10::intrusive_ptr<c10d::Store>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

struct BackendArguments {
  StorePtr store;
  int rank;
  int size;
  std::chrono::milliseconds timeout;
  std::string device;  // gloo: "host:ADDRESS", "interface:NAME[,NAME]" or ""; nccl: "cuda:N"
};

// Plain functions, so that the CUDA library can hand its own over at load.
struct BackendFactory {
  BackendPtr (*create)(const BackendArguments& arguments);
  bool works_on_streams;  // completion of the future means "enqueued", so completion is polled
};

void register_backend(const std::string& name, BackendFactory factory);

struct Group {
  BackendPtr backend;
  StorePtr store;
  std::chrono::milliseconds timeout;
  bool works_on_streams;
  std::shared_ptr<std::atomic<int64_t>> in_flight = std::make_shared<std::atomic<int64_t>>(0);  // works not finished
};

// Throws BAD_ARGUMENT for an id that was never given or is destroyed.
std::shared_ptr<Group> find_group(int64_t id);

}  // namespace shardloop
