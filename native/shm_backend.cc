// The 'shm' backend of process_group.h: collectives between CPU ranks of one host through memory that all of them see
// (shared_segment.h). It takes all_reduce, reduce_scatter, all_gather, broadcast and barrier of CPU tensors; everything
// else goes through a Gloo group that it opens beside.
//
// Operations of a group run one behind the other, in the order of their launch, on whoever comes first: the thread that
// waits for one (which saves two changes of thread), or the group's own thread. That one is woken at once for a large
// operation; for small ones it looks every kNap while the group is busy, since waking it takes longer than they do.
//
// Every operation is a list of steps (shared_segment.h): in each a rank writes its slot, and `lag` steps later it reads
// those of all, so that ranks need not go in lock step.
//   all_reduce, small   write all of it; each rank reduces all slots (1 step)
//   all_reduce, large   pieces; of each, a reduce_scatter (RS) and `lag` steps or more later an all_gather (AG) of what
//   it
//                       gave: RS 0, ..., RS lag - 1, AG 0, RS lag, AG 1, RS lag + 1, ..., AG last
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "shared_reduce.h"
#include "shared_segment.h"
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
constexpr size_t kWhole = 16 << 10;   // up to here every rank reduces everything

enum Kind : uint32_t { kAllReduce = 1, kReduceScatter, kAllGather, kBroadcast, kBarrier };

// One operation: `in` and `out` are what the rank gives and gets, `bytes` those of a rank's part, or of all of it for
// all_reduce and broadcast.
struct Transfer {
  Kind kind;
  const char* in = nullptr;
  char* out = nullptr;
  size_t bytes = 0, width = 1;
  int root = 0;
  Reduction reduction = nullptr;
  bool average = false;
  Header header;
};

// What one rank does with the slots of a group.
class Runner {
 public:
  Runner(SharedSegment& segment, int rank, int size) : segment_(segment), rank_(rank), size_(size), sources_(size) {}

  void run(const Transfer& transfer, std::chrono::nanoseconds spin, Clock::time_point deadline) {
    t_ = &transfer;
    segment_.begin(transfer.header);
    const uint32_t first = segment_.published(), steps = plan();
    uint32_t read_steps = 0;
    const auto read_until = [&](uint32_t count) {
      for (; read_steps < count; ++read_steps) {
        segment_.wait(first + read_steps + 1, spin, deadline);
        read(read_steps, first + read_steps);
      }
    };
    for (uint32_t step = 0; step < steps; ++step) {
      if (step >= lag_) read_until(step - lag_ + 1);
      write(step, segment_.slot(rank_, first + step));
      segment_.publish();
    }
    read_until(steps);
  }

 private:
  // How many steps there are, and the bytes of a piece: of a rank's part for reduce_scatter, where a slot holds the
  // parts of all ranks; else of a slot.
  uint32_t plan() {
    piece_ = SharedSegment::kSlotBytes;
    if (t_->kind == kReduceScatter) piece_ = piece_ / size_ / 16 * 16;
    two_phases_ = t_->kind == kAllReduce && t_->bytes > kWhole && size_ > 1;
    if (two_phases_) piece_ = std::min(piece_, (t_->bytes + 1) / 2 / 16 * 16 + 16);
    pieces_ = std::max<size_t>(1, (t_->bytes + piece_ - 1) / piece_);
    lag_ = SharedSegment::kAhead;
    if (two_phases_) lag_ = std::min<uint32_t>(lag_, static_cast<uint32_t>(pieces_));
    return static_cast<uint32_t>(two_phases_ ? 2 * pieces_ : pieces_);
  }

  struct Range {
    size_t begin, bytes;
  };
  Range piece(size_t index) const {
    const size_t begin = std::min(index * piece_, t_->bytes);
    return {begin, std::min(piece_, t_->bytes - begin)};
  }
  // A rank's share of a piece, in whole elements.
  Range share(Range of, int rank) const {
    const size_t elements = of.bytes / t_->width;
    const size_t begin = elements * rank / size_ * t_->width, end = elements * (rank + 1) / size_ * t_->width;
    return {begin, end - begin};
  }
  // The phase and the piece of a step of two phases; see above.
  std::pair<bool, size_t> phase(uint32_t step) const {
    if (step < lag_) return {false, step};
    const size_t behind = step - lag_;
    if (step >= 2 * pieces_ - lag_) return {true, step - pieces_};
    return behind % 2 == 0 ? std::pair(true, behind / 2) : std::pair(false, lag_ + behind / 2);
  }

  void write(uint32_t step, char* slot) {
    switch (t_->kind) {
      case kAllReduce: {
        if (!two_phases_) return copy(slot, t_->in + piece(step).begin, piece(step).bytes);
        const auto [gathers, index] = phase(step);
        const Range whole = piece(index), mine = share(whole, rank_);
        if (gathers) return copy(slot + mine.begin, t_->out + whole.begin + mine.begin, mine.bytes);
        // All but this rank's share, which only it reads.
        const size_t end = mine.begin + mine.bytes;
        copy(slot, t_->in + whole.begin, mine.begin);
        return copy(slot + end, t_->in + whole.begin + end, whole.bytes - end);
      }
      case kReduceScatter: {
        const auto [begin, bytes] = piece(step);
        for (int to = 0; to < size_; ++to)
          if (to != rank_) copy(slot + to * piece_, t_->in + to * t_->bytes + begin, bytes);
        return;
      }
      case kAllGather: return copy(slot, t_->in + piece(step).begin, piece(step).bytes);
      case kBroadcast:
        if (rank_ == t_->root) copy(slot, t_->in + piece(step).begin, piece(step).bytes);
        return;
      case kBarrier: return;
    }
  }

