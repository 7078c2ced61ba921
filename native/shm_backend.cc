// The 'shm' backend of process_group.h: collectives between CPU ranks of one host through memory that all of them see
// (shared_segment.h). It takes all_reduce, reduce_scatter, all_gather, broadcast and barrier of CPU tensors; everything
// else is the Gloo group's that it is made of.
//
// Operations of a group run one behind the other, in the order of their launch, on whoever comes first: the thread that
// waits for one (which saves two changes of thread), or a thread in the background. That one stays while the group is
// busy and looks for operations that nobody waits for, the more rarely the longer there are none: each look takes the
// processor from a rank, and all others then wait for that one.
#include <torch/library.h>

#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "gloo_backend.h"
#include "shared_segment.h"
#include "waiters.h"
#include "works.h"

namespace shardloop {
namespace {

using c10d::OpType;
using c10d::ProcessGroupGloo;
using Clock = SharedSegment::Clock;
using Tensors = std::vector<at::Tensor>;
using namespace std::chrono_literals;

constexpr auto kSpin = 200us;                       // for a thread that has nothing else to do
constexpr auto kShortSpin = 10us;                   // beside a thread that computes
constexpr auto kNap = 100us, kLongNap = 16 * kNap;  // how late an operation that nobody waits for may begin
constexpr auto kBusy = 20ms;                        // for so long the thread stays behind the last operation

// For tests, which turn it off: whether this rank's inputs may be read where they lie.
std::atomic<bool> single_copy{true};

class Queue;
using QueuePtr = std::shared_ptr<Queue>;

class ShmWork final : public RunByWaiter {
 public:
  ShmWork(OpType type, QueuePtr queue, Tensors tensors, std::vector<Transfer> parts, Clock::time_point deadline)
      : RunByWaiter(-1, type),
        parts(std::move(parts)),
        deadline(deadline),
        queue_(std::move(queue)),
        tensors_(std::move(tensors)) {}

  bool wait(std::chrono::milliseconds) override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

  void end(const std::string& error) {
    tensors_.clear();
    if (error.empty()) {
      finish();
      return future_->markCompleted();
    }
    finish(std::make_exception_ptr(std::runtime_error(error)));
    future_->setError(exception_);
  }

  const std::vector<Transfer> parts;
  const Clock::time_point deadline;

 private:
  const QueuePtr queue_;
  Tensors tensors_;
  const c10::intrusive_ptr<c10::ivalue::Future> future_ =
      c10::make_intrusive<c10::ivalue::Future>(c10::NoneType::get());
};

// The operations of a group in their order, and who runs them. Outlives the backend while works are held.
class Queue : public std::enable_shared_from_this<Queue> {
 public:
  explicit Queue(const BackendArguments& a) : segment_(*a.store, a.rank, a.size), timeout_(a.timeout) {}

  WorkPtr add(OpType type, Tensors tensors, std::vector<Transfer> parts) {
    const auto now = Clock::now();
    auto work =
        c10::make_intrusive<ShmWork>(type, shared_from_this(), std::move(tensors), std::move(parts), now + timeout_);
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(work);
    busy_until_ = now + kBusy;
    if (!has_thread_) run_on_waiter([queue = shared_from_this()] { queue->run_in_background(); });
    has_thread_ = true;
    return work;
  }

  // Runs the first operation, when no other thread runs one any more. False: there is none.
  bool run_first(std::chrono::nanoseconds spin) {
    std::lock_guard<std::mutex> turn(turn_);
    std::unique_lock<std::mutex> lock(mutex_);
    if (waiting_.empty()) return false;
    const auto work = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    try {
      if (failure_.empty())
        for (const Transfer& part : work->parts) segment_.run(part, spin, work->deadline);
    } catch (const std::exception& thrown) {
      failure_ = thrown.what();
      segment_.fail(failure_);
    }
    work->end(failure_);
    return true;
  }

  // Ends what is under way, and tells the other ranks.
  void leave() { segment_.leave(); }

 private:
  void run_in_background() {
    auto nap = kNap;
    std::unique_lock<std::mutex> lock(mutex_);
    while (!waiting_.empty() || Clock::now() < busy_until_) {
      const bool idle = waiting_.empty();
      lock.unlock();
      if (idle)
        std::this_thread::sleep_for(nap);
      else
        run_first(kShortSpin);
      nap = idle ? std::min(2 * nap, kLongNap) : kNap;
      lock.lock();
    }
    has_thread_ = false;
  }

