// Stores, process groups and backends: process-wide tables under one mutex, so that worker_threads can be ranks beside
// each other. Works in flight stand in works.h, collectives in collectives.cc, backends in gloo_backend.cc and cuda/.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "flight.h"

namespace shardloop {

using StorePtr = c10::intrusive_ptr<c10d::Store>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

struct BackendArguments {
  StorePtr store;
  int rank;
  int size;
  std::chrono::milliseconds timeout;
  std::string device;  // gloo: "host:ADDRESS", "interface:NAME[,NAME]" or ""; nccl: "cuda:N"; fake: see there
};

// Plain functions, so that the CUDA library can hand its own over at load.
struct BackendFactory {
  BackendPtr (*create)(const BackendArguments& arguments);
  bool works_on_streams;  // completion of the future means "enqueued", so completion is polled
  bool has_peers = true;  // there are other ranks to hear of
};

void register_backend(const std::string& name, BackendFactory factory);

// What outlives the connections of a group: its record, and what went wrong with it.
struct GroupState {
  FlightRecorder flight;
  std::atomic<int64_t> in_flight{0};  // works that are not finished
  std::mutex mutex;
  std::string failure;  // the first one, as JSON; under the mutex
};

struct Group {
  BackendPtr backend;
  StorePtr store;
  StorePtr watch_store;  // the same store over a connection of its own, for the monitor; null without peers
  std::chrono::milliseconds timeout;
  bool works_on_streams;
  std::shared_ptr<GroupState> state = std::make_shared<GroupState>();
};

// Closes what a thread has opened and left open, in the background.
void close_owned(std::thread::id owner);

// Throws BAD_ARGUMENT for an id that was never given or is destroyed.
std::shared_ptr<Group> find_group(int64_t id);

}  // namespace shardloop
