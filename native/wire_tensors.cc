#include "wire_tensors.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdint>

#include "error.h"

namespace shardloop {

void check(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != at::kStrided || !tensor.is_contiguous())
    throw Error("BAD_ARGUMENT", "a collective needs a contiguous, dense tensor");
  if (tensor._is_zerotensor()) throw Error("BAD_ARGUMENT", "a collective needs memory, and this zero has none");
  if (tensor.is_conj() || tensor.is_neg())
    throw Error("BAD_ARGUMENT", "a collective sends memory as it is, and this is a lazily conjugated or negated view");
}

std::vector<at::Tensor> checked(at::TensorList list) {
  auto tensors = list.vec();
  for (const at::Tensor& tensor : tensors) check(tensor);
  return tensors;
}

void check_shards(const std::vector<at::Tensor>& wholes, const std::vector<at::Tensor>& shards, int size) {
  if (wholes.size() != shards.size() || wholes.empty())
    throw Error("BAD_ARGUMENT", "there must be as many whole tensors as shards, and at least one");
  for (size_t i = 0; i < wholes.size(); ++i) {
    check(wholes[i]);
    check(shards[i]);
    if (wholes[i].scalar_type() != shards[i].scalar_type() || wholes[i].numel() != shards[i].numel() * size)
      throw Error("BAD_ARGUMENT", "the whole tensor must hold size times the shard's elements, in the same dtype");
  }
}

void check_apart(at::TensorList written, at::TensorList read, int own, int size) {
  if (written.size() + read.size() < 2) return;
  struct Span {
    uintptr_t begin, end;
    bool is_written;
  };
  const auto span_of = [](const at::Tensor& tensor, bool is_written) {
    if (!tensor.has_storage() || tensor.is_meta()) return Span{0, 0, is_written};
    const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    return Span{begin, begin + tensor.nbytes(), is_written};
  };
  std::vector<Span> spans;
  for (const at::Tensor& tensor : written) spans.push_back(span_of(tensor, true));
  for (size_t i = 0; i < read.size(); ++i) {
    Span span = span_of(read[i], false);
    if (own >= 0 && i < written.size()) {
      const bool is_whole = span.end - span.begin >= spans[i].end - spans[i].begin;
      const Span whole = is_whole ? span : spans[i], part = is_whole ? spans[i] : span;
      const auto bytes = part.end - part.begin;
      if (part.begin == whole.begin + own * bytes && whole.end - whole.begin == size * bytes) {
        spans[i] = {whole.begin, whole.end, true};
        continue;
      }
    }
    spans.push_back(span);
  }
  std::erase_if(spans, [](const Span& span) { return span.begin == span.end; });
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  uintptr_t end = 0, end_of_written = 0;
  for (const Span& span : spans) {
    if (span.begin < (span.is_written ? end : end_of_written)) {
      if (read.empty()) throw Error("BAD_ARGUMENT", "the tensors share memory, and each of them is written to");
      if (own < 0) throw Error("BAD_ARGUMENT", "the output shares memory with the input; pass an output of its own");
      throw Error("BAD_ARGUMENT",
                  "an output shares memory with an input or with another output; only this rank's own part of the "
                  "whole may do so, exactly in its place. Pass tensors of their own");
    }
    end = std::max(end, span.end);
    if (span.is_written) end_of_written = std::max(end_of_written, span.end);
  }
}

at::Tensor carried(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kHalf:
    case at::kBFloat16:
    case at::kChar:
    case at::kByte:
    case at::kInt:
    case at::kLong:
    case at::kBool: return tensor.detach();
    default: break;
  }
  at::NoGradGuard no_grad;
  const at::Tensor plain = tensor.is_complex() ? at::view_as_real(tensor.detach()) : tensor.detach();
  if (plain.dim() > 0) return plain.view(at::kByte);
  return plain.view({1}).view(at::kByte);
}

std::vector<at::Tensor> parts(const at::Tensor& whole, int size) {
  at::NoGradGuard no_grad;
  const at::Tensor flat = whole.detach().view(-1);
  const int64_t each = flat.numel() / size;
  std::vector<at::Tensor> result;
  for (int i = 0; i < size; ++i) result.push_back(flat.narrow(0, i * each, each));
  return result;
}

}  // namespace shardloop