  std::mutex turn_;  // of whoever runs an operation
  SharedSegment segment_;
  std::string failure_;  // of an operation: none can follow it
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;  // of what follows
  std::deque<c10::intrusive_ptr<ShmWork>> waiting_;
  Clock::time_point busy_until_{};
  bool has_thread_ = false;
};

bool ShmWork::wait(std::chrono::milliseconds) {
  while (!isCompleted()) queue_->run_first(kSpin);
  if (exception_) std::rethrow_exception(exception_);
  return true;
}

void ShmWork::abort() { queue_->leave(); }

bool reduces(const at::Tensor& tensor, const c10d::ReduceOp& op) {
  return tensor.is_cpu() && is_reduced(tensor.scalar_type(), op.op_);
}

Transfer transfer(Kind kind, const at::Tensor& in, const at::Tensor& out, size_t bytes,
                  c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM) {
  const Header header{.kind = kind, .op = op, .dtype = in.scalar_type(), .bytes = bytes};
  // Pinned memory belongs to a driver, and the kernel does not read it for another process.
  const bool in_reach = bytes > SharedSegment::kSmall && single_copy && !in.is_pinned();
  return {header, static_cast<const char*>(in.const_data_ptr()), static_cast<char*>(out.mutable_data_ptr()), in_reach};
}

class ShmBackend final : public ProcessGroupGloo {
 public:
  ShmBackend(const BackendArguments& arguments, QueuePtr queue)
      : ProcessGroupGloo(arguments.store, arguments.rank, arguments.size, gloo_options(arguments)),
        queue_(std::move(queue)) {}

  // Ends the operations in flight, as Gloo's does, and then tells the others that this rank is gone.
  ~ShmBackend() override {
    while (queue_->run_first(kSpin)) continue;
    queue_->leave();
  }

  const std::string getBackendName() const override { return "shm"; }
  void abort() override { queue_->leave(); }

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    if (!tensors[0].is_cpu()) return ProcessGroupGloo::broadcast(tensors, options);
    Transfer t = transfer(kBroadcast, tensors[0], tensors[0], tensors[0].nbytes());
    t.header.root = static_cast<int32_t>(options.rootRank);
    return queue_->add(OpType::BROADCAST, tensors, {t});
  }

  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    if (!reduces(tensors[0], options.reduceOp)) return ProcessGroupGloo::allreduce(tensors, options);
    return queue_->add(OpType::ALLREDUCE, tensors, all_reduces(tensors, options.reduceOp));
  }

  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    for (const at::Tensor& tensor : tensors)
      if (!reduces(tensor, options.reduceOp)) return ProcessGroupGloo::allreduce_coalesced(tensors, options);
    return queue_->add(OpType::ALLREDUCE_COALESCED, tensors, all_reduces(tensors, options.reduceOp));
  }

  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    if (!input.is_cpu()) return ProcessGroupGloo::_allgather_base(output, input, options);
    return queue_->add(OpType::_ALLGATHER_BASE, {output, input}, {transfer(kAllGather, input, output, input.nbytes())});
  }

  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override {
    if (!reduces(input, options.reduceOp)) return ProcessGroupGloo::_reduce_scatter_base(output, input, options);
    return queue_->add(OpType::_REDUCE_SCATTER_BASE, {output, input},
                       {transfer(kReduceScatter, input, output, output.nbytes(), options.reduceOp.op_)});
  }

  WorkPtr barrier(const c10d::BarrierOptions&) override { return queue_->add(OpType::BARRIER, {}, {Transfer{}}); }

 private:
  static std::vector<Transfer> all_reduces(const Tensors& tensors, const c10d::ReduceOp& op) {
    std::vector<Transfer> parts;
    for (const at::Tensor& tensor : tensors)
      parts.push_back(transfer(kAllReduce, tensor, tensor, tensor.nbytes(), op.op_));
    return parts;
  }

  const QueuePtr queue_;
};

BackendPtr create_shm(const BackendArguments& arguments) {
  auto queue = std::make_shared<Queue>(arguments);  // before Gloo connects: it may be refused
  return c10::make_intrusive<ShmBackend>(arguments, std::move(queue));
}

[[maybe_unused]] const bool registered = [] {
  register_backend("shm", {&create_shm, /*works_on_streams=*/false});
  return true;
}();

}  // namespace

TORCH_LIBRARY_FRAGMENT(shardloop, library) {
  library.def("use_single_copy(bool on) -> ()", [](bool on) { single_copy = on; });
}

}  // namespace shardloop
