// The 'fake' backend of process_group.h: a group of any size in one process, in which every other rank sends what this
// one does (or zeros to a sum). For plans of worlds that are not there, and for tests: it completes like NCCL, later
// than its wait() returns, so that what waits for streams is exercised without a GPU.
// The device of BackendArguments: "" completes at once; "delay:MS" that much later; "hang" never, until it is aborted.
#include <ATen/Functions.h>

#include <atomic>
#include <chrono>

#include "error.h"
#include "works.h"

namespace shardloop {
namespace {

using Clock = std::chrono::steady_clock;

class FakeWork final : public c10d::Work {
 public:
  FakeWork(Clock::time_point ready, std::shared_ptr<std::atomic<bool>> aborted)
      : ready_(ready), aborted_(std::move(aborted)) {}
  bool isCompleted() override { return aborted_->load() || Clock::now() >= ready_; }
  bool isSuccess() const override { return !aborted_->load(); }
  std::exception_ptr exception() const override {
    if (!aborted_->load()) return nullptr;
    return std::make_exception_ptr(std::runtime_error("the group was aborted"));
  }
  bool wait(std::chrono::milliseconds) override { return true; }  // as a stream that is told to wait

 private:
  const Clock::time_point ready_;
  const std::shared_ptr<std::atomic<bool>> aborted_;
};

class FakeBackend final : public c10d::Backend {
 public:
  FakeBackend(int rank, int size, const std::string& device) : Backend(rank, size) {
    if (device == "hang") {
      hangs_ = true;
    } else if (device.rfind("delay:", 0) == 0) {
      delay_ = std::chrono::milliseconds(std::stoll(device.substr(6)));
    } else if (!device.empty()) {
      throw Error("BAD_ARGUMENT",
                  "backend 'fake' takes the device '', 'delay:MS' or 'hang', received '" + device + "'");
    }
  }

  const std::string getBackendName() const override { return "fake"; }
  void abort() override { aborted_->store(true); }

  WorkPtr broadcast(std::vector<at::Tensor>&, const c10d::BroadcastOptions&) override { return work(); }
  WorkPtr allreduce(std::vector<at::Tensor>&, const c10d::AllreduceOptions&) override { return work(); }
  WorkPtr allreduce_coalesced(std::vector<at::Tensor>&, const c10d::AllreduceCoalescedOptions&) override {
    return work();
  }
  WorkPtr reduce(std::vector<at::Tensor>&, const c10d::ReduceOptions&) override { return work(); }
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions&) override {
    at::NoGradGuard no_grad;
    const int64_t rank = getRank(), size = getSize();
    const auto rows = output.view({size, input.numel()});
    const auto mine = input.view({1, input.numel()});  // may be this rank's row
    rows.narrow(0, 0, rank).copy_(mine);
    rows.narrow(0, rank, 1).copy_(mine);
    rows.narrow(0, rank + 1, size - rank - 1).copy_(mine);
    return work();
  }
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions&) override {
    at::NoGradGuard no_grad;
    output.view(-1).copy_(input.view(-1).narrow(0, getRank() * output.numel(), output.numel()));
    return work();
  }
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>&, std::vector<int64_t>&,
                        const c10d::AllToAllOptions&) override {
    at::NoGradGuard no_grad;
    const int64_t elements = std::min(output.numel(), input.numel());
    output.view(-1).narrow(0, 0, elements).copy_(input.view(-1).narrow(0, 0, elements));
    return work();
  }
  WorkPtr gather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                 const c10d::GatherOptions&) override {
    at::NoGradGuard no_grad;
    for (auto& list : outputs)
      for (auto& output : list) output.copy_(inputs[0].view(-1));
    return work();
  }
  WorkPtr scatter(std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
                  const c10d::ScatterOptions&) override {
    at::NoGradGuard no_grad;
    if (!inputs.empty()) outputs[0].view(-1).copy_(inputs[0][getRank()]);
    return work();
  }
  WorkPtr send(std::vector<at::Tensor>&, int, int) override { return work(); }
  WorkPtr recv(std::vector<at::Tensor>&, int, int) override { return work(); }
  WorkPtr barrier(const c10d::BarrierOptions&) override { return work(); }

 private:
  WorkPtr work() {
    const auto ready = hangs_ ? Clock::time_point::max() : Clock::now() + delay_;
    return c10::make_intrusive<FakeWork>(ready, aborted_);
  }

  bool hangs_ = false;
  std::chrono::milliseconds delay_{0};
  std::shared_ptr<std::atomic<bool>> aborted_ = std::make_shared<std::atomic<bool>>(false);
};

BackendPtr create_fake(const BackendArguments& arguments) {
  return c10::make_intrusive<FakeBackend>(arguments.rank, arguments.size, arguments.device);
}

[[maybe_unused]] const bool registered = [] {
  register_backend("fake", {&create_fake, /*works_on_streams=*/true, /*has_peers=*/false});
  return true;
}();

}  // namespace
}  // namespace shardloop
