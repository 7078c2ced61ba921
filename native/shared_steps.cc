// The steps of each collective; see shared_steps.h. Two ways:
//   through slots   a rank writes its slot and reads those of all; what is larger than a slot goes in pieces, of which
//                   kAhead are on their way, so that ranks need not go in lock step
//   directly        all_gather and broadcast of more than kSmall: a rank reads the inputs where they lie, in the memory
//   of
//                   the other processes, which copies once instead of twice. All meet before, when every input is
//                   there, and behind, when nobody reads any more. Where one rank's kernel refuses, all go through the
//                   slots.
// Reductions go through the slots at any size: a copy from process to process, reduced afterwards, takes longer.
#include "shared_steps.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace shardloop {
namespace {

void copy(char* to, const char* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

struct Run {
  SharedSegment& segment;
  const Transfer& t;
  const std::chrono::nanoseconds spin;
  const SharedSegment::Clock::time_point deadline;
  const int rank = segment.rank(), size = segment.size();
  std::vector<const void*> sources = std::vector<const void*>(size);

  // Where `in` ends in reductions, else `out`.
  size_t end() const {
    const bool whole = t.header.kind == kAllReduce || t.header.kind == kBroadcast;
    return whole ? t.header.bytes : t.header.bytes * size;
  }
  // What of n bytes at `begin` lies before `end`.
  static size_t clip(size_t n, size_t begin, size_t end) { return begin < end ? std::min(n, end - begin) : 0; }

  void wait(uint32_t count) { segment.wait(count, spin, deadline); }

  // write(slot, begin, n) for each piece, and behind it read(step, begin, n).
  template <typename Write, typename Read>
  void through_slots(size_t bytes, size_t piece, const Write& write, const Read& read) {
    constexpr uint32_t kAhead = SharedSegment::kAhead;
    const auto steps = static_cast<uint32_t>(std::max<size_t>(1, (bytes + piece - 1) / piece));
    const uint32_t first = segment.published();
    const auto n = [&](uint32_t step) { return std::min(piece, bytes - step * piece); };
    for (uint32_t step = 0; step < steps + kAhead; ++step) {
      if (step >= kAhead) {
        const uint32_t behind = step - kAhead;
        wait(first + behind + 1);
        read(first + behind, behind * piece, n(behind));
      }
      if (step < steps) {
        write(segment.slot(rank, first + step), step * piece, n(step));
        segment.publish();
      }
    }
  }

  // out = `in`, which is this rank's, with the slots of the others at `offset`, in the order of the ranks.
  void reduce(uint32_t step, size_t offset, const char* in, char* out, size_t bytes) {
    for (int from = 0; from < size; ++from) sources[from] = from == rank ? in : segment.slot(from, step) + offset;
    t.reduction(out, sources.data(), size, bytes / t.width, t.average);
  }

  // Every rank reduces everything.
  void reduce_all() {
    through_slots(
        t.header.bytes, SharedSegment::kSlotBytes,
        [&](char* slot, size_t begin, size_t n) { copy(slot, t.in + begin, n); },
        [&](uint32_t step, size_t begin, size_t n) { reduce(step, 0, t.in + begin, t.out + begin, n); });
  }

  // Rank r reduces part r into `out`. A slot holds a piece of each part.
  void reduce_part(char* out, size_t part) {
    const size_t piece = SharedSegment::kSlotBytes / size / 16 * 16;
    through_slots(
        part, piece,
        [&](char* slot, size_t begin, size_t n) {
          for (int to = 0; to < size; ++to)
            if (to != rank) copy(slot + to * piece, t.in + to * part + begin, clip(n, to * part + begin, end()));
        },
        [&](uint32_t step, size_t begin, size_t n) {
          const size_t at = rank * part + begin;
          reduce(step, rank * piece, t.in + at, out + begin, clip(n, at, end()));
        });
  }

  // `part` bytes of each rank that gives, behind each other into out: the inputs, or the parts of all_reduce.
  void gather(size_t part) {
    const uint32_t kind = t.header.kind;
    const auto gives = [&](int from) { return kind != kBroadcast || from == static_cast<int>(t.header.root); };
    const auto place = [&](int from) { return kind == kBroadcast ? 0 : std::min(from * part, end()); };
    const auto input = [&](int from) { return kind == kAllReduce ? place(from) : 0; };
    const auto most = [&](int from) { return std::min(part, end() - place(from)); };
    if (part > kSmall) {
      segment.publish();
      if (gives(rank)) copy(t.out + place(rank), t.in + input(rank), most(rank));
      wait(segment.published());
      if (segment.in_reach()) {
        for (int from = 0; from < size; ++from)
          if (from != rank && gives(from)) segment.read(from, input(from), t.out + place(from), most(from));
        segment.check_reads(deadline);
        segment.publish();
        return wait(segment.published());
      }
    }
    through_slots(
        part, SharedSegment::kSlotBytes,
        [&](char* slot, size_t begin, size_t n) {
          if (gives(rank)) copy(slot, t.in + input(rank) + begin, clip(n, begin, most(rank)));
        },
        [&](uint32_t step, size_t begin, size_t n) {
          for (int from = 0; from < size; ++from) {
            const char* in = from == rank ? t.in + input(rank) + begin : segment.slot(from, step);
            if (gives(from)) copy(t.out + place(from) + begin, in, clip(n, begin, most(from)));
          }
        });
  }

  void run() {
    const size_t bytes = t.header.bytes;
    segment.begin(t.header, t.in_reach ? t.in : nullptr);
    switch (t.header.kind) {
      case kAllReduce: {
        // Between two ranks, each reads as much either way.
        if (bytes <= kSmall || size == 2) return reduce_all();
        const size_t part = (bytes / t.width + size - 1) / size * t.width;
        reduce_part(t.out + std::min(rank * part, bytes), part);
        return gather(part);
      }
      case kReduceScatter: return reduce_part(t.out, bytes);
      case kAllGather:
      case kBroadcast: return gather(bytes);
      case kBarrier:
        return through_slots(
            0, 1, [](char*, size_t, size_t) {}, [](uint32_t, size_t, size_t) {});
    }
  }
};

}  // namespace

void run(SharedSegment& segment, const Transfer& transfer, std::chrono::nanoseconds spin,
         SharedSegment::Clock::time_point deadline) {
  Run{segment, transfer, spin, deadline}.run();
}

}  // namespace shardloop
