// The 'shm' backend of process_group.h: collectives between CPU ranks of one host through memory that all of them see
// (shared_segment.h, shared_steps.h). It takes all_reduce, reduce_scatter, all_gather, broadcast and barrier of CPU
// tensors; everything else goes through a Gloo group that it opens beside.
//
// Operations of a group run one behind the other, in the order of their launch, on whoever comes first: the thread that
// waits for one (which saves two changes of thread), or the group's own thread. That one is woken at once for a large
// operation; for small ones it looks every kNap while the group is busy, since waking it takes longer than they do.
#include <torch/library.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "shared_steps.h"
#include "works.h"

namespace shardloop {
namespace {

using Clock = SharedSegment::Clock;
using namespace std::chrono_literals;

constexpr auto kSpin = 200us;         // for a thread that has nothing else to do
constexpr auto kShortSpin = 10us;     // beside a thread that computes
constexpr auto kNap = 100us;          // how late a small operation that nobody waits for may begin
constexpr auto kBusy = 20ms;          // for so long the group's thread stays awake behind the last operation
constexpr size_t kLarge = 256 << 10;  // from here on waking a thread is worth it

// For tests, which turn it off: whether this rank's inputs may be read where they lie.
std::atomic<bool> single_copy{true};

class ShmWork;
using ShmWorkPtr = c10::intrusive_ptr<ShmWork>;

// The operations of a group in their order, and who runs them. Outlives the backend while works are held.
class Queue {
 public:
  Queue(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout)
      : segment_(store, rank, size), timeout_(timeout) {}

  void add(const ShmWorkPtr& work);
  void wait_for(ShmWork& work);
  void run_thread();
  // The thread ends when nothing is left to do.
  void close();
  // Ends what is under way, and tells the other ranks.
  void leave() { segment_.leave(); }
  std::chrono::milliseconds timeout() const { return timeout_; }

 private:
  // Takes the first operation, with the lock held, and lets go of the lock while it runs.
  void run_first(std::unique_lock<std::mutex>& lock, std::chrono::nanoseconds spin);

  SharedSegment segment_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable changed_, woken_;
  std::deque<ShmWorkPtr> waiting_;
  bool running_ = false, closed_ = false, asleep_ = false;
  Clock::time_point busy_until_{};
  std::string failure_;  // of an operation: none can follow it
};

class ShmWork final : public RunByWaiter {
 public:
  ShmWork(c10d::OpType type, std::shared_ptr<Queue> queue, std::vector<at::Tensor> tensors, std::vector<Transfer> parts)
      : RunByWaiter(-1, type), tensors(std::move(tensors)), parts(std::move(parts)), queue_(std::move(queue)) {
    deadline = Clock::now() + queue_->timeout();
  }

  bool wait(std::chrono::milliseconds) override {
    queue_->wait_for(*this);
    if (exception_) std::rethrow_exception(exception_);
    return true;
  }

  void abort() override { queue_->leave(); }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

  void end(const std::string& error) {
    tensors.clear();
    const auto thrown = error.empty() ? nullptr : std::make_exception_ptr(std::runtime_error(error));
    finish(thrown);
    if (thrown)
      future_->setError(thrown);
    else
      future_->markCompleted();
  }

  std::vector<at::Tensor> tensors;
  std::vector<Transfer> parts;
  Clock::time_point deadline;
  bool done = false;  // under the lock of the queue

 private:
  const std::shared_ptr<Queue> queue_;
  const c10::intrusive_ptr<c10::ivalue::Future> future_ =
      c10::make_intrusive<c10::ivalue::Future>(c10::NoneType::get());
};

void Queue::add(const ShmWorkPtr& work) {
  size_t bytes = 0;
  for (const Transfer& part : work->parts) bytes += part.header.bytes;
  std::lock_guard<std::mutex> lock(mutex_);
  waiting_.push_back(work);
  busy_until_ = Clock::now() + kBusy;
  if (asleep_ || bytes >= kLarge) woken_.notify_one();
}

void Queue::run_first(std::unique_lock<std::mutex>& lock, std::chrono::nanoseconds spin) {
  const ShmWorkPtr work = std::move(waiting_.front());
  waiting_.pop_front();
  running_ = true;
  std::string error = failure_;
  lock.unlock();
  if (error.empty()) {
    try {
      for (const Transfer& part : work->parts) run(segment_, part, spin, work->deadline);
    } catch (const std::exception& thrown) {
      error = thrown.what();
      segment_.fail(error);
    }
  }
  work->end(error);
  lock.lock();
  if (failure_.empty()) failure_ = error;
  running_ = false;
  work->done = true;
  changed_.notify_all();
  if (!waiting_.empty()) woken_.notify_one();
}

void Queue::wait_for(ShmWork& work) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!work.done) {
    if (running_)
      changed_.wait(lock);
    else
      run_first(lock, kSpin);
  }
}

void Queue::run_thread() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!closed_ || running_ || !waiting_.empty()) {
    if (!running_ && !waiting_.empty()) {
      run_first(lock, kShortSpin);
    } else if (closed_ || Clock::now() < busy_until_) {
      woken_.wait_for(lock, kNap);
    } else {
      asleep_ = true;
      woken_.wait(lock);
      asleep_ = false;
    }
  }
}

void Queue::close() {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  woken_.notify_one();
}

class ShmBackend final : public c10d::Backend {
 public:
  explicit ShmBackend(const BackendArguments& arguments)
      : Backend(arguments.rank, arguments.size),
        queue_(std::make_shared<Queue>(*arguments.store, arguments.rank, arguments.size, arguments.timeout)),
        gloo_(create_backend("gloo", arguments)),
        thread_([queue = queue_] { queue->run_thread(); }) {}