  void read(uint32_t step, uint32_t at) {
    switch (t_->kind) {
      case kAllReduce: {
        if (!two_phases_) return reduce(piece(step), at, 0, t_->in, t_->out);
        const auto [gathers, index] = phase(step);
        const Range whole = piece(index), mine = share(whole, rank_);
        if (!gathers) return reduce({whole.begin + mine.begin, mine.bytes}, at, mine.begin, t_->in, t_->out);
        for (int from = 0; from < size_; ++from) {
          const Range theirs = share(whole, from);
          if (from != rank_)
            copy(t_->out + whole.begin + theirs.begin, segment_.slot(from, at) + theirs.begin, theirs.bytes);
        }
        return;
      }
      case kReduceScatter: return reduce(piece(step), at, rank_ * piece_, t_->in + rank_ * t_->bytes, t_->out);
      case kAllGather: {
        const auto [begin, bytes] = piece(step);
        for (int from = 0; from < size_; ++from) {
          char* to = t_->out + from * t_->bytes + begin;
          if (from != rank_)
            copy(to, segment_.slot(from, at), bytes);
          else if (to != t_->in + begin)
            copy(to, t_->in + begin, bytes);
        }
        return;
      }
      case kBroadcast:
        if (rank_ != t_->root) copy(t_->out + piece(step).begin, segment_.slot(t_->root, at), piece(step).bytes);
        return;
      case kBarrier: return;
    }
  }

  // Of `in`, which is this rank's, and the slots of the others at `offset`, in the order of the ranks.
  void reduce(Range range, uint32_t at, size_t offset, const char* in, char* out) {
    for (int from = 0; from < size_; ++from)
      sources_[from] = from == rank_ ? in + range.begin : segment_.slot(from, at) + offset;
    t_->reduction(out + range.begin, sources_.data(), size_, range.bytes / t_->width, t_->average);
  }

  static void copy(char* to, const char* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  SharedSegment& segment_;
  const int rank_, size_;
  std::vector<const void*> sources_;
  const Transfer* t_ = nullptr;
  size_t piece_ = 0, pieces_ = 0;
  uint32_t lag_ = 1;
  bool two_phases_ = false;
};

class ShmWork;
using ShmWorkPtr = c10::intrusive_ptr<ShmWork>;

// The operations of a group in their order, and who runs them. Outlives the backend while works are held.
class Queue {
 public:
  Queue(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout)
      : segment_(store, rank, size), runner_(segment_, rank, size), timeout_(timeout) {}

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
  Runner runner_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable changed_, woken_;
  std::deque<ShmWorkPtr> waiting_;
  bool running_ = false, closed_ = false, asleep_ = false;
  Clock::time_point busy_until_{};
  std::string failure_;  // of an operation: none can follow it
};

class ShmWork final : public c10d::Work {
 public:
  ShmWork(c10d::OpType type, std::shared_ptr<Queue> queue, std::vector<at::Tensor> tensors, std::vector<Transfer> parts)
      : Work(-1, type), tensors(std::move(tensors)), parts(std::move(parts)), queue_(std::move(queue)) {
    deadline = Clock::now() + queue_->timeout();
  }

  bool wait(std::chrono::milliseconds) override {
    queue_->wait_for(*this);
    if (exception_) std::rethrow_exception(exception_);
    return true;
  }

  void abort() override { queue_->leave(); }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!future_) {
      future_ = c10::make_intrusive<c10::ivalue::Future>(c10::NoneType::get());
      if (completed_) complete_future();
    }
    return future_;
  }

  void end(const std::string& error) {
    c10::intrusive_ptr<c10::ivalue::Future> future;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error.empty()) exception_ = std::make_exception_ptr(std::runtime_error(error));
      tensors.clear();
      completed_ = true;
      if (!future_) return;
    }
    complete_future();
  }

  std::vector<at::Tensor> tensors;
  std::vector<Transfer> parts;
  Clock::time_point deadline;
  bool done = false;  // under the lock of the queue

 private:
  void complete_future() {
    if (exception_)
      future_->setError(exception_);
    else
      future_->markCompleted();
  }

  const std::shared_ptr<Queue> queue_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

void Queue::add(const ShmWorkPtr& work) {
  size_t bytes = 0;
  for (const Transfer& part : work->parts) bytes += part.bytes;
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
      for (const Transfer& part : work->parts) runner_.run(part, spin, work->deadline);
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
    t.header.root = t.root = static_cast<int>(options.rootRank);
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

  WorkPtr barrier(const c10d::BarrierOptions&) override {
    Transfer t;
    t.kind = kBarrier;
    t.header.kind = kBarrier;
    return launch(c10d::OpType::BARRIER, {}, {t});
  }

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
    t.kind = kind;
    t.bytes = bytes;
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
                           /*works_on_streams=*/false, /*has_peers=*/true, /*waiters_run=*/true});
  return true;
}();

}  // namespace
}  // namespace shardloop
