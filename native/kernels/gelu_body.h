// The code of gelu.h, included once for each instruction set, with SHARDLOOP_KERNELS as the name of the table.
#include "blocks.h"
#include "gelu.h"
#include "rows.h"

namespace shardloop {
namespace {

constexpr float kTwice = 1.59576912f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

// The share of x that passes, s = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), as 1 / (1 + e^(-2u)); and
// s (1 - s), without the cancellation that 1 - s would have.
struct Share {
  float passes, bend;
};

inline Share share(float x) {
  const float twice = kTwice * x * (1 + kCubic * x * x);
  const float e = exponential(twice < 0 ? twice : -twice);
  const float large = 1 / (1 + e), small = e * large;
  return {twice < 0 ? small : large, small * large};
}

inline float slope(float x) {
  const Share s = share(x);
  const float rate = kTwice * (1 + 3 * kCubic * x * x);
  // Where there is no bend left the cubic may be infinite.
  return s.passes + (s.bend == 0 ? 0 : x * s.bend * rate);
}

template <class Each>
void blocks(int64_t n, Kind kind, const Each& each) {
  const int64_t bytes = kind == Kind::f32 ? 4 : 2;
  for (int64_t from = 0; from < n; from += kBlock) each(from * bytes, n - from < kBlock ? n - from : kBlock);
}

// A block's results on their way: into `buffer`, or where they belong if that is float.
float* results(void* at, Kind kind, float* buffer) { return kind == Kind::f32 ? static_cast<float*>(at) : buffer; }

void forward(const void* x, void* y, int64_t n, Kind kind) {
  blocks(n, kind, [&](int64_t at, int64_t count) {
    alignas(64) float in[kBlock], out[kBlock];
    const float* a = opened(const_cast<char*>(static_cast<const char*>(x)) + at, kind, in, count);
    char* place = static_cast<char*>(y) + at;
    float* b = results(place, kind, out);
    for (int64_t i = 0; i < count; ++i) b[i] = a[i] * share(a[i]).passes;
    written(b, place, kind, count);
  });
}

void backward(const void* gradient, const void* x, void* to, int64_t n, Kind kind) {
  blocks(n, kind, [&](int64_t at, int64_t count) {
    alignas(64) float slopes[kBlock], in[kBlock], out[kBlock];
    const float* g = opened(const_cast<char*>(static_cast<const char*>(gradient)) + at, kind, slopes, count);
    const float* a = opened(const_cast<char*>(static_cast<const char*>(x)) + at, kind, in, count);
    char* place = static_cast<char*>(to) + at;
    float* b = results(place, kind, out);
    for (int64_t i = 0; i < count; ++i) b[i] = g[i] * slope(a[i]);
    written(b, place, kind, count);
  });
}

}  // namespace

extern const GeluKernels SHARDLOOP_KERNELS;
const GeluKernels SHARDLOOP_KERNELS = {&forward, &backward};

}  // namespace shardloop
