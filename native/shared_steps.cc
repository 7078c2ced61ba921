// The steps of each collective; see shared_steps.h.
//
// Every operation is a list of steps (shared_segment.h): in each a rank writes its slot, and `lag` steps later it reads
// those of all, so that ranks need not go in lock step.
//   all_reduce, small   write all of it; each rank reduces all slots (1 step)
//   all_reduce, large   pieces; of each, a reduce_scatter (RS) and `lag` steps or more later an all_gather (AG) of its
//                       result: RS 0, ..., RS lag - 1, AG 0, RS lag, AG 1, RS lag + 1, ..., AG last
#include "shared_steps.h"

#include <algorithm>
#include <cstring>

namespace shardloop {
namespace {

constexpr size_t kWhole = 16 << 10;  // up to here every rank reduces everything

void copy(char* to, const char* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

void StepRunner::run(const Transfer& transfer, std::chrono::nanoseconds spin,
                     SharedSegment::Clock::time_point deadline) {
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

// How many steps there are, and the bytes of a piece: of a rank's part for reduce_scatter, where a slot holds the
// parts of all ranks; else of a slot.
uint32_t StepRunner::plan() {
  piece_ = SharedSegment::kSlotBytes;
  if (t_->kind == kReduceScatter) piece_ = piece_ / size_ / 16 * 16;
  two_phases_ = t_->kind == kAllReduce && t_->bytes > kWhole && size_ > 1;
  if (two_phases_) piece_ = std::min(piece_, (t_->bytes + 1) / 2 / 16 * 16 + 16);
  pieces_ = std::max<size_t>(1, (t_->bytes + piece_ - 1) / piece_);
  lag_ = SharedSegment::kAhead;
  if (two_phases_) lag_ = std::min<uint32_t>(lag_, static_cast<uint32_t>(pieces_));
  return static_cast<uint32_t>(two_phases_ ? 2 * pieces_ : pieces_);
}

StepRunner::Range StepRunner::piece(size_t index) const {
  const size_t begin = std::min(index * piece_, t_->bytes);
  return {begin, std::min(piece_, t_->bytes - begin)};
}
// A rank's share of a piece, in whole elements.
StepRunner::Range StepRunner::share(Range of, int rank) const {
  const size_t elements = of.bytes / t_->width;
  const size_t begin = elements * rank / size_ * t_->width, end = elements * (rank + 1) / size_ * t_->width;
  return {begin, end - begin};
}
// The phase and the piece of a step of two phases; see above.
std::pair<bool, size_t> StepRunner::phase(uint32_t step) const {
  if (step < lag_) return {false, step};
  const size_t behind = step - lag_;
  if (step >= 2 * pieces_ - lag_) return {true, step - pieces_};
  return behind % 2 == 0 ? std::pair(true, behind / 2) : std::pair(false, lag_ + behind / 2);
}

void StepRunner::write(uint32_t step, char* slot) {
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

void StepRunner::read(uint32_t step, uint32_t at) {
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
void StepRunner::reduce(Range range, uint32_t at, size_t offset, const char* in, char* out) {
  for (int from = 0; from < size_; ++from)
    sources_[from] = from == rank_ ? in + range.begin : segment_.slot(from, at) + offset;
  t_->reduction(out + range.begin, sources_.data(), size_, range.bytes / t_->width, t_->average);
}

}  // namespace shardloop
