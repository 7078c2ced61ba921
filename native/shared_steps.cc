// The steps of each collective in shared memory (shared_segment.h). All are made of two exchanges: a reduction, in
// which each rank combines its part of what all give, and a gather, in which it gets what some give behind each other.
// What is larger than a slot goes in pieces, of which kAhead are on their way, so that ranks need not go in lock step.
// A gather of more than kSmall reads the inputs where they lie, in the memory of the other processes, which copies once
// instead of twice. Reductions go through the slots at any size: a copy from process to process, reduced afterwards,
// takes longer.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "shared_segment.h"

namespace shardloop {
namespace {

using Op = c10d::ReduceOp;

constexpr size_t kBlock = 1024;  // elements that are combined in the first-level cache

void copy(char* to, const char* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

// out[i] = sources[0][i] op sources[1][i] op ..., in this order on every rank, so that all of them get the same bits.
// `out` may be one of the sources. Short floating-point numbers are combined in float32 and rounded once. Integers wrap
// around (-fwrapv). The block stands apart from all pointers, so that the compiler can use vectors without asking.
template <typename T, typename Combine>
void combine(const std::vector<const char*>& sources, char* out_bytes, size_t elements, bool average, Combine op) {
  using Wide = at::opmath_type<T>;
  const auto source = [&](size_t rank) { return reinterpret_cast<const T*>(sources[rank]); };
  T* const out = reinterpret_cast<T*>(out_bytes);
  Wide block[kBlock];
  for (size_t start = 0; start < elements; start += kBlock) {
    const size_t n = std::min(kBlock, elements - start);
    const T *first = source(0) + start, *second = source(1) + start;
    for (size_t i = 0; i < n; ++i) block[i] = op(static_cast<Wide>(first[i]), static_cast<Wide>(second[i]));
    for (size_t rank = 2; rank < sources.size(); ++rank) {
      const T* next = source(rank) + start;
      for (size_t i = 0; i < n; ++i) block[i] = op(block[i], static_cast<Wide>(next[i]));
    }
    if (average)
      for (size_t i = 0; i < n; ++i) block[i] /= static_cast<Wide>(sources.size());
    for (size_t i = 0; i < n; ++i) out[start + i] = static_cast<T>(block[i]);
  }
}

void combine(const Header& header, const std::vector<const char*>& sources, char* out, size_t bytes) {
  const size_t elements = bytes / c10::elementSize(header.dtype);
  const bool average = header.op == Op::AVG;
  const auto dtype = header.dtype == at::kBool ? at::kByte : header.dtype;  // min and max alone, of zeros and ones
  AT_DISPATCH_ALL_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "shm", [&] {
    const auto with = [&](auto op) { combine<scalar_t>(sources, out, elements, average, op); };
    // Of those that compare, whatever comes first stays when nothing is smaller (greater), as in Gloo; so a NaN does.
    if (header.op == Op::MIN) return with([](auto a, auto b) { return b < a ? b : a; });
    if (header.op == Op::MAX) return with([](auto a, auto b) { return a < b ? b : a; });
    if (header.op == Op::PRODUCT) return with(std::multiplies<>());
    with(std::plus<>());
  });
}

}  // namespace

bool is_reduced(at::ScalarType dtype, Op::RedOpType op) {
  const bool real = dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
  if (dtype == at::kBool) return op == Op::MIN || op == Op::MAX;
  return op <= Op::MAX && (real || (dtype <= at::kLong && op != Op::AVG));
}

// Each rank writes the parts that others take into its slot, piece by piece; kAhead pieces behind it takes its own part
// of what all wrote, and combines it or lays it side by side.
void SharedSegment::through_slots(const Exchange& e) {
  const size_t piece = kSlotBytes / e.parts / 64 * 64;
  const auto steps = static_cast<uint32_t>(std::max<size_t>(1, (e.bytes + piece - 1) / piece));
  const int own = e.parts == 1 ? 0 : rank_;
  const bool gives = e.reduces || (e.first <= rank_ && rank_ <= e.last);
  const uint32_t start = step_;
  std::vector<const char*> sources(size_);
  for (uint32_t step = 0; step < steps + kAhead; ++step) {
    if (step >= kAhead) {
      const size_t begin = (step - kAhead) * piece, n = std::min(piece, e.bytes - begin);
      wait(start + step - kAhead + 1);
      for (int from = 0; from < size_; ++from)
        sources[from] = from == rank_ ? e.in + own * e.bytes + begin : slot(from, start + step - kAhead) + own * piece;
      if (e.reduces) combine(given(rank_).header, sources, e.out + begin, n);
      for (int from = e.first; from <= e.last; ++from) copy(e.place(from) + begin, sources[from], n);
    }
    if (step < steps) {
      const size_t begin = step * piece, n = std::min(piece, e.bytes - begin);
      for (int part = 0; gives && part < e.parts; ++part)
        if (e.parts == 1 || part != own) copy(slot(rank_, step_) + part * piece, e.in + part * e.bytes + begin, n);
      publish();
    }
  }
}

// From the memory of the others, which all meet before, when every input is there, and behind, when nobody reads any
// more. False: one rank's cannot be read.
bool SharedSegment::directly(const Exchange& e) {
  publish();
  if (e.first <= rank_ && rank_ <= e.last) copy(e.place(rank_), e.in, e.bytes);
  wait(step_);
  for (int rank = 0; rank < size_; ++rank)
    if (!given(rank).in_reach) return false;
  for (int from = e.first; from <= e.last; ++from)
    if (from != rank_ && !read_memory(from, given(from).in, e.place(from), e.bytes))
      throw std::runtime_error("Connection closed by peer: the memory of rank " + std::to_string(from) +
                               " of the group cannot be read");
  // What was read from one that has given up meanwhile is nothing to rely on.
  for (int other = 0; other < size_; ++other)
    if (const std::string reason = other == rank_ ? "" : why_not(other); !reason.empty())
      throw std::runtime_error(reason);
  publish();
  wait(step_);
  return true;
}

void SharedSegment::run(const Transfer& t, std::chrono::nanoseconds spin, Clock::time_point deadline) {
  spin_ = spin;
  deadline_ = deadline;
  const auto& [kind, op, dtype, root, bytes] = t.header;
  // A large all_reduce of three ranks or more is a reduction of parts and then a gather of them, but for the last few
  // bytes. Between two ranks, each reads as much either way.
  const bool in_parts = kind == kAllReduce && bytes > kSmall && size_ > 2;
  const size_t part = in_parts ? bytes / size_ / 64 * 64 : 0, whole = part * size_;
  char* const mine = t.out + rank_ * part;
  first_step_ = step_;
  ++operation_;
  given(rank_) = {t.header, in_parts ? mine : t.in, t.out, t.in_reach && reads_};
  const auto gather = [&](const Exchange& e) {
    if (e.bytes <= kSmall || !directly(e)) through_slots(e);
  };
  if (in_parts) {
    through_slots({.reduces = true, .in = t.in, .out = mine, .bytes = part, .parts = size_});
    gather({.in = mine, .out = t.out, .bytes = part, .last = size_ - 1});
  }
  if (kind == kAllReduce)
    through_slots({.reduces = true, .in = t.in + whole, .out = t.out + whole, .bytes = bytes - whole});
  else if (kind == kReduceScatter)
    through_slots({.reduces = true, .in = t.in, .out = t.out, .bytes = bytes, .parts = size_});
  else if (kind == kBroadcast)
    gather({.in = t.in, .out = t.out, .bytes = bytes, .first = root, .last = root});
  else
    gather({.in = t.in, .out = t.out, .bytes = bytes, .last = size_ - 1});
}

}  // namespace shardloop
