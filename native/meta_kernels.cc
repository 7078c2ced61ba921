// Shapes of results on meta tensors for the operators that libtorch describes in Python only. A training step on meta
// tensors needs them: it is how a plan learns what the step will take (memory.cc counts what meta tensors would hold).
// An operator that a libtorch describes itself keeps its own kernel.
#include <ATen/AccumulateType.h>
#include <ATen/Functions.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

namespace shardloop {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor index_select(const Tensor& self, int64_t dim, const Tensor& index) {
  auto sizes = self.sizes().vec();
  if (!sizes.empty()) sizes[at::maybe_wrap_dim(dim, self.dim())] = index.numel();
  return at::empty(sizes, self.options());
}

Tensor embedding_dense_backward(const Tensor& gradient, const Tensor&, c10::SymInt rows, c10::SymInt, bool) {
  return at::empty({rows.expect_int(), gradient.size(-1)}, gradient.options());
}

using Three = std::tuple<Tensor, Tensor, Tensor>;

Three native_layer_norm(const Tensor& input, c10::SymIntArrayRef shape, const OptionalTensor&, const OptionalTensor&,
                        double) {
  auto sizes = input.sizes().vec();
  for (size_t i = sizes.size() - shape.size(); i < sizes.size(); ++i) sizes[i] = 1;
  const auto statistics = at::empty(sizes, input.options().dtype(at::toAccumulateType(input.scalar_type(), true)));
  return {at::empty(input.sizes(), input.options()), statistics, at::empty_like(statistics)};
}

Three native_layer_norm_backward(const Tensor&, const Tensor& input, c10::SymIntArrayRef, const Tensor&, const Tensor&,
                                 const OptionalTensor& weight, const OptionalTensor& bias, std::array<bool, 3> wanted) {
  const auto like = [](bool want, const OptionalTensor& tensor) {
    return want && tensor && tensor->defined() ? at::empty(tensor->sizes(), tensor->options()) : Tensor();
  };
  return {like(wanted[0], input), like(wanted[1], weight), like(wanted[2], bias)};
}

std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double, std::optional<bool>) {
  return {at::empty_like(input), at::empty(input.sizes(), input.options().dtype(at::kBool))};
}

Tensor native_dropout_backward(const Tensor& gradient, const Tensor&, double) { return at::empty_like(gradient); }

using Attention = std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>;

// query (B, H, T, D) -> output (B, H, T, D) and logsumexp (B, H, T); the rest is for kernels that drop.
Attention flash_attention(const Tensor& query, const Tensor& key, const Tensor&, double, bool, bool,
                          std::optional<double>) {
  const auto output = at::empty_like(query);
  const auto logsumexp = at::empty(query.sizes().slice(0, 3), query.options().dtype(at::kFloat));
  const auto none = at::empty({0}, query.options());
  return {output, logsumexp, Tensor(), Tensor(), query.sym_size(2), key.sym_size(2), none, none, none};
}

Three flash_attention_backward(const Tensor&, const Tensor& query, const Tensor& key, const Tensor& value,
                               const Tensor&, const Tensor&, const Tensor&, const Tensor&, c10::SymInt, c10::SymInt,
                               double, bool, const Tensor&, const Tensor&, std::optional<double>) {
  return {at::empty_like(query), at::empty_like(key), at::empty_like(value)};
}

Tensor& abs_out(const Tensor& self, Tensor& out) { return const_cast<Tensor&>(out.resize_(self.sizes())); }

// `name` may have an overload: "abs.out".
template <typename Function>
void describe(torch::Library& library, const std::string& name, Function function) {
  const size_t dot = name.find('.');
  const std::string overload = dot == std::string::npos ? "" : name.substr(dot + 1);
  const auto known = c10::Dispatcher::singleton().findSchema({"aten::" + name.substr(0, dot), overload});
  if (known && !known->hasKernelForDispatchKey(c10::DispatchKey::Meta)) library.impl(name.c_str(), function);
}

// Lives as long as the addon does: dropping it would take the kernels back.
[[maybe_unused]] const auto* const library = [] {
  auto* aten = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
  describe(*aten, "index_select", &index_select);
  describe(*aten, "abs.out", &abs_out);
  describe(*aten, "embedding_dense_backward", &embedding_dense_backward);
  describe(*aten, "native_layer_norm", &native_layer_norm);
  describe(*aten, "native_layer_norm_backward", &native_layer_norm_backward);
  describe(*aten, "native_dropout", &native_dropout);
  describe(*aten, "native_dropout_backward", &native_dropout_backward);
  describe(*aten, "_scaled_dot_product_flash_attention", &flash_attention);
  describe(*aten, "_scaled_dot_product_flash_attention_backward", &flash_attention_backward);
  return aten;
}();

}  // namespace
}  // namespace shardloop
