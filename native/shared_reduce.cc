// The loops behind shared_reduce.h, one for each dtype and operation.
#include "shared_reduce.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <type_traits>

namespace shardloop {
namespace {

constexpr size_t kBlock = 1024;  // elements that are added up in the first-level cache

// Integers wrap around, as everywhere in libtorch, instead of being undefined.
struct Sum {
  template <typename T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
    } else {
      return a + b;
    }
  }
};
struct Product {
  template <typename T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    } else {
      return a * b;
    }
  }
};
// Whatever comes first stays when nothing is smaller (greater), as in Gloo; so a NaN does.
struct Min {
  template <typename T>
  static T apply(T a, T b) {
    return b < a ? b : a;
  }
};
struct Max {
  template <typename T>
  static T apply(T a, T b) {
    return a < b ? b : a;
  }
};

// The loops stand alone so that the compiler can use vectors without asking whether pointers meet: `out` is either the
// very pointer of a source or apart from all.
template <typename Op, typename T, typename Wide>
void reduce(void* out_memory, const void* const* sources, int count, size_t elements, bool average) {
  T* out = static_cast<T*>(out_memory);
  const auto source = [&](int rank) { return static_cast<const T*>(sources[rank]); };
  Wide block[kBlock];
  for (size_t start = 0; start < elements; start += kBlock) {
    const size_t n = std::min(kBlock, elements - start);
    const T* first = source(0) + start;
    const T* second = source(count > 1 ? 1 : 0) + start;
    if (count == 1) {
      for (size_t i = 0; i < n; ++i) block[i] = static_cast<Wide>(first[i]);
    } else {
      for (size_t i = 0; i < n; ++i) block[i] = Op::apply(static_cast<Wide>(first[i]), static_cast<Wide>(second[i]));
    }
    for (int rank = 2; rank < count; ++rank) {
      const T* next = source(rank) + start;
      for (size_t i = 0; i < n; ++i) block[i] = Op::apply(block[i], static_cast<Wide>(next[i]));
    }
    if (average) {
      for (size_t i = 0; i < n; ++i) block[i] = block[i] / static_cast<Wide>(count);
    }
    for (size_t i = 0; i < n; ++i) out[start + i] = static_cast<T>(block[i]);
  }
}

template <typename T, typename Wide = T>
Reduction of_dtype(c10d::ReduceOp::RedOpType op) {
  switch (op) {
    case c10d::ReduceOp::SUM: return &reduce<Sum, T, Wide>;
    case c10d::ReduceOp::AVG: return std::is_integral_v<T> ? nullptr : &reduce<Sum, T, Wide>;
    case c10d::ReduceOp::PRODUCT: return &reduce<Product, T, Wide>;
    case c10d::ReduceOp::MIN: return &reduce<Min, T, Wide>;
    case c10d::ReduceOp::MAX: return &reduce<Max, T, Wide>;
    default: return nullptr;
  }
}

}  // namespace

Reduction find_reduction(at::ScalarType dtype, c10d::ReduceOp::RedOpType op) {
  switch (dtype) {
    case at::kFloat: return of_dtype<float>(op);
    case at::kDouble: return of_dtype<double>(op);
    case at::kHalf: return of_dtype<c10::Half, float>(op);
    case at::kBFloat16: return of_dtype<c10::BFloat16, float>(op);
    case at::kChar: return of_dtype<int8_t>(op);
    case at::kByte: return of_dtype<uint8_t>(op);
    case at::kInt: return of_dtype<int32_t>(op);
    case at::kLong: return of_dtype<int64_t>(op);
    case at::kBool: return op == c10d::ReduceOp::MIN || op == c10d::ReduceOp::MAX ? of_dtype<uint8_t>(op) : nullptr;
    default: return nullptr;
  }
}

}  // namespace shardloop