  // Waits for the operations in flight, as Gloo's does, and then tells the others that this rank is gone.
  ~ShmBackend() override {
    queue_->close();
    thread_.join();
    queue_->leave();
  }

  const std::string getBackendName() const override { return "shm"; }
  void abort() override {
    queue_->leave();
    gloo_->abort();
  }

  WorkPtr broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    if (!tensors[0].is_cpu()) return gloo_->broadcast(tensors, options);
    Transfer t = transfer(kBroadcast, tensors[0], tensors[0], tensors[0].nbytes());
    t.header.root = static_cast<uint32_t>(options.rootRank);
    return launch(c10d::OpType::BROADCAST, tensors, {t});
  }

  WorkPtr allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) override {
    if (!reduces(tensors, options.reduceOp)) return gloo_->allreduce(tensors, options);
    return launch(c10d::OpType::ALLREDUCE, tensors, all_reduces(tensors, options.reduceOp));
  }

  WorkPtr allreduce_coalesced(std::vector<at::Tensor>& tensors,
                              const c10d::AllreduceCoalescedOptions& options) override {
    if (!reduces(tensors, options.reduceOp)) return gloo_->allreduce_coalesced(tensors, options);
    return launch(c10d::OpType::ALLREDUCE_COALESCED, tensors, all_reduces(tensors, options.reduceOp));
  }

  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    if (!input.is_cpu() || !output.is_cpu()) return gloo_->_allgather_base(output, input, options);
    return launch(c10d::OpType::_ALLGATHER_BASE, {output, input},
                  {transfer(kAllGather, input, output, input.nbytes())});
  }

  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override {
    if (!output.is_cpu() || !reduces({input}, options.reduceOp))
      return gloo_->_reduce_scatter_base(output, input, options);
    Transfer t = transfer(kReduceScatter, input, output, output.nbytes());
    set_reduction(t, input, options.reduceOp);
    return launch(c10d::OpType::_REDUCE_SCATTER_BASE, {output, input}, {t});
  }

  WorkPtr barrier(const c10d::BarrierOptions&) override { return launch(c10d::OpType::BARRIER, {}, {Transfer{}}); }

  WorkPtr reduce(std::vector<at::Tensor>& tensors, const c10d::ReduceOptions& options) override {
    return gloo_->reduce(tensors, options);
  }
  WorkPtr gather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                 const c10d::GatherOptions& options) override {
    return gloo_->gather(outputs, inputs, options);
  }
  WorkPtr scatter(std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
                  const c10d::ScatterOptions& options) override {
    return gloo_->scatter(outputs, inputs, options);
  }
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_rows,
                        std::vector<int64_t>& input_rows, const c10d::AllToAllOptions& options) override {
    return gloo_->alltoall_base(output, input, output_rows, input_rows, options);
  }
  WorkPtr send(std::vector<at::Tensor>& tensors, int to, int tag) override { return gloo_->send(tensors, to, tag); }
  WorkPtr recv(std::vector<at::Tensor>& tensors, int from, int tag) override { return gloo_->recv(tensors, from, tag); }

 private:
  static Transfer transfer(Kind kind, const at::Tensor& in, const at::Tensor& out, size_t bytes) {
    Transfer t;
    // Pinned memory belongs to a driver, and the kernel does not read it for another process.
    t.in_reach = single_copy && kind != kReduceScatter && bytes > kSmall && !in.is_pinned();
    t.in = static_cast<const char*>(in.const_data_ptr());
    t.out = static_cast<char*>(out.mutable_data_ptr());
    t.header.kind = kind;
    t.header.bytes = bytes;
    return t;
  }

  static void set_reduction(Transfer& t, const at::Tensor& tensor, const c10d::ReduceOp& op) {
    t.width = tensor.element_size();
    t.reduction = find_reduction(tensor.scalar_type(), op.op_);
    t.average = op.op_ == c10d::ReduceOp::AVG;
    t.header.dtype = static_cast<uint32_t>(tensor.scalar_type());
    t.header.op = static_cast<uint32_t>(op.op_);
  }

  static bool reduces(const std::vector<at::Tensor>& tensors, const c10d::ReduceOp& op) {
    for (const at::Tensor& tensor : tensors)
      if (!tensor.is_cpu() || find_reduction(tensor.scalar_type(), op.op_) == nullptr) return false;
    return true;
  }

  static std::vector<Transfer> all_reduces(const std::vector<at::Tensor>& tensors, const c10d::ReduceOp& op) {
    std::vector<Transfer> parts;
    for (const at::Tensor& tensor : tensors) {
      parts.push_back(transfer(kAllReduce, tensor, tensor, tensor.nbytes()));
      set_reduction(parts.back(), tensor, op);
    }
    return parts;
  }

  WorkPtr launch(c10d::OpType type, std::vector<at::Tensor> tensors, std::vector<Transfer> parts) {
    auto work = c10::make_intrusive<ShmWork>(type, queue_, std::move(tensors), std::move(parts));
    queue_->add(work);
    return work;
  }

  const std::shared_ptr<Queue> queue_;
  const BackendPtr gloo_;
  std::thread thread_;
};

[[maybe_unused]] const bool registered = [] {
  register_backend("shm", {[](const BackendArguments& arguments) -> BackendPtr {
                             return c10::make_intrusive<ShmBackend>(arguments);
                           },
                           /*works_on_streams=*/false});
  return true;
}();

}  // namespace

TORCH_LIBRARY_FRAGMENT(shardloop, library) {
  library.def("use_single_copy(bool on) -> ()", [](bool on) { single_copy = on; });
}

}  // namespace shardloop
